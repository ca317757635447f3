"""What is to be done later, on a thread that is borrowed while there is something."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from ...threads import LoopClosed, StartFailed, StepThreads

__all__ = ['Agenda']

LOGGER = logging.getLogger(__name__)


class Agenda:
    """Calls functions when their time has come; they must not block.

    :param threads: the pool; a thread of it is borrowed while something is to be done.
    """

    def __init__(self, threads: StepThreads) -> None:
        self._threads = threads
        self._changed = threading.Condition()
        self._entries: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._busy = False
        self._closed = False

    def at(self, when: float, function: Callable[[], object]) -> None:
        """Call ``function()`` at a time of the monotonic clock, or soon after; never after :meth:`close`."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._entries, (when, next(self._order), function))
            if self._busy:
                self._changed.notify_all()
                return
            try:
                self._threads.post_beside(self._run)
            except (
                LoopClosed,
                StartFailed,
            ) as error:  # it stops; or the interpreter exits, which starts no thread
                LOGGER.debug('nothing more is done later: %s', error)
                return
            self._busy = True

    def close(self) -> None:
        """Forget what was to be done."""
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._entries:
                    self._busy = False
                    return
                when, _, function = self._entries[0]
                patience = when - time.monotonic()
                if patience > 0:
                    self._changed.wait(patience)
                    continue
                heapq.heappop(self._entries)
            try:
                function()
            except Exception:
                LOGGER.exception('%r, which was to be done at this time, failed', function)
            del function
