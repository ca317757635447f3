"""Asynchronous tests of a user's own, under pytest-asyncio."""

from __future__ import annotations


def test_a_run_of_pytest(hosts, hosts_folder):
    folder = hosts_folder / 'async_tests'
    ended = hosts.run(
        '-m', 'pytest', '-c', folder / 'pytest.ini', '--rootdir', folder, '-p', 'no:cacheprovider',
        '--import-mode=importlib', folder,
    )
    assert (ended.code, ended.err) == (0, ''), ended.out
    assert ' 8 passed in ' in ended.out
    assert ended.out.endswith('left: []\n')
