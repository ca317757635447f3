"""Faults on purpose: for tests of what a crash, an error or an unlucky order of events does.

Give one to ``Engine(faults=...)``; the engine calls it at each :class:`~treadle.engine.faults.FaultPoint`. All of them
may be hit by many threads at once.

    with Engine(store, faults=KillAt(FaultPoint.STEP_RETURNED, hit=3)) as engine:
        engine.run(MyChain, metadata={'key': 'the-work'})      # this OS process is gone in the middle of it

Run the same script again without the fault, and the work chain goes on where it was.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..faults import FaultPoint, Faults

__all__ = ['BlockAt', 'KillAt', 'RaiseAt', 'RecordFaults', 'Together']


class _Counted:
    """Does its one thing at the ``first``-th hit of ``point``, and at ``times`` hits from there on."""

    def __init__(self, point: FaultPoint | str, first: int, times: int | None) -> None:
        if first < 1:
            raise ValueError(f'hits are counted from 1, not {first!r}')
        self.point = FaultPoint(point)
        self._first = first
        self._end = None if times is None else first + times
        self._lock = threading.Lock()
        self._hits = 0

    @property
    def hits(self) -> int:
        """How often the point was reached so far."""
        return self._hits

    def _is_due(self, point: FaultPoint) -> bool:
        if point is not self.point:
            return False
        with self._lock:
            self._hits += 1
            return self._first <= self._hits and (self._end is None or self._hits < self._end)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.point.value}, hit {self._first}>'


class KillAt(_Counted):
    """Ends this OS process with SIGKILL: nothing is cleaned up, as in a power cut.

    :param point: where.
    :param hit: at which time of coming there, counted from 1.
    :raises ValueError: there is no such point, or ``hit`` is less than 1.
    """

    def __init__(self, point: FaultPoint | str, hit: int = 1) -> None:
        super().__init__(point, hit, 1)

    def hit(self, point: FaultPoint) -> None:
        """Die if it is time."""
        if self._is_due(point):
            os.kill(os.getpid(), signal.SIGKILL)
            # The signal ends the whole process, but this thread must not go on in the meantime.
            threading.Event().wait()


class RaiseAt(_Counted):
    """Raises an error in whatever thread comes by.

    :param error: makes the error.
    :param hit: at which time of coming there, counted from 1.
    :param times: at how many hits in a row; ``None`` means always.
    :raises ValueError: there is no such point, or ``hit`` is less than 1.
    """

    def __init__(
        self,
        point: FaultPoint | str,
        error: Callable[[], BaseException],
        *,
        hit: int = 1,
        times: int | None = 1,
    ) -> None:
        super().__init__(point, hit, times)
        self._error = error

    def hit(self, point: FaultPoint) -> None:
        """Raise if it is time."""
        if self._is_due(point):
            raise self._error()


class BlockAt(_Counted):
    """Holds the thread that comes by until :meth:`release`, so that a test decides who is first.

    ::

        with BlockAt(FaultPoint.BATCH_WRITTEN) as block, Engine(store, faults=block) as engine:
            ...
            block.wait_reached()        # the store thread stands before its commit
            ...
            block.release()

    Leaving the ``with`` block releases it too, so a failing test does not hang.

    :param hit: at which time of coming there, counted from 1; only that one is held.
    :param patience: seconds that a thread is held at most, and :meth:`wait_reached` waits.
    :raises ValueError: there is no such point, or ``hit`` is less than 1.
    """

    def __init__(self, point: FaultPoint | str, *, hit: int = 1, patience: float = 30.0) -> None:
        super().__init__(point, hit, 1)
        self._patience = patience
        self._reached = threading.Event()
        self._released = threading.Event()

    def hit(self, point: FaultPoint) -> None:
        """Wait if it is time."""
        if self._is_due(point):
            self._reached.set()
            self._released.wait(self._patience)

    @property
    def is_reached(self) -> bool:
        """Whether a thread has come there."""
        return self._reached.is_set()

    def wait_reached(self) -> None:
        """Wait until a thread stands there.

        :raises TimeoutError: none has come in time.
        """
        if not self._reached.wait(self._patience):
            raise TimeoutError(
                f'nobody came to {self.point.value} (hit {self._first}) in {self._patience:g} s'
            )

    def release(self) -> None:
        """Let the thread go on; whoever comes later is not held at all."""
        self._released.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class RecordFaults:
    """Notes which points were reached, in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: list[FaultPoint] = []

    def hit(self, point: FaultPoint) -> None:
        """Note it."""
        with self._lock:
            self._points.append(point)

    @property
    def points(self) -> list[FaultPoint]:
        """The points in the order in which they were reached."""
        with self._lock:
            return list(self._points)

    @property
    def counts(self) -> Counter[FaultPoint]:
        """How often each point was reached."""
        return Counter(self.points)


class Together:
    """Several faults as one; each is told of every point, in the order given."""

    def __init__(self, *faults: Faults) -> None:
        self._faults = faults

    def hit(self, point: FaultPoint) -> None:
        """Tell all of them."""
        for each in self._faults:
            each.hit(point)
