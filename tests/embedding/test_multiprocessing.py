"""``multiprocessing`` and its pools."""

from __future__ import annotations

import re

import pytest

#: From 3.12 on Python warns of every fork beside threads; what happens after one is what is looked at here.
OF_PYTHON = ('This process:DeprecationWarning',)


@pytest.fixture(params=['fork', 'spawn', 'forkserver'])
def method(request):
    return request.param


def said(ended):
    """What was printed, but for what every OS process says at its end: that nothing is left."""
    lines = ended.out.splitlines()
    assert lines[-1] == 'left: []'
    assert {line for line in lines if line.startswith('left')} == {'left: []'}
    return [line for line in lines if not line.startswith('left')]


def test_children_run_beside_their_parent(hosts, method):
    ended = hosts.run('children.py', method, 'pools', tolerate=OF_PYTHON)
    answers = [2 * n + n + 1 for n in range(6)]
    assert (ended.code, ended.err) == (0, '')
    assert said(ended) == [str(answers)] * 2
    assert all(node.is_finished_ok for node in hosts.nodes())


def test_a_key_and_the_scripts_own_classes_mean_the_same_to_parent_and_children(hosts, method):
    ended = hosts.run('children.py', method, 'key', tolerate=OF_PYTHON)
    assert (ended.code, ended.err) == (0, '')
    assert said(ended) == ['[2, 4, 2, 4] [2, 4]', '[True]', '3']


def test_what_a_child_leaves_unfinished_is_finished_by_its_parent(hosts, method, tmp_path):
    ended = hosts.run('children.py', method, 'submits', str(tmp_path), tolerate=OF_PYTHON)
    assert ended.code == 0
    # What the child says of what it leaves, in whichever way it was started.
    assert re.fullmatch(r'(treadle: \d+ submitted process\(es\) have not ended: .*\n)?', ended.err)
    assert said(ended) == ['child 0', str(sum(2 * n for n in range(20)))]
    assert hosts.engines_ended() == ['stopped', 'stopped']  # each in an orderly way
