"""Work that is done in order, on borrowed threads: a strand has no thread of its own while it has nothing to do."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

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

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r}, {len(self._items)} items>'

    def __len__(self) -> int:
        """How many items wait to be handled, beside the one that is."""
        return len(self._items)

    def post(self, item: T) -> None:
        """Handle ``item`` after all that was posted before; from any thread, never waiting for the others.

        :raises LoopClosed: after :meth:`refuse` or :meth:`drop`, or the pool has stopped.
        :raises StartFailed: there is no thread to do it, such as at interpreter exit; it will not be handled.
        """
        with self._lock:
            if self._closed:
                raise LoopClosed(f'{self.name} takes nothing more')
            if not self._busy:
                self._threads.post_beside(self._run)  # waits for the lock, and finds the item
                self._busy = True
            self._items.append(item)

    def refuse(self) -> None:
        """Take nothing more; what was accepted is handled, and stopping the pool waits for that."""
        with self._lock:
            self._closed = True

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
                    return
                item = self._items.popleft()
            try:
                self._handle(item)
            except BaseException:  # such as SystemExit, which would end a borrowed thread
                LOGGER.exception('%s: handling an item raised', self.name)
            del item  # what is waited for behind it may take long
