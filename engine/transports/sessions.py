"""Who may use a connection at the same time: first come, first served, whether a thread asks or a coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import TypeVar

from ...threads import StepThreads, wait, wait_on_loop
from ..errors import TransportClosed, TransportError

__all__ = ['Operation', 'Sessions']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')


class Operation:
    """One operation on a computer, which may be told from other threads to break off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._error: TransportError | None = None
        self._closers: list[Callable[[], object]] = []

    def abort(self, error: TransportError) -> None:
        """Break off with this error, soon; from any thread."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            closers = list(self._closers)
        self._ended.set()
        for close in closers:
            try:
                close()
            except Exception:
                LOGGER.exception('%r failed while an operation was broken off', close)

    def check(self) -> None:
        """Raise if it is to break off."""
        if self._error is not None:
            raise copy.copy(self._error)

    def pause(self, seconds: float) -> None:
        """Wait, unless it is to break off, which is raised."""
        self._ended.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def closing(self, close: Callable[[], object]) -> Iterator[None]:
        """In this block, breaking off calls ``close()`` on the thread that wants it."""
        with self._lock:
            self._closers.append(close)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._closers.remove(close)


class Sessions:
    """At most ``limit`` operations at once on one connection, in the order in which they were asked for.

    :param limit: how many.
    :param threads: where the operations of coroutines run.
    :param where: how errors call the computer.

    Guarantees: whoever asks gets a turn, or an error when the connection is closed. A turn is given back when the
    operation has ended on its thread, also when the coroutine that wanted it was cancelled long before.
    """

    def __init__(self, limit: int, *, threads: StepThreads, where: str) -> None:
        self._limit = limit
        self._threads = threads
        self._where = where
        self._lock = threading.Lock()
        self._running: set[Operation] = set()
        self._waiting: deque[Future[Operation]] = deque()
        self._error: TransportError | None = None
        self._current: ContextVar[Operation | None] = ContextVar(f'operation on {where}', default=None)

    @property
    def limit(self) -> int:
        """How many operations may run at once at present."""
        return self._limit

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    # -- of threads ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def operation(self) -> Iterator[Operation]:
        """A turn, waited for; within an operation, that one's."""
        current = self._current.get()
        if current is not None:
            current.check()
            yield current
            return
        turn = self._ask()
        try:
            operation = wait(turn, what='a transport', instead='the AsyncTransport, with await')
        except BaseException:
            self._forget(turn)
            raise
        token = self._current.set(operation)
        try:
            yield operation
        finally:
            self._current.reset(token)
            self._end(operation)

    # -- of coroutines ---------------------------------------------------------------------------------------

    async def call(self, function: Callable[[], T]) -> T:
        """Run a blocking function as an operation on a transport thread.

        Cancelling ends this at once, and tells the operation to break off.
        """
        turn = self._ask()
        try:
            operation = await wait_on_loop(turn)
        except BaseException:
            self._forget(turn)
            raise
        done: Future[T] = Future()
        context = copy_context()
        context.run(self._current.set, operation)
        try:
            self._threads.post_beside(lambda: context.run(self._run, function, operation, done))
        except BaseException:
            self._end(operation)
            raise
        try:
            return await wait_on_loop(done)
        except asyncio.CancelledError:
            operation.abort(TransportClosed(f'{self._where}: the operation was cancelled'))
            raise

    def _run(self, function: Callable[[], T], operation: Operation, done: Future[T]) -> None:
        try:
            try:
                operation.check()
                result = function()
            finally:
                self._end(operation)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    # -- turns -----------------------------------------------------------------------------------------------

    def _ask(self) -> Future[Operation]:
        turn: Future[Operation] = Future()
        with self._lock:
            if self._error is not None:
                raise copy.copy(self._error)
            self._waiting.append(turn)
        self._give_turns()
        return turn

    def _forget(self, turn: Future[Operation]) -> None:
        """Nobody waits for this turn any more; if it was given, it is given back."""
        with self._lock:
            if turn.cancel():
                self._waiting.remove(turn)
                return
        if turn.exception(0) is None:
            self._end(turn.result(0))

    def _end(self, operation: Operation) -> None:
        with self._lock:
            self._running.discard(operation)
        self._give_turns()

    def _give_turns(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or len(self._running) >= self._limit or self._error is not None:
                    return
                operation = Operation()
                self._running.add(operation)
                self._waiting.popleft().set_result(operation)

    def narrow(self) -> None:
        """The computer refuses more sessions than there are: let fewer operations run, one at least."""
        with self._lock:
            narrower = max(1, min(self._limit, len(self._running) - 1))
            changed, self._limit = narrower != self._limit, narrower
        if changed:
            LOGGER.warning(
                '%s takes no more sessions; only %d operations run there at once now',
                self._where,
                narrower,
            )

    def close(self, error: TransportError) -> None:
        """Give no more turns, and break off what runs."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            while self._waiting:
                self._waiting.popleft().set_exception(copy.copy(error))
            running = list(self._running)
        for operation in running:
            operation.abort(error)
