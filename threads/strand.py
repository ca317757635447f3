"""Work that is done in order, on borrowed threads: a strand has no thread of its own while it has nothing to do."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .blocking import wait
from .errors import LoopClosed
from .permits import StepThreads

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')


class Strand(Generic[T]):
    """Handles items one after the other, in the order in which they were posted.

    :param handle: called with each item on one of the pool's threads, where it may block. What it raises is logged,
        and the next item is handled all the same.
    :param threads: the pool; a strand borrows a thread of it beside the permits, while it has items.
    :param name: how errors and the log name it.

    Guarantees: an item that :meth:`post` accepts is handled, unless :meth:`drop` hands it back. Nothing is handled
    while another item is.
    """

    def __init__(self, handle: Callable[[T], object], threads: StepThreads, *, name: str) -> None:
        self.name = name
        self._handle = handle
        self._threads = threads
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._busy = False
        self._closed = False
        self._ident: int | None = None
        self._waiting: list[Future[None]] = []

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r}, {len(self._items)} items>'

    def __len__(self) -> int:
        """How many items wait to be handled, beside the one that is."""
        return len(self._items)

    def post(self, item: T) -> None:
        """Handle ``item`` after all that was posted before; from any thread, never waiting for the others.

        :raises LoopClosed: after :meth:`drained` or :meth:`drop`, or the pool has stopped.
        :raises StartFailed: there is no thread to do it, such as at interpreter exit; it will not be handled.
        """
        with self._lock:
            if self._closed:
                raise LoopClosed(f'{self.name} takes nothing more')
            if not self._busy:
                self._threads.post_beside(self._run)  # waits for the lock, and finds the item
                self._busy = True
            self._items.append(item)

    def drained(self) -> Future[None]:
        """Take nothing more; the future resolves when what was accepted has been handled.

        To the code that handles an item it is done at once, since that would wait for itself.
        """
        future: Future[None] = Future()
        with self._lock:
            self._closed = True
            if self._busy and self._ident != threading.get_ident():
                self._waiting.append(future)
                return future
        future.set_result(None)
        return future

    def drop(self) -> list[T]:
        """Take nothing more, and hand back what was accepted and has not begun to be handled."""
        with self._lock:
            self._closed = True
            left = list(self._items)
            self._items.clear()
        return left

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._items:
                    self._busy = False
                    self._ident = None
                    waiting, self._waiting = self._waiting, []
                    break
                item = self._items.popleft()
                self._ident = threading.get_ident()
            try:
                self._handle(item)
            except BaseException:  # such as SystemExit, which would end a borrowed thread
                LOGGER.exception('%s: handling an item raised', self.name)
            del item  # a strand that waits for work keeps nothing alive
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


def drain(strands: Iterable[Strand[Any]], timeout: float) -> bool:
    """Have strands take nothing more, and wait until they have handled what they had accepted.

    :param timeout: seconds for all of them.
    :returns: ``False`` when that was too short for some.
    """
    deadline = time.monotonic() + timeout
    try:
        for over in [strand.drained() for strand in strands]:
            wait(over, max(0.0, deadline - time.monotonic()), what='drain()')
    except TimeoutError:
        return False
    return True
