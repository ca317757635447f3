"""Which processes are at home on a loop of the user's, and so go there whenever this engine claims them.

Most engines have none. A process is at home with a runner from its start to its end, also while it waits and is a row,
unless the runner closes before, or its loop does: then it is the workers'.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from .store.records import ProcessRecord

__all__ = ['Home', 'Homes']

LOGGER = logging.getLogger(__name__)

#: Seconds before what the store did not take is tried again.
RETRY = 1.0


class Home(Protocol):
    """A runner on a loop of the user's."""

    def give(self, claims: Sequence[ProcessRecord]) -> Sequence[ProcessRecord]:
        """Drive claimed processes; from any thread, never blocking. Returns those that it does not take."""

    def check(self) -> None:
        """See whether its loop was closed without a word; on the store thread, never blocking."""

    def engine_stops(self, deadline: float) -> None:
        """Let no process of the engine's go on; ``deadline`` is on the monotonic clock."""


class Homes:
    """The homes of an engine's processes. Single operations of dictionaries and sets are atomic; there is no lock."""

    def __init__(self) -> None:
        self._home_of: dict[int, Home] = {}
        self._homes: set[Home] = set()
        self._unseen: set[Home] = set()
        self._late: deque[tuple[float, Callable[[], object]]] = deque()

    def __len__(self) -> int:
        """How many processes have a home."""
        return len(self._home_of)

    def __contains__(self, pid: int) -> bool:
        """Whether the process has one."""
        return pid in self._home_of

    def get(self, pid: int) -> Home | None:
        """Where the process is at home."""
        return self._home_of.get(pid)

    def settle(self, pid: int, home: Home) -> None:
        """From now on the process goes there whenever it is claimed."""
        self._homes.add(home)
        self._home_of[pid] = home

    def leave(self, pid: int) -> None:
        """The process has no home any more: it has ended, or goes on with the workers."""
        self._home_of.pop(pid, None)

    def leave_all(self, home: Home) -> None:
        """Nothing goes there any more; what is there may still come to its checkpoint."""
        for pid, its in list(self._home_of.items()):
            if its is home:
                self.leave(pid)

    def forget(self, home: Home) -> None:
        """Nothing is there any more, and nothing comes."""
        self._homes.discard(home)
        self._unseen.discard(home)

    def send(self, claims: Iterable[ProcessRecord]) -> list[ProcessRecord]:
        """Hand claims to their homes, in one call to each; returns those that have none."""
        rest: list[ProcessRecord] = []
        shares: dict[Home, list[ProcessRecord]] = {}
        for record in claims:
            home = self._home_of.get(record.pid)
            (rest if home is None else shares.setdefault(home, [])).append(record)
        for home, share in shares.items():
            rest.extend(home.give(share))
        return rest

    def call_later(self, job: Callable[[], object]) -> None:
        """Have :meth:`check` call ``job`` when :data:`RETRY` seconds have passed."""
        self._late.append((time.monotonic() + RETRY, job))

    def check(self) -> None:
        """Look for loops that were closed, and call what is due; on the store thread, which does so all the time."""
        for home in list(self._homes) if self._homes else ():
            try:
                home.check()
            except Exception:  # out of a foreign loop; said once, since this comes round thirty times a second
                if home not in self._unseen:
                    self._unseen.add(home)
                    LOGGER.exception('the loop of %r cannot be looked at', home)
        while self._late and self._late[0][0] <= time.monotonic():
            self._late.popleft()[1]()

    def close(self, deadline: float) -> None:
        """The engine stops."""
        for home in list(self._homes):
            try:
                home.engine_stops(deadline)
            except Exception:  # out of what else there is on the loop, such as its exception handler
                LOGGER.exception('%r could not be told that its engine stops', home)
