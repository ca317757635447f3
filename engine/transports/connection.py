"""One account on one host: its connection, those who use it, those who wait for it, and when it may be tried again."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Literal, Protocol

from ...threads import LoopClosed, StartFailed, StepThreads
from ..errors import ConnectionLost, TransportClosed, TransportError
from .agenda import Agenda
from .breaker import Backoff, Breaker
from .connection_spec import ConnectionSpec
from .sessions import Sessions
from .transport import AsyncTransport, Transport

__all__ = ['Connection', 'ConnectionState', 'Lease', 'ManagedTransport']

LOGGER = logging.getLogger(__name__)

#: Seconds between two signs of life that an open connection is asked for, and that it has to give one.
SIGN_INTERVAL, SIGN_PATIENCE = 15.0, 30.0


class ManagedTransport(Transport, Protocol):
    """A transport that has to be opened, and closed."""

    @property
    def sessions(self) -> Sessions:
        """Who may use it at the same time."""
        ...

    def answers(self) -> bool:
        """Ask the other side for a sign of life; blocks until it comes, or the transport is closed."""
        ...

    def close(self, error: TransportError | None = None) -> None:
        """Break off what runs, with this error; take nothing more."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """What an engine knows of one connection at this moment.

    :ivar computer: the name of the first computer that it was opened for.
    :ivar phase: ``waiting``: it could not be opened, and ``next_attempt`` says when that is tried again.
    :ivar users: how many loops use it.
    :ivar parked: how many wait for it.
    :ivar operations: how many run on it; ``queued`` wait for their turn.
    :ivar failures: of opening it, in a row.
    :ivar last_error: the last thing that went wrong, if anything did.
    :ivar next_attempt: in how many seconds, at least; ``None`` when none is held back.
    """

    computer: str
    phase: Literal['closed', 'opening', 'open', 'waiting']
    users: int
    parked: int
    operations: int
    queued: int
    failures: int
    last_error: TransportError | None
    next_attempt: float | None


class _Opened:
    """A transport, and how many use it."""

    def __init__(self, transport: ManagedTransport) -> None:
        self.transport = transport
        self.users = 0
        #: Raised whenever it gets a user, so that an old appointment to close it does not count.
        self.turns = 0


class Lease:
    """The use of an open transport, until it is handed back."""

    def __init__(self, transport: ManagedTransport, hand_back: Callable[[], object]) -> None:
        #: For threads.
        self.blocking = transport
        #: For coroutines.
        self.transport = AsyncTransport(transport, transport.sessions.call)
        self._hand_back: Callable[[], object] | None = hand_back

    def release(self) -> None:
        """Hand it back; a second time does nothing. What still runs on it is not waited for."""
        hand_back, self._hand_back = self._hand_back, None
        if hand_back is not None:
            hand_back()


class Connection:
    """Shares one transport among all who ask.

    :param spec: how to open it; also how long to keep it.
    :param open_transport: opens it, on a thread where it may block.
    :param threads: the pool to open and close on.
    :param agenda: keeps the appointments.

    Guarantees: at most one opening at a time, and at least ``safe_interval`` seconds between the beginnings of two.
    Whoever asks while one is going on shares its outcome. After a failure the circuit is open: who asks then waits, one
    probe at a time is made as long as somebody waits, and its success is everybody's.
    """

    def __init__(
        self,
        spec: ConnectionSpec,
        *,
        open_transport: Callable[[ConnectionSpec, StepThreads], ManagedTransport],
        threads: StepThreads,
        agenda: Agenda,
        backoff: Backoff,
    ) -> None:
        self._spec = spec
        self._open_transport = open_transport
        self._threads = threads
        self._agenda = agenda
        self._lock = threading.Lock()
        self._breaker = Breaker(backoff)
        self._opened: _Opened | None = None
        self._waiting: list[Future[Lease]] = []
        self._attempting = False
        #: Stands for the beginning of an attempt that was put off; another one, or none, if that is not to count.
        self._appointment: object | None = None
        self._begun = float('-inf')
        self._closed = False

    # -- asking and handing back -----------------------------------------------------------------------------

    def ask(self, future: Future[Lease]) -> None:
        """Resolve ``future`` with the use of the transport; from any thread, never blocking."""
        with self._lock:
            opened = self._usable()
            if opened is None:
                if not self._closed:
                    self._waiting.append(future)
                    self._see_to_attempt()
                    return
            else:
                self._add_user(opened)
        if opened is None:
            _fail(future, self._closing_error())
        else:
            self._deliver(future, opened)

    def _usable(self) -> _Opened | None:
        """The transport if it is open; with the lock held. Here it is noticed that it has broken."""
        opened = self._opened
        if opened is not None and not opened.transport.is_alive():
            self._drop(opened, ConnectionLost(f'the connection to {opened.transport.computer} broke'))
            return None
        return opened

    def _add_user(self, opened: _Opened) -> None:
        opened.users += 1
        opened.turns += 1

    def _deliver(self, future: Future[Lease], opened: _Opened) -> None:
        lease = Lease(opened.transport, partial(self._hand_back, opened))
        if future.set_running_or_notify_cancel():
            future.set_result(lease)
        else:
            lease.release()

    def _hand_back(self, opened: _Opened) -> None:
        with self._lock:
            opened.users -= 1
            if self._usable() is opened and not opened.users:
                self._close_later(opened)

    def _close_later(self, opened: _Opened) -> None:
        when = time.monotonic() + self._spec.idle_close
        self._agenda.at(when, partial(self._close_if_idle, opened, opened.turns))

    def _close_if_idle(self, opened: _Opened, turns: int) -> None:
        with self._lock:
            if self._opened is opened and not opened.users and opened.turns == turns:
                self._opened = None
                self._breaker.closed()
                self._do(partial(opened.transport.close, None))
                LOGGER.debug('the connection to %s was not used and is closed', opened.transport.computer)

    # -- opening ---------------------------------------------------------------------------------------------

    def _see_to_attempt(self) -> None:
        """Have an opening begin as soon as one may, if somebody waits for it; with the lock held."""
        if self._attempting or self._closed or not self._waiting:
            return
        self._attempting = True
        when = self._begun + self._spec.safe_interval
        if self._breaker.retry_at is not None:
            when = max(when, self._breaker.retry_at)
        if when <= time.monotonic():
            self._begin_attempt()
        else:
            self._appointment = appointment = object()
            self._agenda.at(when, partial(self._keep_appointment, appointment))

    def _keep_appointment(self, appointment: object) -> None:
        with self._lock:
            if self._appointment is appointment:
                self._appointment = None
                self._begin_attempt()

    def _begin_attempt(self) -> None:
        # With the lock held.
        try:
            self._threads.post_beside(self._attempt)
        except (LoopClosed, StartFailed) as error:
            self._attempting = False
            while self._waiting:
                _fail(self._waiting.pop(), error)

    def _attempt(self) -> None:
        with self._lock:
            self._waiting = [future for future in self._waiting if not future.cancelled()]
            if not self._waiting or self._closed:
                self._attempting = False
                return
            self._begun = time.monotonic()
            probing = self._breaker.is_open
        try:
            transport = self._open_transport(self._spec, self._threads)
        except TransportError as error:
            self._has_failed(error, probing)
        except BaseException as error:
            # No failure of the computer's: a setting that makes no sense, or the fault of this program.
            self._end_attempt(error)
        else:
            self._has_opened(transport)

    def _has_opened(self, transport: ManagedTransport) -> None:
        opened = _Opened(transport)
        with self._lock:
            self._attempting = False
            if self._closed:
                error = self._closing_error()
                self._do(partial(transport.close, error))
                return
            self._opened = opened
            self._breaker.opened(time.monotonic())
            waiting, self._waiting = self._waiting, []
            for _ in waiting:
                self._add_user(opened)
            self._ask_for_sign_later(opened)
        LOGGER.info('connected to %s', transport.computer)
        for future in waiting:
            self._deliver(future, opened)

    def _has_failed(self, error: TransportError, probing: bool) -> None:
        with self._lock:
            self._breaker.failed(error, time.monotonic())
            pause = self._next_attempt()
            if probing:
                self._attempting = False
                self._see_to_attempt()
        LOGGER.warning(
            'computer %r, attempt %d: %s; the next one is in %.0f s, or later',
            self._spec.name,
            self._breaker.failures,
            error,
            pause,
        )
        if not probing:
            self._end_attempt(error)

    def _end_attempt(self, error: BaseException) -> None:
        with self._lock:
            self._attempting = False
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            _fail(future, error)

    # -- breaking --------------------------------------------------------------------------------------------

    def _drop(self, opened: _Opened, error: TransportError) -> None:
        """The connection has broken: nobody gets it any more; with the lock held."""
        self._opened = None
        self._breaker.broke(error, time.monotonic())
        self._do(partial(opened.transport.close, error))
        LOGGER.warning('%s', error)

    def _ask_for_sign_later(self, opened: _Opened) -> None:
        self._agenda.at(time.monotonic() + SIGN_INTERVAL, partial(self._ask_for_sign, opened))

    def _ask_for_sign(self, opened: _Opened) -> None:
        with self._lock:
            if self._opened is opened and self._usable() is not None:
                self._do(partial(self._hear, opened))

    def _hear(self, opened: _Opened) -> None:
        heard = threading.Event()
        self._agenda.at(time.monotonic() + SIGN_PATIENCE, partial(self._give_up, opened, heard))
        try:
            opened.transport.answers()
        except Exception as error:  # it breaks at this moment, which the next look notices
            LOGGER.debug('no sign of life from %s: %s', opened.transport.computer, error)
        heard.set()
        self._ask_for_sign_later(opened)

    def _give_up(self, opened: _Opened, heard: threading.Event) -> None:
        if heard.is_set():
            return
        with self._lock:
            if self._opened is opened:
                where = opened.transport.computer
                self._drop(
                    opened, ConnectionLost(f'{where} has given no sign of life for {SIGN_PATIENCE:g} s')
                )

    # -- the end, and looking --------------------------------------------------------------------------------

    def forgive(self) -> None:
        """Try at once, whatever happened before: somebody says that it is mended."""
        with self._lock:
            if self._breaker.is_open:
                self._breaker.forgive()
                if self._appointment is not None:
                    self._appointment = None
                    self._attempting = False
                    self._see_to_attempt()

    def close(self) -> None:
        """Break off what runs, and fail who waits; from any thread, never blocking."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            opened, self._opened = self._opened, None
            waiting, self._waiting = self._waiting, []
            error = self._closing_error()
            if opened is not None:
                self._do(partial(opened.transport.close, error))
        for future in waiting:
            _fail(future, error)

    def state(self) -> ConnectionState:
        """How it stands."""
        with self._lock:
            opened = self._opened
            sessions = None if opened is None else opened.transport.sessions
            breaker = self._breaker
            return ConnectionState(
                computer=self._spec.name,
                phase='open'
                if opened is not None
                else 'waiting'
                if breaker.is_open and self._next_attempt() > 0
                else 'opening'
                if self._attempting
                else 'closed',
                users=0 if opened is None else opened.users,
                parked=len(self._waiting),
                operations=0 if sessions is None else sessions.running,
                queued=0 if sessions is None else sessions.waiting,
                failures=breaker.failures,
                last_error=breaker.last_error,
                next_attempt=self._next_attempt() if breaker.is_open else None,
            )

    def _next_attempt(self) -> float:
        retry_at = self._breaker.retry_at
        return 0.0 if retry_at is None else max(0.0, retry_at - time.monotonic())

    def _closing_error(self) -> TransportClosed:
        return TransportClosed(
            f'the connections of this engine were closed, also the one of {self._spec.name!r}'
        )

    def _do(self, job: Callable[[], object]) -> None:
        """Run what may block; with the lock held, so the job must not begin by waiting for its result."""
        try:
            self._threads.post_beside(job)
        except (
            LoopClosed,
            StartFailed,
        ) as error:  # it stops; or the interpreter exits, which starts no thread
            LOGGER.debug('%s: %r is not run: %s', self._spec.name, job, error)


def _fail(future: Future[Lease], error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
