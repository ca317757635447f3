"""A ``ThreadPoolExecutor``."""

from __future__ import annotations


def test_many_threads_run_submit_and_wait(hosts):
    ended = hosts.run('thread_pool.py', 'map')
    total = sum(2 * n + (n + 1) + 2 * n for n in range(30))
    assert (ended.code, ended.out, ended.err) == (0, f'{total}\nleft: []\n', '')


def test_the_engines_futures_beside_the_pools(hosts):
    ended = hosts.run('thread_pool.py', 'futures')
    doubled = [0, 2, 4, 6, 8]
    assert (ended.code, ended.out, ended.err) == (0, f'10 0 {doubled}\n{doubled}\nleft: []\n', '')


def test_what_a_pool_still_has_to_do_at_the_exit_is_done(hosts):
    ended = hosts.run('thread_pool.py', 'exit')
    first, *lines, last = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, '')
    assert (first, last) == ('main thread ends', 'left: []') or 'main thread ends' in lines
    assert sorted(int(line) for line in [first, *lines] if line.isdigit()) == [2 * n for n in range(20)]
