"""Leases: how long an engine may act on what it owns, and when an observer may say that another one is dead.

Both ends use a clock of their own host that starts at boot and counts suspended time too; no wall clock, and no other
host's clock, decides anything. The owner counts from *before* it sent the heartbeat that the database has confirmed,
the observer from when it *saw* that heartbeat, so the owner stops first. The reasoning is that of leases for
distributed caches (Gray and Cheriton, 1989), with the fencing token in the row as the last word.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .store.records import EngineRecord

__all__ = ['Lease', 'Silences', 'boot_clock']

Clock = Callable[[], float]


def boot_clock() -> float:
    """Seconds since boot, suspended time included where the system counts it."""
    return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


class Lease:
    """The owner's end.

    :param seconds: how long a confirmed heartbeat is good for.
    """

    def __init__(self, seconds: float, clock: Clock = boot_clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._until = clock()
        self._lock = threading.Lock()

    @property
    def is_valid(self) -> bool:
        """Whether the engine may begin something that has effects outside of the store."""
        return self._clock() < self._until

    @property
    def is_fresh(self) -> bool:
        """Whether the database has confirmed a heartbeat so lately that contact to it can be called unbroken."""
        return self._clock() < self._until - self.seconds / 2

    def send(self) -> float:
        """A heartbeat is about to be sent; what this returns is for :meth:`confirm`."""
        return self._clock()

    def confirm(self, sent: float) -> None:
        """The heartbeat that was sent at ``sent`` is in the database, and the engine was not declared dead before."""
        with self._lock:
            self._until = max(self._until, sent + self.seconds)


class Silences:
    """The observer's end: for how long it has seen no heartbeat of which engine.

    :param clock: the observer's own.
    """

    def __init__(self, clock: Clock = boot_clock) -> None:
        self._clock = clock
        self._heard: dict[int, tuple[int, float]] = {}
        self._looked = float('-inf')

    def look(self, engines: Sequence[EngineRecord], *, in_touch: bool = True) -> list[EngineRecord]:
        """Take note of the heartbeats as they are in the database now.

        An observer that has not looked for a while (it was stopped, or the database away) cannot know whether there
        were heartbeats meanwhile; it begins to count anew. So does one that could not have beaten itself, since the
        others may have been kept from it by the same thing.

        :param engines: all other engines that have not ended.
        :param in_touch: whether the observer's own heartbeats come through.
        :returns: those whose counter has stood still for a whole lease of theirs, before its eyes.
        """
        now = self._clock()
        gap, self._looked = now - self._looked, now
        before, self._heard = self._heard, {}
        silent = []
        for engine in engines:
            heartbeat, since = before.get(engine.id, (None, now))
            if heartbeat != engine.heartbeat or gap > engine.lease / 2 or not in_touch:
                since = now
            self._heard[engine.id] = (engine.heartbeat, since)
            # One without a lease beats no more and keeps what a late step of its holds: its lock file alone tells.
            if engine.lease > 0 and now - since >= engine.lease:
                silent.append(engine)
        return silent
