"""A plain script."""

from __future__ import annotations

import pytest


def test_the_default_engine_needs_no_care(hosts):
    ended = hosts.run('script.py', 'default')
    assert (ended.code, ended.out) == (0, 'done\nleft: []\n')
    unfinished = [node for node in hosts.nodes() if not node.is_terminated]
    assert len(unfinished) <= 1
    assert ('1 submitted process(es) have not ended' in ended.err) == bool(unfinished)
    assert bool(ended.err) == bool(unfinished)


@pytest.mark.parametrize('how', ['context', 'unstopped'])
def test_an_engine_of_its_own(hosts, how):
    ended = hosts.run('script.py', how, hosts.store)
    assert (ended.code, ended.out, ended.err) == (0, 'done\nleft: []\n', '')
