"""A coroutine host with a loop of its own, asyncio's or uvloop's."""

from __future__ import annotations

import pytest


@pytest.fixture(params=['asyncio', 'uvloop'])
def loop(request):
    return request.param


def test_awaiting_runs_and_blocking_ones(hosts, loop):
    ended = hosts.run('loop.py', loop, 'many')
    assert (ended.code, ended.out, ended.err) == (0, 'done\nleft: []\n', '')


def test_cancelling_the_await_leaves_the_process_running(hosts, loop, gate):
    host = hosts.begin('loop.py', loop, 'cancelled', str(gate.folder))
    host.wait_for('cancelled')
    gate.open()
    ended = host.end()
    assert (ended.code, ended.out, ended.err) == (0, 'cancelled\nfinished\nleft: []\n', '')


def test_ctrl_c_cancels_the_await_and_leaves_the_process_running(hosts, loop, gate):
    host = hosts.begin('loop.py', loop, 'interrupted', str(gate.folder))
    gate.wait_until_entered()
    host.interrupt()
    assert host.wait_for('interrupted') == 'False'
    gate.open()
    ended = host.end()
    assert (ended.code, ended.out, ended.err) == (0, 'interrupted False\nfinished\nleft: []\n', '')
