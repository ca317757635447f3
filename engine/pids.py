"""Pids: small integers, reserved in blocks, so that a process has its pid before its row is committed."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from .store.store_thread import StoreThread

__all__ = ['PidBlocks']

#: The first block is small, since most scripts start few processes; each further one is twice as large, up to this.
FIRST, MOST = 16, 1024


class PidBlocks:
    """Hands out pids; reserves the next block before the present one is used up."""

    def __init__(self, store: StoreThread) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._next = 0
        self._end = 0
        self._size = FIRST
        self._coming: tuple[int, Future[int]] | None = None

    def take(self) -> int:
        """The next pid. Waits for the store only when a whole block was used up meanwhile."""
        with self._lock:
            if self._next >= self._end:
                if self._coming is not None and self._coming[1].done() and self._coming[1].exception() is not None:
                    self._coming = None  # asked for ahead of time; by now the disk may have room again
                if self._coming is None:
                    self._reserve()
                self._arrive()
            pid = self._next
            self._next += 1
            if self._coming is None and self._end - self._next < self._size // 2:
                self._reserve()
            return pid

    def _reserve(self) -> None:
        size = self._size
        self._coming = size, self._store.call(lambda transaction: transaction.reserve_pids(size))
        self._size = min(2 * size, MOST)

    def _arrive(self) -> None:
        if self._coming is None:
            raise RuntimeError('no block of pids was reserved')
        size, coming = self._coming
        try:
            self._end = coming.result()
        finally:
            self._coming = None
        self._next = self._end - size
