"""``ConnectionAuthority``: who opens connections, for all threads of an engine, one to each account on a host."""

from __future__ import annotations

import getpass
import logging
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from ...threads import ForkGuard, StepThreads
from ..errors import TransportClosed
from .agenda import Agenda
from .breaker import Backoff
from .connection import Connection, ConnectionState, Lease, ManagedTransport
from .connection_spec import ConnectionSpec
from .local import LocalTransport

__all__ = ['ConnectionAuthority', 'Opener', 'Openings']

LOGGER = logging.getLogger(__name__)


class Opener(Protocol):
    """Opens transports; what an authority has a real one of, and tests a fake one. Both may block."""

    def account_of(self, spec: ConnectionSpec) -> Hashable:
        """What is equal for all specs that may share a connection: the account and the way there."""
        ...

    def open(self, spec: ConnectionSpec, threads: StepThreads) -> ManagedTransport:
        """Open a transport.

        :param threads: where the operations of coroutines run.
        """
        ...


class Openings:
    """Opens the transports that there are."""

    def account_of(self, spec: ConnectionSpec) -> Hashable:
        """See :meth:`Opener.account_of`."""
        if spec.transport == 'local':
            return ('local', getpass.getuser())
        from .ssh_host import look_up  # noqa: PLC0415 - paramiko takes long to import

        host = look_up(spec)
        return ('ssh', host.user, host.host, host.port, host.jumps, host.command)

    def open(self, spec: ConnectionSpec, threads: StepThreads) -> ManagedTransport:
        """See :meth:`Opener.open`."""
        if spec.transport == 'local':
            return LocalTransport(threads=threads, limit=spec.max_sessions, computer=spec.name)
        from .ssh import SshTransport  # noqa: PLC0415 - paramiko takes long to import

        return SshTransport(spec, threads=threads)


class ConnectionAuthority:
    """Leases transports to whoever asks, from any thread; there is one in an engine.

    Computers that are the same account on the same host, by the same way, share a connection; of what their specs say
    of its care (``safe_interval``, ``max_sessions``, ``idle_close``) the first one's counts.

    :param name: of its threads.
    :param opener: opens transports.
    :param backoff: how long a computer is left alone that could not be reached.
    """

    def __init__(
        self,
        *,
        name: str = 'treadle-transport',
        opener: Opener | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._opener = Openings() if opener is None else opener
        self._backoff = Backoff() if backoff is None else backoff
        # The permits are not used: who may work at once is each connection's to say.
        self._threads = StepThreads(permits=1, name=name, kind='transport operation')
        self._agenda = Agenda(self._threads)
        self._lock = threading.Lock()
        self._by_account: dict[Hashable, Connection] = {}
        self._by_spec: dict[ConnectionSpec, Connection] = {}
        self._closed = False
        self._fork_guard = ForkGuard(remedy='create one of its own in the child')

    @property
    def name(self) -> str:
        """What its threads' names begin with."""
        return self._threads.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- leasing ---------------------------------------------------------------------------------------------

    def lease(self, spec: ConnectionSpec) -> Future[Lease]:
        """The use of a transport, when it is open; from any thread, never blocking. Whoever gets it hands it back.

        The future may be cancelled. It resolves with a :class:`~treadle.engine.errors.TransportError` if the opening
        fails that it was waiting for. When an earlier one has failed it waits, for as long as it takes, until a probe
        succeeds; :meth:`states` says why, and when the next one is.

        :raises TransportClosed: the authority was stopped.
        :raises Forked: this is another OS process than the authority's.
        """
        self._fork_guard.check('the connections of an engine')
        future: Future[Lease] = Future()
        with self._lock:
            if self._closed:
                raise TransportClosed('the connections of this engine were closed; it opens no others')
            connection = self._by_spec.get(spec)
            if connection is None:
                # Finding out whose connection it is reads files.
                self._threads.post_beside(partial(self._place, spec, future))
        if connection is not None:
            connection.ask(future)
        return future

    def _place(self, spec: ConnectionSpec, future: Future[Lease]) -> None:
        """Find the connection of a spec that is new, and ask it."""
        try:
            account = self._opener.account_of(spec)
        except BaseException as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        with self._lock:
            connection = self._by_account.get(account)
            if connection is None:
                connection = self._by_account[account] = Connection(
                    spec,
                    open_transport=self._opener.open,
                    threads=self._threads,
                    agenda=self._agenda,
                    backoff=self._backoff,
                )
                if self._closed:
                    connection.close()
            self._by_spec[spec] = connection
        connection.ask(future)

    def states(self) -> list[ConnectionState]:
        """How each connection stands that was ever asked for."""
        with self._lock:
            connections = list(self._by_account.values())
        return [connection.state() for connection in connections]

    def state(self, spec: ConnectionSpec) -> ConnectionState | None:
        """How the connection of one computer stands; ``None`` if nobody has asked for it."""
        with self._lock:
            connection = self._by_spec.get(spec)
        return None if connection is None else connection.state()

    def forgive(self, spec: ConnectionSpec) -> None:
        """Try a computer at once that is left alone since it could not be reached: somebody says that it is mended."""
        with self._lock:
            connection = self._by_spec.get(spec)
        if connection is not None:
            connection.forgive()

    # -- the end, as of a member of a Group ------------------------------------------------------------------

    def start(self, timeout: float | None = None) -> None:
        """Nothing to do: connections are opened when somebody asks."""

    def request_stop(self) -> None:
        """Break off what runs, close all connections, and fail who waits; returns at once."""
        with self._lock:
            self._closed = True
            connections = list(self._by_account.values())
        self._agenda.close()
        for connection in connections:
            connection.close()
        self._threads.request_stop()

    def stop(self, timeout: float | None = 10.0) -> None:
        """:meth:`request_stop`, and wait for what was broken off.

        :param timeout: seconds.
        :raises StopTimeout: something hangs; names its thread, and where it is.
        """
        self.request_stop()
        self._threads.stop(timeout)
