"""Jobs of workers in OS processes of their own, on PostgreSQL and RabbitMQ."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Computer, Engine, ShellJob

WORKER = Path(__file__).parents[1] / 'support' / 'job_worker.py'
JOBS = 20


@contextlib.contextmanager
def _worker(**order: Any) -> Iterator[subprocess.Popen[str]]:
    worker = subprocess.Popen(
        [sys.executable, '-P', str(WORKER), json.dumps(order)],
        stdout=subprocess.PIPE,
        text=True,
        env={'PYTHONPATH': str(WORKER.parent)},
    )
    try:
        assert worker.stdout is not None and worker.stdout.readline() == 'working\n'
        yield worker
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.timeout(120)
@pytest.mark.parametrize('point', ['job.submitting', 'job.submitted', 'job.fetched'])
def test_a_worker_of_two_dies(tmp_path: Path, postgres: str, broker: str, point: str) -> None:
    """In the middle of a job, with others around it: the other one takes all of them up, and each runs once."""
    effects = tmp_path / 'effects'
    servers = {'store': postgres, 'broker': broker}
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    with Engine(**servers, name='submitter') as engine:
        engine.core.begin_no_step()
        pids = [
            engine.submit(
                ShellJob,
                command='sh',
                arguments=['-c', f'echo {number} >>{effects}; sleep 0.2; echo {number}'],
                metadata={'options': {'computer': computer}},
            ).pid
            for number in range(JOBS)
        ]
    with (
        _worker(**servers, lease=2.0, dies_at=[point, 3]) as victim,
        _worker(**servers, lease=2.0) as other,
        Engine(**servers, name='waiter') as engine,
    ):
        engine.core.begin_no_step()
        nodes = engine.wait(pids, timeout=100)
        assert victim.wait(0) == -signal.SIGKILL
        for number, node in enumerate(nodes):
            assert node.is_finished_ok, node.exit_message
            assert node.outputs.stdout.read_text() == f'{number}\n'
        other.send_signal(signal.SIGTERM)
        assert other.wait(20) == 0
    assert sorted(map(int, effects.read_text().split())) == list(range(JOBS))
