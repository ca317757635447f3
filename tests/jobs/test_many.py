"""Many jobs on one computer that is reached by ssh, which goes away in the middle."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from support.jobs import HASTY
from treadle.engine import Computer, Engine, ShellJob
from treadle.engine.desk.desk import Desk
from treadle.engine.transports import Backoff, ConnectionAuthority

#: How many jobs, for how many seconds their computer is away, and how soon it is asked again; ``None``: as by default.
SIZES = [
    pytest.param(40, 3.0, Backoff(first=0.1, most=0.5, stable=0.0), id='suite'),
    pytest.param(200, 60.0, None, id='soak', marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
]


class Deaf:
    """Listens where an ssh server should, takes each connection, and hangs up after a while without a word.

    :ivar probes: how many connections there were.
    :ivar most: how many there were at the same time, at most.
    """

    def __init__(self, port: int, patience: float = 0.3) -> None:
        self.probes = self.most = 0
        self._patience = patience
        self._open = 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(('127.0.0.1', port))
        self._threads = [threading.Thread(target=self._listen, name='deaf')]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.probes += 1
                self._open += 1
                self.most = max(self.most, self._open)
            thread = threading.Thread(target=self._keep, args=(connection,), name='deaf to one')
            self._threads.append(thread)
            thread.start()

    def _keep(self, connection: socket.socket) -> None:
        with connection:
            time.sleep(self._patience)
            with self._lock:
                self._open -= 1


@pytest.fixture
def sshd(make_sshd: Callable[..., Any]) -> Any:
    """A server of the test's own, which it may stop, and whose log is of nobody else."""
    return make_sshd()


@pytest.fixture
def computer(tmp_path: Path, sshd: Any) -> Computer:
    return Computer(
        'cluster',
        transport='ssh',
        hostname='treadle',
        ssh_config=str(sshd.config_file),
        work_directory=str(tmp_path / 'work'),
        poll_interval=0.3,
    )


def _submit(engine: Engine, computer: Computer, effects: Path, number: int, go: Path | None = None) -> Any:
    wait = f'until [ -e {go} ]; do sleep 0.5; done; ' if go is not None else ''
    command = f'{wait}echo {number} >>{effects}; echo {number}'
    return engine.submit(
        ShellJob, command='sh', arguments=['-c', command], metadata={'options': {'computer': computer}}
    )


@pytest.mark.parametrize(('jobs', 'away', 'backoff'), SIZES)
def test_many_jobs_on_one_connection(
    tmp_path: Path,
    sshd: Any,
    computer: Computer,
    wait_until: Any,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
    away: float,
    backoff: Backoff | None,
) -> None:
    """Four workers, and one login; one more after the computer was away, and nobody had to do anything about it."""
    effects, go = tmp_path / 'effects', tmp_path / 'go'
    store = f'sqlite:///{tmp_path}/store.db'
    monkeypatch.setattr('treadle.engine.core.ConnectionAuthority', lambda: ConnectionAuthority(backoff=backoff))
    with Engine(store, workers=4, timing=HASTY) as engine:
        before = sshd.accepted_logins()
        # Some are over when it goes away, some run, some are on their way, and some come while it is away.
        nodes = [_submit(engine, computer, effects, number) for number in range(jobs // 4)]
        nodes += [_submit(engine, computer, effects, number, go) for number in range(jobs // 4, jobs // 2)]
        wait_until(lambda: all(node.is_finished for node in nodes[: jobs // 4]), 200.0)
        nodes += [_submit(engine, computer, effects, number) for number in range(jobs // 2, 3 * jobs // 4)]
        wait_until(lambda: engine.core.source.reader.job(nodes[jobs // 2].pid) is not None)
        assert sshd.accepted_logins() - before == 1
        sshd.stop()
        with Deaf(sshd.port) as deaf:
            nodes += [_submit(engine, computer, effects, number) for number in range(3 * jobs // 4, jobs)]
            go.touch()
            wait_until(lambda: deaf.probes >= 1)
            time.sleep(away)
            assert deaf.most == 1
            assert not any(node.is_finished for node in nodes[3 * jobs // 4 :])
        sshd.start()
        engine.wait([node.pid for node in nodes], timeout=600)
        for number, node in enumerate(nodes):
            assert node.is_finished_ok, node.exit_message
            assert node.outputs.stdout.read_text() == f'{number}\n'
        # One more, and one by which the server itself looks at its start whether it lets anyone in.
        assert sshd.accepted_logins() - before == 3
    assert sorted(map(int, effects.read_text().split())) == list(range(jobs))


def test_a_desk_remembers_nothing_of_what_has_ended(direct_place: Any, wait_until: Callable[..., None]) -> None:
    options = {'computer': direct_place.computer}
    with direct_place.engine() as engine:
        held = engine.submit(ShellJob, command='sleep', arguments=['300'], options=options)
        engine.wait([engine.submit(ShellJob, command='true', options=options) for _ in range(3)], timeout=50)
        (desk,) = [each for each in gc.get_objects() if isinstance(each, Desk) and each._parts is engine.core]
        wait_until(lambda: desk._present == {held.pid})
        errands = desk._errands
        assert {fence.pid for fence in errands._begun} == {held.pid}
        assert {*desk._pauses, *desk._absent_since} <= {held.pid}
        engine.kill(held)
