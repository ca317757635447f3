"""Looking for what is to be run: *runnable* is a query, so nothing that was missed stays missed.

The search runs beside the steps, on a thread where user code may run, because to know whether this engine can run a
process it may have to import the process's class.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Set
from typing import TYPE_CHECKING

from ..threads import LoopClosed, StartFailed
from .errors import EngineStopped, ProcessParked, StoreError
from .faults import FaultPoint
from .loading import why_missing
from .processes.identity import is_known
from .states import TERMINAL_STATES, ProcessState
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
        self._searching = False
        self._again = False
        # What the next search is to do.
        self._looks = False
        self._hears = False
        self._watches = False
        self._unknown_class = False
        self._sweep_due = 0.0

    def begin(self, membership: Membership) -> None:
        """The engine has its id."""
        self._script = membership.script
        self._origins = frozenset({membership.engine_id})

    def add_origin(self, engine_id: int) -> None:
        """The engine goes on under another id."""
        self._add_origins({engine_id})

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

    def look(self, *, ends: bool = False) -> None:
        """Search soon; from any thread. Calls during a search lead to one more.

        :param ends: whether another OS process may have written, so that awaited processes may have ended unheard, and
            others been killed or paused.
        """
        with self._lock:
            self._hears |= ends
            self._looks = True
        self._begin_search()

    def _begin_search(self) -> None:
        with self._lock:
            if self._searching:
                self._again = True
                return
            self._searching = True
        try:
            self._parts.steps.post_beside(self._search)
        except (LoopClosed, StartFailed) as error:  # it stops; or the interpreter exits, which starts no thread
            LOGGER.debug('no look for work: %s', error)
            with self._lock:
                self._searching = False

    def watch(self) -> None:
        """Look soon which other engines are dead, and take up what they have left."""
        self._watches = True
        self._begin_search()

    def look_if_due(self) -> None:
        """Search if there is a reason to, or if none was made for a while."""
        now = time.monotonic()
        if self._unknown_class:
            self._unknown_class = False
            self.look()
        elif now >= self._sweep_due:
            self._sweep_due = now + SWEEP
            self.look(ends=True)

    def _search(self) -> None:
        while True:
            try:
                self._hear_of_others()
                if self._watches:
                    self._watches = False
                    if self._parts.membership.release_the_dead() > 0:
                        self._looks = True
                if self._looks:
                    self._looks = False
                    self._claim_what_fits()
            except EngineStopped:
                LOGGER.debug('the engine stops; the search is over')
            except StoreError as error:
                LOGGER.warning('looking for work failed, it is tried again later: %s', error)
            except BaseException:
                # Such as SystemExit of a module that is imported; the next search must not wait for this one.
                LOGGER.exception('looking for work failed, it is tried again later')
            with self._lock:
                if not self._again:
                    self._searching = False
                    return
                self._again = False

    def _hear_of_others(self) -> None:
        """What other OS processes have committed: intents for what is held, and ends, told to whoever waits here."""
        with self._lock:
            if not self._hears:
                return
            self._hears = False
        held = self._parts.dispatcher.held_pids()
        if held:
            intents = self._parts.source.reader.intents(held)
            killed = [pid for pid, state, _ in intents if state == ProcessState.KILLED]
            if killed:
                self._parts.aborts.killed(killed)
            # Never that something was played: what is read here may be older than what this engine has written since.
            # A process that is set aside for nothing is taken again at once.
            self._parts.dispatcher.pause({pid: True for pid, _, paused in intents if paused})
        awaited = self._parts.terminations.awaited()
        if awaited:
            states = self._parts.source.reader.states(awaited)
            self._parts.terminations.ended(pid for pid, state in states.items() if state in TERMINAL_STATES)

    def _claim_what_fits(self) -> None:
        reader, dispatcher = self._parts.source.reader, self._parts.dispatcher
        if self._script is not None:
            self._add_origins(reader.ended_engines_of(self._script))
        why = functools.cache(why_missing)  # an import that fails may take long: once in a search is enough
        missing: set[int] = set()
        passed_over = 0
        while dispatcher.room > 0:
            # Before the query: who is turned away after it sets the flag again.
            dispatcher.turned_away = False
            page = reader.runnable(PAGE, passed_over)
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
            claimed = self._claim(wanted) if wanted else 0
            if len(page) < PAGE:
                self._missing = {pid: reason for pid, reason in self._missing.items() if pid in missing}
                return
            passed_over += len(page) - claimed
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

