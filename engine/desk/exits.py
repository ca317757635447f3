"""Noticing at once that a plain process of this machine has ended, so that nobody has to ask for it all the time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

__all__ = ['Exits']

LOGGER = logging.getLogger(__name__)


class Exits:
    """Says when processes end, by their file descriptors; on one loop.

    It is a hint, no more: numbers of processes are used again, and when the system has no more descriptors nothing is
    said. Whoever is told looks for himself, and whoever is not told asks now and then.

    :param tell: called on the loop when one has ended.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        # By pid of the job's process in the store; ``None`` where there is nothing to wait for any more.
        self._watched: dict[int, int | None] = {}

    def watch(self, pid: int, os_pid: int) -> None:
        """Say once when the job of ``pid`` ends, which is process ``os_pid`` here; it may have been said before."""
        if pid in self._watched:
            return
        self._watched[pid] = None
        try:
            descriptor = os.pidfd_open(os_pid)
        except ProcessLookupError:
            self._tell()
        except OSError as error:
            LOGGER.debug('the end of OS process %d is not noticed, it has to be asked for: %s', os_pid, error)
        else:
            self._watched[pid] = descriptor
            asyncio.get_running_loop().add_reader(descriptor, self._ended, pid)

    def _ended(self, pid: int) -> None:
        self._let_go(pid)
        self._watched[pid] = None
        self._tell()

    def forget(self, pids: Iterable[int]) -> None:
        """These jobs are of no interest any more; what is watched again is another attempt."""
        for pid in pids:
            self._let_go(pid)

    def close(self) -> None:
        """Say nothing more; on the loop."""
        self.forget([*self._watched])

    def _let_go(self, pid: int) -> None:
        descriptor = self._watched.pop(pid, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
