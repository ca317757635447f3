"""Kill and pause, whatever is done about the job at that moment, and whether its computer can be reached or not."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.jobs import HASTY
from treadle.engine import Computer, Engine, ShellJob
from treadle.engine.testing import BlockAt, FakeComputers, FakeScheduler
from treadle.engine.transports import Backoff, ConnectionAuthority


@dataclasses.dataclass
class Rig:
    """An engine, a computer that is not there, and its batch system."""

    make_engine: Callable[..., Engine]
    scheduler: FakeScheduler
    computers: FakeComputers
    folder: Path

    @property
    def there(self) -> Any:
        return self.computers['fake']

    def submit(self, engine: Engine, command: str = 'echo done', max_jobs: int | None = None) -> Any:
        computer = Computer(
            'fake', scheduler='slurm', work_directory='work', poll_interval=0.1, max_jobs=max_jobs
        )
        return engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', command],
            metadata={'options': {'computer': computer}},
        )


def _state(engine: Engine, node: Any) -> str:
    job = engine.core.source.reader.job(node.pid)
    return '' if job is None else job.state


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    computers = FakeComputers(tmp_path / 'computers')
    backoff = Backoff(first=0.1, most=0.3, stable=0.0)
    monkeypatch.setattr(
        'treadle.engine.core.ConnectionAuthority', lambda: ConnectionAuthority(opener=computers, backoff=backoff)
    )

    def make_engine(**kwargs: Any) -> Engine:
        return Engine(f'sqlite:///{tmp_path}/store.db', timing=HASTY, claims='all', **kwargs)

    with FakeScheduler(tmp_path / 'slurm') as scheduler:
        yield Rig(make_engine, scheduler, computers, tmp_path)


@pytest.mark.parametrize(
    ('operation', 'before'),
    [('put_tree', 'uploading'), ('get_tree', 'ended')],
    ids=['uploading', 'retrieving'],
)
def test_kill_in_the_middle_of_a_transfer(rig: Rig, wait_until: Any, operation: str, before: str) -> None:
    gate = rig.there.hold(operation)
    with rig.make_engine() as engine:
        node = rig.submit(engine)
        gate.wait_reached()
        assert _state(engine, node) == before
        engine.kill(node, 'enough')
        assert node.is_killed
        gate.open()
        wait_until(lambda: _state(engine, node) in ('gone', 'retrieved'))
    assert node.is_killed
    assert [job for job in rig.scheduler.jobs() if job.state in ('PENDING', 'RUNNING')] == []


@pytest.mark.parametrize('point', ['job.uploaded', 'job.submitting', 'job.accepted', 'job.submitted'])
def test_kill_at_each_point_of_a_submission(rig: Rig, wait_until: Any, point: str) -> None:
    rig.scheduler.hold()
    with BlockAt(point) as block, rig.make_engine(faults=block) as engine:
        node = rig.submit(engine)
        block.wait_reached()
        engine.kill(node)
        block.release()
        wait_until(lambda: _state(engine, node) == 'gone')
    assert {job.state for job in rig.scheduler.jobs()} <= {'CANCELLED'}


@pytest.mark.parametrize('held', [False, True], ids=['running', 'queued'])
def test_kill_while_the_computer_is_down(rig: Rig, wait_until: Any, held: bool) -> None:
    if held:
        rig.scheduler.hold()
    with rig.make_engine() as engine:
        node = rig.submit(engine, 'sleep 300')
        wait_until(lambda: _state(engine, node) == 'submitted')
        rig.there.is_up = False
        engine.kill(node)
        assert node.is_killed
        wait_until(lambda: engine.core.source.reader.computer_note('fake'))
        assert _state(engine, node) == 'submitted'
        because = engine.why(node)['because']
        assert 'it is to be cancelled there' in because and 'fake is of no use just now' in because
        assert [job.state for job in rig.scheduler.jobs()] == ['PENDING' if held else 'RUNNING']
        rig.there.is_up = True
        wait_until(lambda: _state(engine, node) == 'gone')
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']


@pytest.mark.parametrize(
    ('state', 'operation', 'moment'),
    [
        ('uploading', 'put_tree', 'before'),
        ('uploading', 'put_tree', 'after'),
        ('submitting', 'run', 'before'),
        ('submitting', 'run', 'after'),
        ('ended', 'get_tree', 'before'),
    ],
)
def test_kill_when_the_computer_went_down_in_the_middle(
    rig: Rig, wait_until: Any, state: str, operation: str, moment: Any
) -> None:
    """It is away in the middle of something, done or not, and the process is killed before anybody has noticed."""
    if state == 'submitting':
        rig.scheduler.hold()
    gate = rig.there.hold(operation, moment=moment)
    with rig.make_engine() as engine:
        node = rig.submit(engine)
        gate.wait_reached()
        assert _state(engine, node) == state
        rig.there.is_up = False
        engine.kill(node)
        assert node.is_killed
        gate.open()
        if state == 'submitting':
            wait_until(lambda: engine.core.source.reader.computer_note('fake'))
            # If it was done, its answer may have come in the last moment.
            assert _state(engine, node) == state or (_state(engine, node) == 'submitted' and moment == 'after')
        rig.there.is_up = True
        wait_until(lambda: _state(engine, node) == 'gone')
    states = [job.state for job in rig.scheduler.jobs()]
    assert states == {'uploading': [], 'submitting': ['CANCELLED'] * (moment == 'after'), 'ended': ['COMPLETED']}[state]


def test_kill_with_nothing_running(rig: Rig, wait_until: Any) -> None:
    """Killed when no engine is there; cancelled by the next engine, whichever it is."""
    from treadle.engine.store.control import write_once
    from treadle.engine.store.intents import kill
    from treadle.engine.store.location import locate

    with rig.make_engine() as engine:
        node = rig.submit(engine, 'sleep 300')
        wait_until(lambda: _state(engine, node) == 'submitted')
    write_once(locate(engine.location.url), lambda transaction: kill(transaction, [node.pid], 'from afar'))
    assert node.is_killed
    with rig.make_engine() as another:
        wait_until(lambda: _state(another, node) == 'gone')
        assert another.load(node.pid).is_killed
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']


def test_a_computer_goes_down_and_comes_back(rig: Rig, wait_until: Any) -> None:
    """Jobs in all states, and nobody has to do anything."""
    rig.scheduler.hold()
    with rig.make_engine() as engine:
        nodes = [rig.submit(engine) for _ in range(5)]
        wait_until(lambda: all(_state(engine, node) == 'submitted' for node in nodes))
        rig.there.is_up = False
        nodes += [rig.submit(engine) for _ in range(5)]
        wait_until(lambda: engine.core.source.reader.computer_note('fake'))
        wait_until(lambda: 'of no use just now' in engine.why(nodes[-1])['because'])
        rig.scheduler.release()
        rig.there.is_up = True
        for node in nodes:
            engine.wait(node, timeout=40)
            assert node.is_finished_ok, node.exit_message
        wait_until(lambda: not engine.core.source.reader.computer_note('fake'))
    assert len(rig.scheduler.jobs()) == 10


@pytest.mark.parametrize('operation', ['account', 'put_tree', 'run', 'get_tree'])
@pytest.mark.parametrize('moment', ['before', 'after'])
def test_the_connection_breaks_in_the_middle(rig: Rig, operation: str, moment: Any) -> None:
    """Whichever operation it is, and whether it was done or not."""
    rig.there.fail(operation, moment=moment, times=2)
    with rig.make_engine() as engine:
        node = rig.submit(engine)
        engine.wait(node, timeout=40)
        assert node.is_finished_ok, node.exit_message
    assert len(rig.scheduler.jobs()) == 1


def test_a_paused_process_begins_nothing_and_its_job_goes_on(rig: Rig, wait_until: Any) -> None:
    go = rig.folder / 'go'
    with rig.make_engine() as engine:
        node = rig.submit(engine, f'until [ -e {go} ]; do sleep 0.05; done; echo done')
        wait_until(lambda: _state(engine, node) == 'submitted')
        engine.pause(node, 'a break')
        go.touch()
        wait_until(lambda: _state(engine, node) == 'ended')
        # Meanwhile another one comes and goes.
        assert engine.wait(rig.submit(engine), timeout=30).is_finished_ok
        assert _state(engine, node) == 'ended' and rig.there.counts['get_tree'] == 1
        engine.play(node)
        engine.wait(node, timeout=30)
        assert node.is_finished_ok


def test_paused_before_it_is_submitted(rig: Rig, wait_until: Any) -> None:
    with BlockAt('job.uploaded') as block, rig.make_engine(faults=block) as engine:
        node = rig.submit(engine)
        block.wait_reached()
        engine.pause(node)
        block.release()
        # Meanwhile another one comes and goes.
        assert engine.wait(rig.submit(engine), timeout=30).is_finished_ok
        assert _state(engine, node) == 'uploading' and len(rig.scheduler.jobs()) == 1
        engine.play(node)
        engine.wait(node, timeout=30)
        assert node.is_finished_ok
    assert len(rig.scheduler.jobs()) == 2


def test_a_stop_waits_until_the_scheduler_is_told(rig: Rig, wait_until: Any) -> None:
    """The engine is stopped in the moment in which the job of a killed process is about to be cancelled."""
    with BlockAt('job.cancelling') as block:
        engine = rig.make_engine(faults=block).start()
        try:
            node = rig.submit(engine, 'sleep 300')
            wait_until(lambda: _state(engine, node) == 'submitted')
            engine.kill(node)
            block.wait_reached()
            stopping = threading.Thread(target=engine.stop)
            stopping.start()
            wait_until(lambda: engine.core.dispatcher.is_closed)
            block.release()
            stopping.join(30)
            assert not stopping.is_alive()
        finally:
            engine.stop()
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']


def test_a_stop_begins_no_job_while_it_waits(rig: Rig, wait_until: Any) -> None:
    """Killed in the middle of its submission, it is found and cancelled; the place that it leaves stays free."""
    gate = rig.there.hold('run')
    engine = rig.make_engine().start()
    try:
        node = rig.submit(engine, 'sleep 300', max_jobs=1)
        gate.wait_reached()
        other = rig.submit(engine, max_jobs=1)
        wait_until(lambda: _state(engine, other) == 'prepared')
        assert _state(engine, node) == 'submitting'
        engine.kill(node)
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        wait_until(lambda: engine.core.dispatcher.is_closed)
        gate.open()
        stopping.join(30)
        assert not stopping.is_alive()
    finally:
        gate.open()
        engine.stop()
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']
    with rig.make_engine() as another:
        another.wait(other.pid, timeout=40)
        assert another.load(other.pid).is_finished_ok


def test_a_stop_does_not_wait_for_a_computer_that_is_down(
    rig: Rig, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('treadle.engine.stopping.CANCELLING_MOST', 60.0)
    with rig.make_engine() as engine:
        node = rig.submit(engine, 'sleep 300')
        wait_until(lambda: _state(engine, node) == 'submitted')
        rig.there.is_up = False
        wait_until(lambda: engine.core.source.reader.computer_note('fake'))
        engine.kill(node)
        began = time.monotonic()
        engine.stop(200)
        assert time.monotonic() - began < 30
    assert [job.state for job in rig.scheduler.jobs()] == ['RUNNING']
    rig.there.is_up = True
    with rig.make_engine() as another:
        wait_until(lambda: _state(another, node) == 'gone')
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']


def test_ctrl_c_ends_the_wait_for_a_cancel_that_hangs(
    rig: Rig, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('treadle.engine.stopping.CANCELLING_MOST', 60.0)
    before = set(threading.enumerate())
    engine = rig.make_engine().start()
    node = rig.submit(engine, 'sleep 300')
    wait_until(lambda: _state(engine, node) == 'submitted')
    gate = rig.there.hold('run')
    engine.kill(node)
    gate.wait_reached()

    def interrupt() -> None:
        wait_until(lambda: engine.core.dispatcher.is_closed)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupts = threading.Thread(target=interrupt)
    interrupts.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.stop(200)
    assert time.monotonic() - began < 30
    interrupts.join(30)
    gate.open()
    wait_until(lambda: not [each for each in threading.enumerate() if each not in before])
    with rig.make_engine() as another:
        wait_until(lambda: _state(another, node) == 'gone')
    assert [job.state for job in rig.scheduler.jobs()] == ['CANCELLED']
