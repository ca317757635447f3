"""A visit: one execution of one step, with everything that will commit together when it ends.

The visit that the present code belongs to is in a context variable, so the module-level ``run`` and ``submit``, a
called process function and the log handler find it without being handed anything.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import EngineStopped, StepAborted
from ..store.records import Fence, LogEntry, ProcessRecord, storable

if TYPE_CHECKING:
    from ..jobs.computer import Computer
    from ..node import ProcessNode
    from ..store.job_records import JobRecord
    from ..values import Codec

T = TypeVar('T')

LOGGER = logging.getLogger(__name__)


class Host(Protocol):
    """The engine, as processes see it."""

    @property
    def codec(self) -> Codec:
        """Turns values into text and back."""

    @property
    def hears_outputs(self) -> bool:
        """Whether somebody wants to know which outputs a step sets."""

    def submit_child(
        self, visit: Visit, target: Any, inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
    ) -> ProcessNode:
        """Make a child part of the visit's unit."""

    def nodes(self, pids: Sequence[int]) -> list[ProcessNode]:
        """The nodes of these processes, read in one go."""

    def call_function(
        self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ProcessNode]:
        """Run a process function in the calling thread."""

    def computer(self, visit: Visit, computer: Any) -> Computer:
        """The computer of that name; one that is given as it is becomes known by that."""

    def job(self, pid: int) -> JobRecord:
        """The job of a process that has one."""

    def insist(self, visit: Visit, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns, which is called until the store takes it."""


class Visit:
    """One execution of one step of one process.

    :param fence: what the row must still be when the step ends.
    :param number: how many steps of the process were committed before.
    :param replayed: whether an earlier execution of this very step may have left recorded calls.
    :param nesting: how many blocked threads wait for this process.
    :param is_direct: whether it is a function that plain code has called, by itself or inside of another one: it
        executes in that code, and shares its fate.
    """

    __slots__ = (
        '_abort_callbacks',
        '_lock',
        'aborted',
        'asked',
        'blocked_on',
        'children',
        'emitted',
        'fence',
        'host',
        'is_dead',
        'is_direct',
        'log',
        'log_is_complete',
        'nesting',
        'next_call',
        'number',
        'origin',
        'pauses',
        'replayed',
    )

    def __init__(
        self,
        *,
        host: Host,
        fence: Fence,
        number: int,
        origin: int,
        nesting: int = 0,
        replayed: bool = False,
        is_direct: bool = False,
    ) -> None:
        self.host = host
        self.fence = fence
        self.number = number
        self.origin = origin
        self.nesting = nesting
        self.replayed = replayed
        self.is_direct = is_direct
        self.next_call = 0
        self.asked: set[int] = set()
        self.children: list[ProcessRecord] = []
        self.log: list[LogEntry] = []
        #: What a step has left running may go on logging for ever, and nobody would take it from here.
        self.log_is_complete = False
        self.pauses = False
        self.emitted: list[tuple[str, bool]] = []
        self.aborted: StepAborted | None = None
        self.is_dead = False
        self.blocked_on: list[Future[Any]] = []
        self._abort_callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The process whose step this is."""
        return self.fence.pid

    @property
    def claim(self) -> tuple[int, int]:
        """The claim under which it executes: pid and epoch."""
        return self.fence.pid, self.fence.epoch

    def take_call_number(self) -> int:
        """The number of the next call (of a child, a function, a wait) that this step makes."""
        with self._lock:
            number = self.next_call
            self.next_call = number + 1
        self.asked.add(number)
        return number

    def record(self, level: int, logger: str, message: str, at: float | None = None) -> None:
        """Add a record to the process's log stream; it commits with the step, and comes too late after it.

        :param at: seconds since the epoch; default now.
        """
        if not self.log_is_complete:
            self.log.append(
                LogEntry(self.pid, time.time() if at is None else at, level, storable(logger), storable(message))
            )

    def check(self) -> None:
        """Raise what unwinds the step, if its result can no longer count."""
        if self.aborted is not None:
            raise self.aborted

    @contextmanager
    def blocking_on(self, future: Future[Any]) -> Iterator[None]:
        """Tell :meth:`abort` which future to fail while the step waits for it.

        A step may wait for several at once, as a coroutine does that gathers them.
        """
        with self._lock:
            self.check()
            self.blocked_on.append(future)
        try:
            yield
        finally:
            with self._lock:
                self.blocked_on.remove(future)

    def abort(self, reason: StepAborted) -> list[Callable[[], object]]:
        """Say that the step's result no longer counts; a blocked call in it raises ``reason``.

        :returns: the callbacks to run, on a thread where user code may run; empty after the first time.
        """
        with self._lock:
            self.aborted = reason
            self.is_dead = True
            blocked_on, callbacks = list(self.blocked_on), self._abort_callbacks
            self._abort_callbacks = []
        self._fail(blocked_on, reason)
        return callbacks

    def interrupt(self, reason: StepAborted) -> None:
        """The engine stops: a blocked call raises ``reason``, and so does the next one; the step may still end well."""
        with self._lock:
            if self.aborted is None:
                self.aborted = reason
            blocked_on = list(self.blocked_on)
        self._fail(blocked_on, reason)

    def _fail(self, blocked_on: Sequence[Future[Any]], reason: StepAborted) -> None:
        for future in blocked_on:
            try:
                future.set_exception(reason)
            except InvalidStateError:
                LOGGER.debug('process %d got its answer before it could be aborted', self.pid)

    def is_unwound_by(self, error: BaseException) -> bool:
        """Whether what the step raised is no verdict on its process: its result no longer counts, or its engine stops.

        A call may find parts of the engine gone before it finds that the step is to be unwound.
        """
        if self.is_dead or (self.aborted is not None and isinstance(error, EngineStopped)):
            return True
        if isinstance(error, BaseExceptionGroup):  # the step waited for several things at once
            return error.subgroup(StepAborted) is not None
        return isinstance(error, StepAborted)

    def is_shut_down_by(self, error: BaseException) -> bool:
        """Whether ``error`` ends the program that has called a function, and so says nothing of its process.

        That is a ``SystemExit`` on the main thread, such as a host's handler of signals raises.
        """
        return (
            self.is_direct
            and isinstance(error, SystemExit)
            and threading.current_thread() is threading.main_thread()
        )

    def add_abort_callback(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called once when the step is aborted; at once if it already is."""
        with self._lock:
            if not self.is_dead:
                self._abort_callbacks.append(callback)
                return
        callback()

    def remove_abort_callback(self, callback: Callable[[], object]) -> bool:
        """The callback is no longer wanted; ``False`` when it has been, or is being, called."""
        with self._lock:
            if callback in self._abort_callbacks:
                self._abort_callbacks.remove(callback)
                return True
        return False


_current: contextvars.ContextVar[Visit | None] = contextvars.ContextVar('treadle_visit', default=None)


def current_visit() -> Visit | None:
    """The visit that the calling code belongs to, or ``None`` in plain code."""
    return _current.get()


def visit_of(host: Host) -> Visit | None:
    """The visit that the calling code belongs to, if it is one of that engine's; raises what unwinds it."""
    visit = _current.get()
    if visit is None or visit.host is not host:
        return None
    visit.check()
    return visit


@contextmanager
def entered(visit: Visit) -> Iterator[None]:
    """Make ``visit`` the current one for the body."""
    token = _current.set(visit)
    try:
        yield
    finally:
        _current.reset(token)


def clear_current() -> None:
    """Forget the current visit: in a forked child no step of the parent's goes on."""
    _current.set(None)


@contextmanager
def on_kill(callback: Callable[[], object]) -> Iterator[None]:
    """While the body runs, have ``callback`` called once if this step's result can no longer count.

    That is when the process was killed, when its engine stops without waiting for the step, or when the engine has
    lost its lease. The callback runs on another thread, at once, and should end what the step waits for. A Ctrl-C that
    unwinds the body (of a function that was called on the main thread) calls it too, and so does a ``SystemExit`` that
    a handler of signals raises there. A Ctrl-C in a blocked ``run()`` waits some seconds for the callbacks and for the
    steps they belong to. ::

        with subprocess.Popen(command, start_new_session=True) as child, on_kill(child.terminate):
            child.wait()

    In code that belongs to no process the body just runs.
    """
    visit = current_visit()
    if visit is None:
        yield
        return
    visit.add_abort_callback(callback)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        # What becomes of the process is written further out, where nothing of this body is left to be told of it.
        counts_for_nothing = isinstance(error, KeyboardInterrupt) or visit.is_shut_down_by(error)
        if counts_for_nothing and visit.remove_abort_callback(callback):
            callback()
        raise
    finally:
        visit.remove_abort_callback(callback)
