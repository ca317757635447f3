"""Looking for what is to be run: *runnable* is a query, so nothing that was missed stays missed.

The search runs beside the steps, on a thread where user code may run, because to know whether this engine can run a
process it may have to import the process's class.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..threads import SingleFlight
from .errors import EngineStopped, ProcessParked, StoreError
from .faults import FaultPoint
from .loading import why_missing
from .processes.identity import is_known
from .states import ProcessState
from .store.records import ProcessRecord

if TYPE_CHECKING:
    from .membership import Membership
    from .parts import EngineParts

__all__ = ['Claims']

LOGGER = logging.getLogger(__name__)

#: Runnable rows looked at in one query.
PAGE = 500
#: Seconds after which an engine looks for work though nothing hinted at any.
SWEEP = 5.0
#: For how many times the duration of a search none is made because others have written, or there is some room.
SEARCH_SHARE = 10
#: The same for looking what has become of all that is held or awaited, of which there may be very much.
HEARING_SHARE = 2


class Claims:
    """Which processes this engine may run, and the search for them.

    :param claims_all: whether it runs other scripts' processes too.
    """

    def __init__(self, *, parts: EngineParts, claims_all: bool) -> None:
        self._parts = parts
        self._claims_all = claims_all
        self._script: str | None = None
        self._origins: frozenset[int] = frozenset()
        self._parked: dict[int, str] = {}
        self._missing: dict[int, str] = {}
        self._lock = threading.Lock()
        # Apart from each other: the search may import modules of the user's, which may take for ever, and neither a
        # kill nor the death of an engine must stand behind it.
        self._search = SingleFlight(self._claim_what_fits, parts.steps, name='the search for work')
        self._hearing = SingleFlight(self._hear_of_others, parts.steps, name='hearing of other OS processes')
        self._watching = SingleFlight(self._take_over, parts.steps, name='the watch over other engines')
        self._unknown_class = False
        self._sweep_due = 0.0
        # Whether others have written since the last search, or there is some room for what was turned away, and when
        # the next one may be made because of that.
        self._others_wrote = self._has_room = False
        self._search_may = 0.0
        # The same after a hint that there is work.
        self._work_hinted = False
        self._hinted_search_may = 0.0
        # The same for what is held or awaited.
        self._others_changed = False
        self._hearing_may = 0.0

    def begin(self, membership: Membership) -> None:
        """The engine has its id."""
        self._script = membership.script
        self._origins = frozenset({membership.engine_id})

    def add_origin(self, engine_id: int) -> None:
        """The engine goes on under another id."""
        self._add_origins({engine_id})

    def learn_origins(self) -> None:
        """Learn which engines of this script have left what is this one's now; where blocking is allowed.

        :raises StoreError: the store does not answer.
        """
        if self._script is not None:
            self._add_origins(self._parts.source.reader.ended_engines_of(self._script))

    def _add_origins(self, engine_ids: Set[int]) -> None:
        with self._lock:  # the store thread and the search both add some
            self._origins |= engine_ids

    def admits(self, record: ProcessRecord) -> bool:
        """Whether this engine may run the process, as far as can be said without importing anything."""
        if not self._is_its_own(record.pid, record.origin):
            return False
        if not is_known(record.class_name, record.class_hash):
            self._unknown_class = True  # the search may import it
            return False
        return True

    def park(self, pid: int, reason: str) -> None:
        """Do not claim this process again."""
        self._parked[pid] = reason

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with the process, if it does not."""
        return self._parked.get(pid)

    @property
    def parked(self) -> dict[int, str]:
        """The processes that this engine leaves alone, and why."""
        return {**self._missing, **self._parked}

    def look(self) -> None:
        """Search for work soon; from any thread."""
        self._search.ask()

    def look_in_time(self) -> None:
        """There is some room: search as soon as searching, time and again, takes but a small part of all time."""
        self._has_room = True

    def hear(self) -> None:
        """Another OS process may have written: see soon what has become of all that is held or awaited, and of work."""
        self._hearing.ask()
        self._others_wrote = True

    def hinted(self, *, work: bool, changes: bool) -> None:
        """Another engine has committed something; from any thread, never waiting.

        :param work: it has left something to be run.
        :param changes: processes have ended, or were killed or paused.
        """
        if changes:
            if time.monotonic() >= self._hearing_may:
                self._hearing.ask()
            else:
                self._others_changed = True
        if work:
            if time.monotonic() >= self._hinted_search_may:
                self.look()
            else:
                self._work_hinted = True

    def watch(self) -> None:
        """Look soon which other engines are dead, and take up what they have left."""
        self._watching.ask()

    def look_if_due(self) -> None:
        """Search if there is a reason to, or if none was made for a while; called all the time, on the store thread."""
        now = time.monotonic()
        if self._others_changed and now >= self._hearing_may:
            self._others_changed = False
            self._hearing.ask()
        if self._unknown_class:
            self._unknown_class = False
            self.look()
        elif self._work_hinted and now >= self._hinted_search_may:
            self._work_hinted = False
            self.look()
        elif (self._others_wrote or self._has_room) and now >= self._search_may:
            self._others_wrote = self._has_room = False
            self.look()
        elif now >= self._sweep_due:
            self._hearing.ask()
            self.look()
            self._sweep_due = now + SWEEP

    def _take_over(self) -> None:
        with _tried_again('the watch over other engines'):
            if self._parts.membership.release_the_dead() > 0:
                self.look()

    def _hear_of_others(self) -> None:
        """What other OS processes have committed: intents for what is held, and ends, told to whoever waits here."""
        parts, began = self._parts, time.monotonic()
        with _tried_again('looking for what others have committed'):
            held = parts.dispatcher.held_pids()
            if held:
                intents = parts.source.reader.intents(held)
                killed = [pid for pid, state, _ in intents if state == ProcessState.KILLED]
                if killed:
                    parts.aborts.killed(killed)
                # Never that something was played: what is read here may be older than what this engine has written
                # since. A process that is set aside for nothing is taken again at once.
                parts.dispatcher.pause({pid: True for pid, _, paused in intents if paused})
            parts.desks.ask()
            for ended in parts.source.reader.ended(parts.terminations.awaited()):
                for record in ended:
                    parts.terminations.keep_final(record)
                parts.terminations.ended(record.pid for record in ended)
        ended_at = time.monotonic()
        self._hearing_may = ended_at + HEARING_SHARE * (ended_at - began)

    def _claim_what_fits(self) -> None:
        began = time.monotonic()
        self._search_may = math.inf  # while it goes on, another one is not due
        try:
            with _tried_again('looking for work'):
                self.learn_origins()
                self._parts.desks.look(None if self._claims_all else self._origins)
                self._claim_pages()
        finally:
            self._set_next(began)

    def _set_next(self, began: float) -> None:
        ended = time.monotonic()
        # Beside others that write without a pause, most of the time is left for other things.
        self._search_may = ended + SEARCH_SHARE * (ended - began)
        # A hint says that there is work, and so is worth more; but there may be very many engines that hint.
        self._hinted_search_may = ended + (ended - began)

    def _claim_pages(self) -> None:
        reader, dispatcher = self._parts.source.reader, self._parts.dispatcher
        why = functools.cache(why_missing)  # an import that fails may take long: once in a search is enough
        missing: set[int] = set()
        passed_over = 0
        while dispatcher.room > 0:
            # Before the query: who is turned away after it sets the flags again.
            dispatcher.turned_away = dispatcher.suspect_waits = False
            page = reader.runnable(PAGE, passed_over, None if self._claims_all else self._origins)
            wanted = []
            for pid, name, digest, origin in page:
                if not self._is_its_own(pid, origin):
                    continue
                reason = why(name, digest, reader)
                if reason is None:
                    wanted.append(pid)
                else:
                    missing.add(pid)
                    self._miss(pid, origin, reason)
            # No more than there is room for: a claim reads whole rows, under the file's lock.
            tried = wanted[: max(dispatcher.room, 1)]
            claimed = self._claim(tried) if tried else 0
            looked_at = len(page) if len(tried) == len(wanted) else [row[0] for row in page].index(tried[-1]) + 1
            if looked_at < PAGE and looked_at == len(page):
                self._missing = {pid: reason for pid, reason in self._missing.items() if pid in missing}
                return
            passed_over += looked_at - claimed
        dispatcher.turned_away = True  # there may be more than there is room for

    def _claim(self, pids: list[int]) -> int:
        claimed = self._parts.store.call(lambda transaction: transaction.claim(pids)).result()
        self._parts.faults.hit(FaultPoint.SEARCH_CLAIMED)
        return claimed

    def _is_its_own(self, pid: int, origin: int) -> bool:
        return (self._claims_all or origin in self._origins) and pid not in self._parked

    def _miss(self, pid: int, origin: int, reason: str) -> None:
        if self._missing.get(pid) != reason:
            self._missing[pid] = reason
            LOGGER.warning('process %d waits for its class: %s', pid, reason)
            if origin in self._origins:
                self._parts.tell_parked(pid, reason)
        if origin in self._origins:  # another engine may know the class of what is another's
            self._parts.terminations.fail(pid, ProcessParked(f'process {pid} is parked: {reason}'))


@contextmanager
def _tried_again(what: str) -> Iterator[None]:
    """Errors of a store that is away, or closes, end the body; it is run again later."""
    try:
        yield
    except EngineStopped:
        LOGGER.debug('the engine stops; %s is over', what)
    except StoreError as error:
        LOGGER.warning('%s failed, it is tried again later: %s', what, error)
