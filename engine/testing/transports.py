"""Computers that are folders on this machine, reached by transports that fail when they are told to.

::

    computers = FakeComputers(folder)
    with ConnectionAuthority(opener=computers) as connections:
        cluster = computers['cluster']
        cluster.fail('run', moment='after')         # the next command is done, and its answer is lost
        cluster.is_up = False                       # from now on nobody gets there, and open connections are broken
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

from ...threads import StepThreads
from ..errors import CommandTimeout, ComputerUnreachable, ConnectionLost
from ..transports.connection_spec import ConnectionSpec
from ..transports.local import LocalTransport
from ..transports.transport import Progress

__all__ = ['FakeComputer', 'FakeComputers', 'FakeTransport', 'Gate']

P = ParamSpec('P')
T = TypeVar('T')
Moment = Literal['before', 'middle', 'after']

#: The name under which opening a transport can be made to fail and be held.
OPEN = 'open'


class Gate:
    """Holds the threads that come by until it is opened.

    :param patience: seconds that a thread is held at most, and that :meth:`wait_reached` waits.
    """

    def __init__(self, *, patience: float = 30.0) -> None:
        self._patience = patience
        self._reached = threading.Event()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        """Wait until it is open."""
        self._reached.set()
        self._opened.wait(self._patience)

    def wait_reached(self) -> None:
        """Wait until a thread stands there.

        :raises TimeoutError: none has come in time.
        """
        if not self._reached.wait(self._patience):
            raise TimeoutError(f'nobody came to the gate in {self._patience:g} s')

    def open(self) -> None:
        """Let them go on, and all that come later."""
        self._opened.set()


@dataclasses.dataclass(slots=True)
class _Fault:
    operation: str
    moment: Moment
    happen: Callable[[], object]
    left: int | None


class FakeComputer:
    """One computer: a folder, which is the home directory there, and what is to go wrong.

    :ivar counts: how often each operation was begun, by its name; ``open`` among them.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._transports: list[FakeTransport] = []
        self._is_up = True

    @property
    def is_up(self) -> bool:
        """Whether it can be reached. Setting it to false breaks the connections that are open."""
        return self._is_up

    @is_up.setter
    def is_up(self, up: bool) -> None:
        with self._lock:
            self._is_up = up
            broken = [] if up else self._transports
            if not up:
                self._transports = []
        for transport in broken:
            transport.break_off()

    def fail(
        self,
        operation: str,
        *,
        moment: Moment = 'before',
        error: Callable[[], BaseException] | None = None,
        times: int | None = 1,
    ) -> None:
        """Have an operation fail.

        :param operation: the name of a method of a transport, such as ``run``; or ``open``.
        :param moment: ``before`` it has done anything; ``after`` it was done, so that only its answer is lost; or in
            the ``middle`` of ``put_file`` and ``get_file``.
        :param error: makes the error; by default the connection breaks, and an opening finds nobody.
        :param times: how often; ``None`` is always.
        """
        lost = ComputerUnreachable if operation == OPEN else ConnectionLost

        def happen() -> None:
            raise lost(f'the connection to {self.name} broke') if error is None else error()

        self._add(_Fault(operation, moment, happen, times))

    def time_out(self, operation: str = 'run', *, moment: Moment = 'after', times: int | None = 1) -> None:
        """Have a command be done, or not be, and nobody say so in time; the connection stands."""
        self.fail(
            operation,
            moment=moment,
            error=lambda: CommandTimeout(f'{self.name}: it did not end in time'),
            times=times,
        )

    def hold(self, operation: str, *, moment: Moment = 'before', times: int | None = 1) -> Gate:
        """Hold an operation at a gate."""
        gate = Gate()
        self._add(_Fault(operation, moment, gate.pass_through, times))
        return gate

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def come_by(self, operation: str, moment: Moment) -> None:
        """Have happen what is to happen here."""
        with self._lock:
            if moment == 'before':
                self.counts[operation] += 1
            due = [fault for fault in self._faults if (fault.operation, fault.moment) == (operation, moment)][
                :1
            ]
            for fault in due:
                if fault.left is not None:
                    fault.left -= 1
                    if not fault.left:
                        self._faults.remove(fault)
        for fault in due:
            fault.happen()

    def open(self, threads: StepThreads) -> FakeTransport:
        """Open a transport to it."""
        self.come_by(OPEN, 'before')
        transport = FakeTransport(self, threads=threads)
        with self._lock:
            if not self._is_up:
                raise ComputerUnreachable(f'{self.name} cannot be reached: it is down')
            self._transports.append(transport)
        return transport


class FakeComputers:
    """Opens transports to computers that are not there; for ``ConnectionAuthority(opener=...)``.

    :param folder: each computer has its folder in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._computers: dict[str, FakeComputer] = {}

    def __getitem__(self, name: str) -> FakeComputer:
        """The computer whose spec has this ``hostname``, or this name if it has none."""
        with self._lock:
            if name not in self._computers:
                self._computers[name] = FakeComputer(name, self._folder / name)
            return self._computers[name]

    def account_of(self, spec: ConnectionSpec) -> Hashable:
        """See :class:`~treadle.engine.transports.authority.Opener`."""
        return spec.hostname or spec.name

    def open(self, spec: ConnectionSpec, threads: StepThreads) -> FakeTransport:
        """See :class:`~treadle.engine.transports.authority.Opener`."""
        return self[spec.hostname or spec.name].open(threads)


def _failing(
    method: Callable[Concatenate[FakeTransport, P], T],
) -> Callable[Concatenate[FakeTransport, P], T]:
    """The same, with what is to go wrong before and after."""
    name = method.__name__

    def failing(self: FakeTransport, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._come_by(name, 'before')
        result = method(self, *args, **kwargs)
        self._come_by(name, 'after')
        return result

    return failing


class FakeTransport(LocalTransport):
    """A transport to a fake computer."""

    def __init__(self, fake: FakeComputer, *, threads: StepThreads) -> None:
        super().__init__(threads=threads, home=fake.folder, computer=fake.name)
        self._fake = fake

    def break_off(self) -> None:
        """The connection breaks: what runs fails."""
        self.close(ConnectionLost(f'the connection to {self._fake.name} broke'))

    def _come_by(self, operation: str, moment: Moment) -> None:
        try:
            with self.sessions.operation():
                self._fake.come_by(operation, moment)
        except ConnectionLost:
            self.break_off()
            raise

    def _in_the_middle(self, operation: str, progress: Progress | None) -> Progress:
        begun = False

        def report(done: int, total: int) -> None:
            nonlocal begun
            if progress is not None:
                progress(done, total)
            if done and not begun:
                begun = True
                self._come_by(operation, 'middle')

        return report

    run = _failing(LocalTransport.run)
    mkdir = _failing(LocalTransport.mkdir)
    write_bytes = _failing(LocalTransport.write_bytes)
    read_bytes = _failing(LocalTransport.read_bytes)
    put_tree = _failing(LocalTransport.put_tree)
    get_tree = _failing(LocalTransport.get_tree)
    stat = _failing(LocalTransport.stat)
    listdir = _failing(LocalTransport.listdir)
    glob = _failing(LocalTransport.glob)
    rename = _failing(LocalTransport.rename)
    remove_tree = _failing(LocalTransport.remove_tree)
    account = _failing(LocalTransport.account)

    def put_file(
        self, source: str | os.PathLike[str], target: str, *, progress: Progress | None = None
    ) -> None:
        """See :meth:`Transport.put_file`."""
        self._come_by('put_file', 'before')
        super().put_file(source, target, progress=self._in_the_middle('put_file', progress))
        self._come_by('put_file', 'after')

    def get_file(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """See :meth:`Transport.get_file`."""
        self._come_by('get_file', 'before')
        super().get_file(
            source, target, progress=self._in_the_middle('get_file', progress), max_bytes=max_bytes
        )
        self._come_by('get_file', 'after')
