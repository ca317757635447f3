"""A work directory, a batch system or a connection that is away for a while: nothing follows from what is not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.jobs import HASTY
from treadle.engine import CalcInfo, CalcJob, CodeInfo, Computer, Engine, FileTooLarge, Monitor, ShellJob
from treadle.engine.desk.desk import Desk
from treadle.engine.testing import FakeComputers, FakeScheduler
from treadle.engine.transports import Backoff, ConnectionAuthority


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[FakeScheduler]:
    with FakeScheduler(tmp_path / 'slurm') as scheduler:
        yield scheduler


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer('fake', scheduler='slurm', work_directory=str(tmp_path / 'work'), poll_interval=0.1)


@pytest.fixture
def make_engine(tmp_path: Path, scheduler: FakeScheduler) -> Callable[..., Engine]:
    def make(**patience: float) -> Engine:
        return Engine(f'sqlite:///{tmp_path}/store.db', timing=dataclasses.replace(HASTY, **patience))

    return make


def submit(engine: Engine, computer: Computer, command: str, **inputs: Any) -> Any:
    return engine.submit(
        ShellJob, command='sh', arguments=['-c', command], options={'computer': computer}, **inputs
    )


def job_of(engine: Engine, node: Any) -> Any:
    return engine.core.source.reader.job(node.pid)


def is_in(engine: Engine, node: Any, state: str) -> Callable[[], bool]:
    return lambda: getattr(job_of(engine, node), 'state', '') == state


def calls(scheduler: FakeScheduler, command: str, count: int) -> Callable[[], bool]:
    """Whether a command was called so often from now on."""
    before = scheduler.calls().count(command)
    return lambda: scheduler.calls().count(command) >= before + count


def test_a_job_that_ends_while_its_folder_cannot_be_seen_is_retrieved_later(
    make_engine: Any, scheduler: FakeScheduler, computer: Computer, tmp_path: Path, wait_until: Any
) -> None:
    with make_engine() as engine:
        node = submit(engine, computer, f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done')
        wait_until(lambda: getattr(job_of(engine, node), 'phase', '') == 'running')
        (tmp_path / 'work').rename(tmp_path / 'unmounted')
        (tmp_path / 'go').touch()
        wait_until(lambda: scheduler.jobs()[0].state == 'COMPLETED')
        # For longer than an end without a word is waited for.
        wait_until(calls(scheduler, 'squeue', int(HASTY.settle_after / computer.poll_interval) + 5))
        assert is_in(engine, node, 'submitted')()
        assert 'see whether it is mounted' in engine.core.source.reader.computer_note('fake')
        (tmp_path / 'unmounted').rename(tmp_path / 'work')
        engine.wait(node, timeout=40)
        wait_until(lambda: not engine.core.source.reader.computer_note('fake'))
    assert node.is_finished_ok and node.outputs.stdout.read_text() == 'done\n'


def test_nothing_is_submitted_again_while_the_ticket_cannot_be_revoked(
    make_engine: Any, scheduler: FakeScheduler, computer: Computer, tmp_path: Path, wait_until: Any
) -> None:
    scheduler.fail('sbatch', 'lost')
    scheduler.fail('squeue', 'down', times=1000)
    with make_engine() as engine:
        node = submit(engine, computer, 'echo done')
        wait_until(is_in(engine, node, 'submitting'))
        wait_until(calls(scheduler, 'squeue', 2))
        (tmp_path / 'work').rename(tmp_path / 'unmounted')
        scheduler.heal()
        wait_until(lambda: 'see whether it is mounted' in (job_of(engine, node).note or ''))
        assert is_in(engine, node, 'submitting')() and job_of(engine, node).attempt == 1
        assert not (tmp_path / 'work').exists()
        (tmp_path / 'unmounted').rename(tmp_path / 'work')
        engine.wait(node, timeout=40)
        assert job_of(engine, node).attempt == 2
    assert node.is_finished_ok and len(scheduler.jobs()) == 1


def test_a_job_of_a_paused_process_that_was_not_submitted_waits_for_its_turn(
    make_engine: Any, scheduler: FakeScheduler, computer: Computer, wait_until: Any
) -> None:
    scheduler.fail('sbatch', 'lost')
    scheduler.fail('squeue', 'down', times=1000)
    with make_engine() as engine:
        node = submit(engine, computer, 'echo done')
        wait_until(is_in(engine, node, 'submitting'))
        engine.pause(node)
        scheduler.heal()
        wait_until(is_in(engine, node, 'prepared'))
        assert scheduler.jobs() == []
        engine.play(node)
        engine.wait(node, timeout=40)
    assert node.is_finished_ok and len(scheduler.jobs()) == 1


def test_a_silence_counts_only_while_the_scheduler_answers(
    make_engine: Any, scheduler: FakeScheduler, computer: Computer, tmp_path: Path, wait_until: Any
) -> None:
    """As when a master fails over, and comes back without having read all its jobs."""
    with make_engine(vanish_after=6.0) as engine:
        node = submit(engine, computer, f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done')
        wait_until(is_in(engine, node, 'submitted'))
        scheduler.forget(scheduler.jobs()[0].number)
        wait_until(calls(scheduler, 'scontrol', 1))
        scheduler.fail('squeue', 'down', times=1000)
        wait_until(calls(scheduler, 'squeue', 65), 40)
        scheduler.heal()
        wait_until(calls(scheduler, 'scontrol', 1))
        (tmp_path / 'go').touch()
        engine.wait(node, timeout=40)
    assert node.is_finished_ok and node.outputs.stdout.read_text() == 'done\n'


def complains(job: Any, folder: str) -> None:
    with open(f'{folder}/complaints', 'a') as file:
        file.write('.')
    raise FileTooLarge('there is too much to look at')


def test_a_monitor_that_cannot_look_holds_up_nothing(
    make_engine: Any, scheduler: FakeScheduler, computer: Computer, tmp_path: Path, monkeypatch: Any, wait_until: Any
) -> None:
    """Neither the loop, nor a kill."""
    monitor = Monitor(f'{__name__}:complains', every=0.05, kwargs={'folder': str(tmp_path)})
    rounds = []
    next_round = Desk._next_round
    monkeypatch.setattr(Desk, '_next_round', lambda *args: rounds.append(1) or next_round(*args))
    with make_engine(retry_first=120.0, retry_most=120.0) as engine:
        node = submit(engine, computer, 'sleep 300', monitors={'blind': monitor})
        wait_until(lambda: (tmp_path / 'complaints').exists())
        wait_until(lambda: 'too much to look at' in (job_of(engine, node).note or ''))
        before, polled = len(rounds), calls(scheduler, 'squeue', 5)
        wait_until(polled)
        # Each poll asks for some; a loop that turns all the time makes ten between two of them.
        assert len(rounds) - before < 30
        engine.kill(node)
        wait_until(is_in(engine, node, 'gone'))
    assert [job.state for job in scheduler.jobs()] == ['CANCELLED']


class Lists(CalcJob):
    """Lists a folder that was copied from elsewhere on the computer."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('source', valid_type=str)
        spec.output('listing', valid_type=str)

    def prepare_for_submission(self, folder: Any) -> CalcInfo:
        return CalcInfo(
            codes_info=[CodeInfo(executable='find', cmdline_params=['data'], stdout_name='listing')],
            remote_copy_list=[(self.inputs.source, 'data')],
            retrieve_list=['listing'],
        )

    def parse(self, retrieved: Any) -> None:
        self.out('listing', retrieved['listing'].read_text())


@pytest.mark.parametrize('times', [1, 3])
def test_a_copy_there_that_breaks_off_is_begun_anew(
    tmp_path: Path, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    computers, backoff = FakeComputers(tmp_path / 'computers'), Backoff(first=0.1, most=0.3, stable=0.0)
    monkeypatch.setattr(
        'treadle.engine.core.ConnectionAuthority', lambda: ConnectionAuthority(opener=computers, backoff=backoff)
    )
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').touch()
    computers['fake'].fail('run', moment='after', times=times)  # the first of them copies
    computer = Computer('fake', scheduler='slurm', work_directory='work', poll_interval=0.1)
    with Engine(f'sqlite:///{tmp_path}/store.db', timing=HASTY) as engine:
        outputs, node = engine.run_get_node(Lists, source=str(source), options={'computer': computer})
    assert node.is_finished_ok and sorted(outputs['listing'].split()) == ['data', 'data/file']
    assert len(scheduler.jobs()) == 1
