"""A batch system that loses replies, lies, hangs, refuses and forgets."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.jobs import HASTY
from treadle.engine import Computer, Engine, Monitor, ShellJob
from treadle.engine.testing import FakeScheduler


@dataclasses.dataclass
class Rig:
    """An engine, a batch system, and what jobs leave behind."""

    engine: Engine
    scheduler: FakeScheduler
    computer: Computer
    folder: Path

    def submit(self, command: str = '', **options: Any) -> Any:
        return self.engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', command or f'echo $$ >>{self.folder}/effects; echo done'],
            metadata={'options': {'computer': self.computer, **options}},
        )

    def runs(self) -> int:
        effects = self.folder / 'effects'
        return len(effects.read_text().split()) if effects.exists() else 0

    def state(self, node: Any) -> str:
        job = self.engine.core.source.reader.job(node.pid)
        return '' if job is None else job.state

    def wait_state(self, node: Any, *states: str) -> None:
        deadline = time.monotonic() + 20
        while self.state(node) not in states:
            assert time.monotonic() < deadline, self.state(node)
            time.sleep(0.02)

    def wait_calls(self, command: str, count: int) -> None:
        """Wait until a command was called so often from now on."""
        before = self.scheduler.calls().count(command)
        deadline = time.monotonic() + 20
        while self.scheduler.calls().count(command) < before + count:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    computer = Computer('fake', scheduler='slurm', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    timing = dataclasses.replace(HASTY, command=2.0)
    with (
        FakeScheduler(tmp_path / 'slurm') as scheduler,
        Engine(f'sqlite:///{tmp_path}/store.db', timing=timing) as engine,
    ):
        yield Rig(engine, scheduler, computer, tmp_path)


def _ends_well_and_once(rig: Rig, node: Any) -> None:
    rig.engine.wait(node, timeout=40)
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.stdout.read_text() == 'done\n'
    assert len(rig.scheduler.jobs()) == rig.runs() == 1


def test_nothing_goes_wrong(rig: Rig) -> None:
    _ends_well_and_once(rig, rig.submit())
    (job,) = rig.scheduler.jobs()
    assert job.name.startswith('treadle-1-1-')


@pytest.mark.parametrize('how', ['break', 'hang', 'unsure'])
@pytest.mark.parametrize('held', [False, True], ids=['started', 'waiting'])
def test_the_reply_to_a_submission_is_lost(rig: Rig, how: Any, held: bool) -> None:
    """Taken, and then the connection breaks, or no answer comes in time: what was taken is found, and nothing else."""
    rig.scheduler.fail('sbatch', how)
    if held:  # so that it is to be found by its name alone
        rig.scheduler.hold()
    node = rig.submit()
    rig.wait_state(node, 'submitted', 'ended', 'retrieved')
    rig.scheduler.release()
    _ends_well_and_once(rig, node)


def test_a_submission_that_nobody_heard_is_made_again(rig: Rig) -> None:
    rig.scheduler.fail('sbatch', 'lost')
    node = rig.submit()
    _ends_well_and_once(rig, node)
    assert rig.engine.core.source.reader.job(node.pid).attempt == 2


def test_nothing_is_submitted_again_while_the_queue_cannot_be_read(rig: Rig) -> None:
    rig.scheduler.fail('sbatch', 'lost')
    rig.scheduler.fail('squeue', 'down', times=1000)
    node = rig.submit()
    rig.wait_state(node, 'submitting')
    rig.wait_calls('squeue', 4)
    time.sleep(HASTY.certain_after + 0.5)
    assert rig.state(node) == 'submitting' and rig.scheduler.jobs() == []
    rig.scheduler.heal()
    _ends_well_and_once(rig, node)


def test_a_refusal_is_an_exit_code(rig: Rig) -> None:
    rig.scheduler.fail('sbatch', 'refuse')
    node = rig.submit(queue_name='nowhere')
    rig.engine.wait(node, timeout=30)
    assert node.exit_status == 130 and 'Invalid partition name specified' in node.exit_message
    assert rig.scheduler.jobs() == []


@pytest.mark.parametrize('how', ['empty', 'garbled', 'down', 'slow'])
def test_a_queue_that_shows_nothing_ends_nothing(rig: Rig, how: Any) -> None:
    go = rig.folder / 'go'
    node = rig.submit(f'until [ -e {go} ]; do sleep 0.05; done; echo >>{rig.folder}/effects x; echo done')
    rig.wait_state(node, 'submitted')
    rig.scheduler.fail('squeue', how, times=3 if how != 'slow' else 1)
    rig.wait_calls('squeue', 5)
    assert rig.state(node) == 'submitted'
    go.touch()
    _ends_well_and_once(rig, node)


def test_a_waiting_job_that_is_not_shown_is_not_over(rig: Rig) -> None:
    """No marker of any kind, and an empty queue: only what scontrol says keeps it from being given up."""
    rig.scheduler.hold()
    node = rig.submit()
    rig.wait_state(node, 'submitted')
    rig.scheduler.fail('squeue', 'empty', times=60)
    time.sleep(HASTY.vanish_after + 0.5)
    assert rig.state(node) == 'submitted'
    rig.scheduler.heal()
    rig.scheduler.release()
    _ends_well_and_once(rig, node)


def test_a_job_that_is_forgotten_is_known_by_its_own_word(rig: Rig) -> None:
    rig.scheduler.hold()
    node = rig.submit()
    rig.wait_state(node, 'submitted')
    (job,) = rig.scheduler.jobs()
    rig.scheduler.fail('squeue', 'down', times=1000)
    rig.scheduler.release()
    deadline = time.monotonic() + 20
    while rig.scheduler.jobs()[0].state != 'COMPLETED':
        assert time.monotonic() < deadline
        time.sleep(0.02)
    rig.scheduler.forget(job.number)
    rig.scheduler.heal()
    _ends_well_and_once(rig, node)


def test_a_job_that_vanishes_is_given_up(rig: Rig) -> None:
    node = rig.submit('sleep 300')
    rig.wait_state(node, 'submitted')
    (job,) = rig.scheduler.jobs()
    rig.scheduler.end(job.number, 'FAILED')
    rig.scheduler.forget(job.number)
    rig.engine.wait(node, timeout=30)
    assert node.exit_status == 142


def test_a_job_that_vanishes_is_given_up_although_it_is_watched(rig: Rig) -> None:
    node = rig.engine.submit(
        ShellJob, command='sleep', arguments=['300'], options={'computer': rig.computer},
        monitors={'blind': Monitor('math:isnan', every=0.1)},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while getattr(rig.engine.core.source.reader.job(node.pid), 'phase', None) != 'running':
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (job,) = rig.scheduler.jobs()
    rig.scheduler.end(job.number, 'FAILED')
    rig.scheduler.forget(job.number)
    rig.engine.wait(node, timeout=30)
    assert node.exit_status == 142


@pytest.mark.parametrize(
    ('state', 'status'),
    [('OUT_OF_MEMORY', 110), ('TIMEOUT', 120), ('NODE_FAIL', 140), ('CANCELLED', 141), ('FAILED', 143)],
)
def test_what_the_scheduler_says_of_the_end(rig: Rig, state: str, status: int) -> None:
    node = rig.submit('echo begun; sleep 300')
    rig.wait_state(node, 'submitted')
    (job,) = rig.scheduler.jobs()
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size for path in rig.folder.glob('work/*/*/stdout')):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    rig.scheduler.end(job.number, state)
    rig.engine.wait(node, timeout=30)
    assert node.exit_status == status, node.exit_message
    assert node.outputs.stdout.read_text() == 'begun\n'


@pytest.mark.parametrize('how', ['down', 'ignore'])
def test_a_cancel_is_repeated_until_the_job_is_gone(rig: Rig, how: Any) -> None:
    node = rig.submit('sleep 300')
    rig.wait_state(node, 'submitted')
    rig.scheduler.fail('scancel', how, times=2)
    rig.engine.kill(node)
    assert node.is_killed
    rig.wait_state(node, 'gone')
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']


@pytest.mark.parametrize('how', ['break', 'hang', 'unsure'])
def test_killed_while_the_reply_is_on_its_way(rig: Rig, how: Any) -> None:
    """The id comes late, or never: what was submitted is found and cancelled."""
    rig.scheduler.hold()
    rig.scheduler.fail('sbatch', how)
    node = rig.submit()
    deadline = time.monotonic() + 20
    while not rig.scheduler.jobs():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rig.engine.kill(node)
    rig.wait_state(node, 'gone')
    rig.scheduler.release()
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED'] and rig.runs() == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize('jobs', [40, pytest.param(100, marks=pytest.mark.soak)])
def test_limits_are_never_exceeded(rig: Rig, jobs: int) -> None:
    """So many jobs, two engines, 5 at once."""
    limited = dataclasses.replace(rig.computer, max_jobs=5)
    with Engine(rig.engine.location.url, claims='all', timing=HASTY) as other:
        nodes = [
            engine.submit(ShellJob, command='true', metadata={'options': {'computer': limited}})
            for _ in range(jobs // 2)
            for engine in (rig.engine, other)
        ]
        for node in nodes:
            rig.engine.wait(node, timeout=200)
            assert node.is_finished_ok, node.exit_message
    assert len(rig.scheduler.jobs()) == jobs
    assert rig.scheduler.most_active() <= 5
