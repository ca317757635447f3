"""Engines die over a job, wherever they are; it runs once, and its result arrives."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from treadle.engine.faults import FaultPoint

#: What an engine comes by on the way of a job that nobody kills.
ON_THE_WAY = [
    point for point in FaultPoint if point.startswith('job.') and point not in ('job.cancelling', 'job.cancelled')
]


@pytest.mark.parametrize('point', ON_THE_WAY, ids=str)
def test_kill_at(place: Any, point: FaultPoint) -> None:
    pid = place.kill_at(point)
    with place.engine() as engine:
        node = engine.wait(pid, timeout=40)
        assert node.is_finished_ok, node.exit_message
        assert node.outputs.files.result.read_text() == 'done\n'
    assert place.runs() == place.submitted() == 1


@pytest.mark.parametrize(
    ('point', 'hit'),
    [('step.posted', 1), ('step.committed', 1), *(('store.batch-committed', hit) for hit in range(1, 7))],
)
def test_kill_around_the_commits_of_a_job(place: Any, point: str, hit: int) -> None:
    pid = place.kill_at(point, hit, act='kill' if point.startswith('step.') else 'kill-once-submitted')
    with place.engine() as engine:
        assert engine.wait(pid, timeout=40).is_finished_ok
    assert place.runs() == place.submitted() == 1


@pytest.mark.parametrize('point', ['job.uploaded', 'job.submitting', 'job.accepted'])
def test_a_stopped_engine_wakes_up_too_late(place: Any, point: str, wait_until: Any) -> None:
    """Stopped, taken over, and let go on: the job runs once all the same."""
    victim = place.start_victim('stop', point, lease=1.0)
    try:
        assert victim.stdout is not None
        pid = int(victim.stdout.readline().split()[1])
        wait_until(lambda: _state_of(victim.pid) == 'T')
        with place.engine(lease=1.0) as engine:
            node = engine.wait(pid, timeout=40)
            assert node.is_finished_ok, node.exit_message
            os.kill(victim.pid, signal.SIGCONT)
            assert victim.stdout.readline() == 'ended finished\n'
            assert victim.wait(30) == 0
    finally:
        victim.kill()
        victim.communicate()
    assert place.runs() == place.submitted() == 1


@pytest.mark.parametrize('point', ON_THE_WAY, ids=str)
def test_killed_and_the_engine_dies_too(place: Any, point: FaultPoint, wait_until: Any) -> None:
    """The process is killed while its engine is dead: nothing of the job is left that runs, or will."""
    from treadle.engine.store.control import write_once
    from treadle.engine.store.intents import kill
    from treadle.engine.store.location import locate

    over = point in ('job.ended', 'job.end-committed', 'job.fetched', 'job.retrieved')
    pid = place.kill_at(point, command=place.command if over else f'{place.command}; sleep 300')
    if write_once(locate(place.store), lambda transaction: kill(transaction, [pid], 'enough')):
        with place.engine() as engine:
            reader = engine.core.source.reader
            wait_until(lambda: reader.job(pid) is None or reader.job(pid).state in ('gone', 'retrieved'))
            assert engine.load(pid).is_killed
    assert place.running() == []


def _state_of(os_pid: int) -> str:
    with open(f'/proc/{os_pid}/stat') as stat:
        return stat.read().rpartition(')')[2].split()[0]
