"""Who waits for which process to end, in this OS process.

The end of a process of this engine's is told by the store thread right after the commit, with the final row when it is
at hand; the end of another engine's is found by asking the store about all awaited pids at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager

from .errors import EngineStopped
from .store.records import ProcessRecord
from .tracebacks import shorten

__all__ = ['End', 'Terminations']


#: Resolves when the end of a process is committed; to its final row, or ``None`` for "read it yourself".
End = Future[ProcessRecord | None]


class Terminations:
    """Futures of the ends of processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[int, list[End]] = {}
        self._exceptions: dict[int, BaseException] = {}
        self._finals: dict[int, ProcessRecord] = {}
        self._closed = False

    def expect(self, pid: int) -> End:
        """A future that resolves when the end of ``pid`` is committed.

        Register first, then look whether the process has ended already: so no end is missed.
        """
        future: End = Future()
        with self._lock:
            if self._closed:
                raise EngineStopped('the engine has stopped; start one to wait for processes')
            self._futures.setdefault(pid, []).append(future)
        return future

    def forget(self, pid: int, future: End) -> None:
        """Nobody waits on this future any more."""
        with self._lock:
            waiting = self._futures.get(pid, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._futures.pop(pid, None)
                self._exceptions.pop(pid, None)
                self._finals.pop(pid, None)

    @contextmanager
    def interest(self, pid: int) -> Iterator[None]:
        """Keep what is told of the end of ``pid``, for whoever begins to wait in the body."""
        future = self.expect(pid)
        try:
            yield
        finally:
            self.forget(pid, future)

    def awaited(self) -> list[int]:
        """The pids that somebody waits for."""
        with self._lock:
            return list(self._futures)

    def keep_exception(self, pid: int, error: BaseException) -> None:
        """Remember the very object that a process raised, for whoever waits in this OS process."""
        with self._lock:
            if pid in self._futures:
                shorten(error)
                self._exceptions[pid] = error

    def keep_final(self, record: ProcessRecord) -> None:
        """Remember the final row, which is committed, for whoever waits in this OS process."""
        with self._lock:
            if record.pid in self._futures:
                self._finals[record.pid] = record

    def exception(self, pid: int) -> BaseException | None:
        """The object that was raised, while somebody waits."""
        with self._lock:
            return self._exceptions.get(pid)

    def ended(self, pids: Iterable[int]) -> None:
        """The ends of these processes are committed."""
        with self._lock:
            ends = [(future, self._finals.get(pid)) for pid in pids for future in self._futures.get(pid, ())]
        for future, record in ends:
            _resolve(future, record)

    def fail(self, pid: int, error: BaseException) -> None:
        """No end of ``pid`` will come that this engine could tell of."""
        with self._lock:
            futures = list(self._futures.get(pid, ()))
        for future in futures:
            _resolve(future, error)

    def close(self, reason: str | None = None) -> None:
        """Fail every wait that is left: the engine stops, the processes stay in the store.

        :param reason: what is said instead of that.
        """
        with self._lock:
            self._closed = True
            left = [(pid, future) for pid, futures in self._futures.items() for future in futures]
        for pid, future in left:
            _resolve(
                future,
                EngineStopped(
                    f'the engine stopped before process {pid} ended: {reason}'
                    if reason
                    else f'the engine stopped before process {pid} ended; it stays runnable in the store and goes on '
                    f'when an engine claims it'
                ),
            )


def _resolve(future: End, end: ProcessRecord | BaseException | None) -> None:
    try:
        if isinstance(end, BaseException):
            future.set_exception(end)
        else:
            future.set_result(end)
    except InvalidStateError:
        return  # it was told twice, by the commit and by the poll, or the waiter has given up
