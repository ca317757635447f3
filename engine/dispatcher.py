"""Which processes this engine holds, how many more it may take, and which worker gets them.

A waiting process is not held: it is a row. What is held is bounded, so ten thousand submitted processes are rows
too until there is room; the bound counts no process whose step is blocked in one of Treadle's own calls, since that
step can only go on when others do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..threads import LoopClosed
from .processes.visit import Visit
from .store.records import ProcessRecord

if TYPE_CHECKING:
    from .homes import Homes

__all__ = ['Dispatcher']

LOGGER = logging.getLogger(__name__)


class Dispatcher:
    """Counts what is held and deals out claims.

    :param capacity: how many processes may be held at once.
    :param blocked: how many held ones block a thread in a call at the moment.
    :param suspect_from: so many deaths of its engines make a process a suspect. An engine runs one at a time, so that
        the next death shows which of those that were held together is to blame.
    :param admits: whether this engine may run a record at all.
    :param homes: the processes that go to loops of the user's. They are not counted: a loop that does not run must
        not keep the workers from what is theirs.
    """

    def __init__(
        self,
        *,
        capacity: int,
        blocked: Callable[[], int],
        suspect_from: int,
        admits: Callable[[ProcessRecord], bool],
        homes: Homes,
    ) -> None:
        self._capacity = capacity
        self._blocked = blocked
        self._suspect_from = suspect_from
        self._may_run = admits
        self._homes = homes
        # By pid and epoch: a process can be claimed anew before the worker that it has left takes notice.
        self._held: dict[tuple[int, int], Visit | None] = {}
        self._at_home: set[tuple[int, int]] = set()
        # Killed, or taken away with the engine's life.
        self._killed: set[tuple[int, int]] = set()
        self._paused: set[tuple[int, int]] = set()
        self._endings: dict[Visit, list[Future[None]]] = {}
        self._endings_lock = threading.Lock()
        self._workers: Sequence[Callable[[Sequence[ProcessRecord]], None]] = ()
        self._next = 0
        self._open = False
        self._closed = False
        self._suspects: set[tuple[int, int]] = set()
        self._awaiting = 0
        self._awaiting_lock = threading.Lock()
        #: Whether some were refused for lack of room, and whether a suspect was; the search for work clears both.
        self.turned_away = False
        self.suspect_waits = False

    def open(self, workers: Sequence[Callable[[Sequence[ProcessRecord]], None]]) -> None:
        """Begin to admit; claims are handed to ``workers``, each a function that posts a batch."""
        self._workers = workers
        self._open = True

    def close(self) -> None:
        """Admit nothing more, and begin no further step."""
        self._open = False
        self._closed = True

    @property
    def is_closed(self) -> bool:
        """Whether no further step begins."""
        return self._closed

    @property
    def held(self) -> int:
        """How many processes the workers hold."""
        return len(self._held) - len(self._at_home)

    @property
    def room(self) -> int:
        """How many more may be claimed."""
        return self._capacity + self._blocked() + self._awaiting - self.held if self._open else 0

    @property
    def is_to_look(self) -> bool:
        """Whether it is worth while to look for more at once: many that were turned away could be taken now."""
        if self.suspect_waits and not self._runs_suspect():
            return self._open
        return self.turned_away and self.room * 2 >= self._capacity

    @property
    def has_room_for_more(self) -> bool:
        """Whether some were turned away, and there is room for one at least; the others may hold theirs for long."""
        return self.turned_away and self.room > 0

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        """Whether one more may be claimed, beside ``taken`` in the same transaction; on the store thread.

        What a blocked thread waits for is always admitted, and what goes to a loop of the user's.
        """
        if not self._open or not self._may_run(record):
            return False
        if record.nesting == 0 and taken >= self.room and record.pid not in self._homes:
            self.turned_away = True
            return False
        return True

    def is_suspect(self, record: ProcessRecord) -> bool:
        """Whether the process has seen so many engines die that it may be why; not one that a thread waits for."""
        return record.crashes >= self._suspect_from and record.nesting == 0

    def admits_suspect(self, *, took_one: bool) -> bool:
        """Whether a suspect may be claimed: no other one runs here; on the store thread.

        :param took_one: whether the same transaction has taken one already.
        """
        self.suspect_waits = True  # before the look: who leaves meanwhile finds it set, or is seen to have left
        return not took_one and not self._runs_suspect()

    def _runs_suspect(self) -> bool:
        return any(self._runs(claim) for claim in list(self._suspects))

    def _runs(self, claim: tuple[int, int]) -> bool:
        """Whether a held process may do something now, and does not only wait for others."""
        visit = self._held.get(claim)
        return visit is None or not visit.blocked_on

    def acquit(self, pid: int, epoch: int) -> None:
        """A step of it is committed: it is no suspect any more."""
        self._suspects.discard((pid, epoch))

    @contextmanager
    def awaiting(self, visit: Visit) -> Iterator[None]:
        """A step that is a coroutine waits for another process in the body, and makes room for it."""
        counts = 0 if visit.claim in self._at_home else 1  # those are not counted as held either
        self._add_awaiting(counts)
        try:
            yield
        finally:
            self._add_awaiting(-counts)

    def _add_awaiting(self, count: int) -> None:
        with self._awaiting_lock:
            self._awaiting += count

    def dispatch(self, claims: Sequence[ProcessRecord]) -> None:
        """Hand committed claims to the workers in turn, or to where they are at home; on the store thread."""
        self._held.update(dict.fromkeys((record.pid, record.epoch) for record in claims))
        self._suspects.update((record.pid, record.epoch) for record in claims if self.is_suspect(record))
        if self._homes:
            claims = self._send_home(claims)
        count = len(self._workers)
        shares: list[list[ProcessRecord]] = [[] for _ in range(count)]
        for record in claims:
            shares[self._next].append(record)
            self._next = (self._next + 1) % count
        for worker, share in zip(self._workers, shares, strict=True):
            if not share:
                continue
            try:
                worker(share)
            except LoopClosed:  # it stops; the engine gives back what it owns when it ends its row
                LOGGER.debug('%d claimed processes came after their worker had closed', len(share))
                for record in share:
                    self.left(record.pid, record.epoch)

    def _send_home(self, claims: Sequence[ProcessRecord]) -> Sequence[ProcessRecord]:
        """Hand claims to the runners on loops of the user's; returns the rest."""
        at_home = [(record.pid, record.epoch) for record in claims if record.pid in self._homes]
        self._at_home.update(at_home)  # before they are told, for they may have left in a moment
        rest = self._homes.send(claims)
        self._at_home.difference_update((record.pid, record.epoch) for record in rest)
        return rest

    def left(self, pid: int, epoch: int) -> None:
        """A worker no longer holds what was claimed with that epoch."""
        visit = self._held.pop((pid, epoch), None)
        self._suspects.discard((pid, epoch))
        self._at_home.discard((pid, epoch))
        self._killed.discard((pid, epoch))
        self._paused.discard((pid, epoch))
        if visit is not None and self._endings:
            self._tell_over(visit)

    # -- what goes on inside: no lock, since a dictionary's and a set's single operations are atomic ------------

    def begin_visit(self, visit: Visit) -> bool:
        """A step is about to start; ``False`` when it must not: its process was killed or taken away meanwhile, or the
        engine stops.

        It writes, then looks; :meth:`kill`, :meth:`lose` and :meth:`close` do so the other way round: one of the two
        sees the other.
        """
        self._held[visit.claim] = visit
        return visit.claim not in self._killed and not self._closed

    def is_paused(self, visit: Visit) -> bool:
        """Whether a pause was committed after the process was claimed; asked right before a step."""
        return visit.claim in self._paused

    def end_visit(self, visit: Visit) -> None:
        """The step is over; its process is still held."""
        self._held[visit.claim] = None
        if self._endings:
            self._tell_over(visit)

    def end_of(self, visit: Visit) -> Future[None]:
        """A future that resolves when the step is over; done already when it is."""
        over: Future[None] = Future()
        with self._endings_lock:
            self._endings.setdefault(visit, []).append(over)
        if self._held.get(visit.claim) is not visit:
            self._tell_over(visit)
        return over

    def _tell_over(self, visit: Visit) -> None:
        with self._endings_lock:
            endings = self._endings.pop(visit, ())
        for over in endings:
            try:
                over.set_result(None)
            except InvalidStateError:
                LOGGER.debug('nobody waits for the end of the step of process %d any more', visit.pid)

    def visits(self) -> list[Visit]:
        """The steps that go on now."""
        return [visit for visit in list(self._held.values()) if visit is not None]

    def held_pids(self) -> list[int]:
        """The processes that the workers hold."""
        return [pid for pid, _ in list(self._held)]

    def pause(self, pauses: Mapping[int, bool]) -> None:
        """These processes were paused, or played; on the store thread."""
        for claim in list(self._held):
            paused = pauses.get(claim[0])
            if paused is not None:
                (self._paused.add if paused else self._paused.discard)(claim)
                if claim not in self._held:  # it has left meanwhile, perhaps before it was among the paused
                    self._paused.discard(claim)

    def kill(self, pids: Iterable[int]) -> list[Visit]:
        """These processes were killed; returns the steps of theirs that go on and must be told."""
        gone = set(pids)
        return self._revoke([claim for claim in list(self._held) if claim[0] in gone])

    def lose(self) -> list[Visit]:
        """All that is held was taken away; returns the steps that go on and must be told."""
        return self._revoke(list(self._held))

    def _revoke(self, held: list[tuple[int, int]]) -> list[Visit]:
        self._killed.update(held)
        # Those that have left meanwhile have looked for themselves before they were among the killed.
        self._killed.difference_update(claim for claim in held if claim not in self._held)
        return [visit for claim in held if (visit := self._held.get(claim)) is not None]
