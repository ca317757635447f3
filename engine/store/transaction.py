"""One transaction's view of the store, and what any writing in it may lead to: processes are woken, and claimed.

What is written stands in modules of its own, as functions of the transaction: :mod:`.units` (processes move on and
come into being), :mod:`.intents` (kill, pause and play), :mod:`.engines` (they join, beat, end and die) and
:mod:`.notes` (what people read later). None of them knows anything of threads, batches or retries.

Nothing here tells anybody. ``changes``, ``claims`` and ``pauses`` collect what is true once the transaction is
committed; if it is rolled back, the object is thrown away with them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import StoreRetired, StoreUnavailable
from ..states import ProcessState
from .records import Fence, ProcessRecord, Retirement, StateChange

if TYPE_CHECKING:
    from .statements import Statements  # which imports SQLAlchemy

__all__ = ['Admission', 'Barred', 'Cursor', 'Transaction']


class Cursor(Protocol):
    """The part of a database driver's cursor that the store uses."""

    rowcount: int

    def execute(self, sql: str, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """Run one statement for each set of parameters."""

    def fetchall(self) -> list[Any]:
        """The rows of the last statement."""


class Admission(Protocol):
    """Who may be claimed by this engine, and how many at once."""

    def is_suspect(self, record: ProcessRecord) -> bool:
        """Whether the process may be fatal to its engine."""

    def admits_suspect(self, *, took_one: bool) -> bool:
        """Whether this engine can take a process that may be fatal, of which it runs one at a time.

        :param took_one: whether one was taken in this transaction already.
        """

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        """Whether this engine can take one more process, having taken ``taken`` in this transaction already."""


_BARRED: Final = (
    'another program holds a row of the store that an earlier write waits for; end whatever has a long transaction '
    'on it, and try again'
)


class Barred(StoreUnavailable):
    """An earlier operation on the same process waits for a row that another program holds."""


class Transaction:
    """What all that is written in one transaction shares.

    :param cursor: a cursor inside a begun transaction.
    :param sql: the statements of its database.
    :param engine_id: the engine that claims; 0 for a writer that is none.
    :param admission: asked before each claim.
    :param barred: processes that earlier operations wait for, which are to be written first.

    :ivar engine_id: the engine in whose name things are claimed; 0 for none.
    :ivar has_rejoined: whether that is a new one, see :func:`.engines.rejoin`.
    :ivar now: when it began, in seconds since the epoch.
    :ivar changes: the changes of state, in their order.
    :ivar claims: the processes that are the engine's to run from now on.
    :ivar touched: the processes whose rows it has locked, or tried to, where rows are locked.
    :ivar pauses: by pid, whether the process is paused from now on, for those of which this transaction changed it.
    """

    def __init__(
        self,
        *,
        cursor: Cursor,
        sql: Statements,
        engine_id: int,
        admission: Admission,
        barred: frozenset[int] = frozenset(),
    ) -> None:
        self.cursor = cursor
        self.sql = sql
        self.engine_id = engine_id
        self.has_rejoined = False
        self.now = time.time()
        self.changes: list[StateChange] = []
        self.claims: list[ProcessRecord] = []
        self.pauses: dict[int, bool] = {}
        self.touched: set[int] = set()
        self._barred = barred
        self._admission = admission
        self._took_suspect = False

    # -- running statements ------------------------------------------------------------------------------

    def rows(self, statement: str, parameters: dict[str, Any]) -> list[Any]:
        """Run a statement that gives rows; all of them."""
        self.cursor.execute(statement, parameters)
        # All rows are taken: from Python 3.12 on a statement of which some are left keeps a COMMIT from succeeding.
        return self.cursor.fetchall()

    def row(self, statement: str, parameters: dict[str, Any]) -> Any:
        """Run a statement that gives one row at most; that row, or ``None``."""
        rows = self.rows(statement, parameters)
        return rows[0] if rows else None

    def run_each(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that is made for :meth:`Wording.run_each` for all these rows; none: nothing is run."""
        if rows:
            self.sql.dialect.run_each(self.cursor, statement, rows)

    def as_set(self, pids: Iterable[int]) -> object:
        """A set of pids as the value of a statement's parameter ``pids``."""
        return self.sql.dialect.pids(pids)

    def reserve_pids(self, count: int) -> int:
        """Reserve ``count`` pids; returns the first one after them."""
        return int(self.row(self.sql.next_number, {'counter': 'pid', 'count': count})[0])

    # -- locking, where the database does not lock itself as a whole -----------------------------------------

    def fences(self, pids: Collection[int], *, ended: Collection[int], awaited: Iterable[int]) -> list[Any]:
        """What a writer must know of the rows ``pids``; where rows are locked, nobody else writes to them any more.

        :param ended: those of ``pids`` that end here: whoever waits for them is locked too.
        :param awaited: what is awaited from here on, which is locked as well: it ends before, or after this.
        """
        if not self.sql.dialect.locks_rows:
            return self.rows(self.sql.fences, {'pids': self.as_set(pids)})
        touched = {*pids, *awaited}
        self._touch(touched)
        return self.rows(self.sql.lock_fences, {'pids': self.as_set(touched), 'ended': self.as_set(ended)})

    def lock(self, pids: Iterable[int]) -> None:
        """Let nobody else write to these rows until the transaction ends; what others wrote is seen from now on."""
        if self.sql.dialect.locks_rows:
            pids = set(pids)
            self._touch(pids)
            self.rows(self.sql.lock, {'pids': self.as_set(pids)})

    def _touch(self, pids: Collection[int]) -> None:
        self.touched.update(pids)
        if not self._barred.isdisjoint(pids):
            raise Barred(_BARRED)

    def touch_all(self) -> None:
        """What follows is about all processes of the engine.

        :raises Barred: an earlier operation is still to be written.
        """
        self._touch(self._barred)

    def lock_family(self, pids: Iterable[int]) -> None:
        """:meth:`lock` for these and all that they have called, and so on.

        It goes down level by level, each in a statement of its own: whoever adds a child has locked its parent, so the
        children of a parent that is locked here are all there are.
        """
        if not self.sql.dialect.locks_rows:
            return
        seen: set[int] = set()
        level = set(pids)
        while level:
            self.lock(level)
            seen |= level
            level = {row[0] for row in self.rows(self.sql.called_by, {'pids': self.as_set(level)})} - seen

    def refuse_if_retired(self) -> None:
        """See to it that the store is in use.

        :raises StoreRetired: it was closed for good; says where its contents went.
        """
        row = self.row(self.sql.select_retirement, {})
        if row is not None:
            raise retired(Retirement(*row))

    # -- waking ------------------------------------------------------------------------------------------

    def still_waiting(self, waiters: Iterable[int]) -> set[int]:
        """Those of ``waiters`` that await something which has not ended."""
        return {row[0] for row in self.rows(self.sql.still_waiting, {'pids': self.as_set(waiters)})}

    def wake_waiters_of(self, ended: Collection[int]) -> None:
        """Wake those that waited for these processes and for nothing else, and claim them if there is room."""
        if not ended:
            return
        waiters = {row[0] for row in self.rows(self.sql.resolve_awaited, {'pids': self.as_set(ended)})}
        if not waiters:
            return
        # Another child of the same parent may end at this moment; whoever comes second sees what the first has done.
        self.lock(waiters)
        self.wake(waiters - self.still_waiting(waiters))

    def wake(self, woken: Collection[int]) -> None:
        """Let processes go on that wait for nothing any more, and claim them if there is room."""
        if not woken:
            return
        rows = self.rows(self.sql.wake, {'pids': self.as_set(woken), 'changed_at': self.now})
        running = [row[0] for row in rows]
        self.changes.extend(StateChange(pid, ProcessState.WAITING, ProcessState.RUNNING) for pid in running)
        if running:
            self.claim(running)

    # -- claiming ----------------------------------------------------------------------------------------

    def claim(self, pids: Iterable[int]) -> int:
        """Take those of ``pids`` that nobody owns, as far as the admission goes.

        :returns: how many were claimed.
        """
        admitted: dict[int, str] = {}
        select = self.sql.lock_claimable if self.sql.dialect.locks_rows else self.sql.select_processes
        for row in self.rows(select, {'pids': self.as_set(pids)}):
            record = ProcessRecord(*row)
            if record.owner is not None or record.driven or record.paused:
                continue
            if self.admits(record, len(self.claims) + len(admitted)):
                admitted[record.pid] = record.state
        if not admitted:
            return 0
        rows = self.rows(self.sql.claim, {'pids': self.as_set(admitted), 'new_owner': self.engine_id})
        records = [ProcessRecord(*row) for row in rows]
        self.claims.extend(records)
        self.changes.extend(
            StateChange(record.pid, ProcessState.CREATED, ProcessState.RUNNING)
            for record in records
            if admitted[record.pid] == ProcessState.CREATED
        )
        return len(records)

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        """Whether the engine can take this process, having taken ``taken`` before it; if so, it has to be taken."""
        if not self.engine_id:
            return False
        is_suspect = self._admission.is_suspect(record)
        if is_suspect and not self._admission.admits_suspect(took_one=self._took_suspect):
            return False
        if not self._admission.admits(record, taken):
            return False
        self._took_suspect |= is_suspect
        return True

    def claim_driven(self, pid: int) -> ProcessRecord | None:
        """Take a process function that the calling thread is about to drive itself, if nobody owns it."""
        if not self.engine_id:
            return None
        row = self.row(self.sql.claim_driven, {'pids': self.as_set([pid]), 'new_owner': self.engine_id})
        return None if row is None else ProcessRecord(*row)

    def unclaim(self, pids: Collection[int]) -> list[int]:
        """Hand none of these to a worker, though this very transaction has claimed them; returns those it had."""
        unclaimed = [record.pid for record in self.claims if record.pid in pids]
        if unclaimed:
            self.claims = [record for record in self.claims if record.pid not in pids]
        return unclaimed

    def release(self, fence: Fence, *, take_again: bool = False) -> None:
        """Give a claimed process back, to be claimed by anyone.

        :param take_again: claim it anew, if it can be: it was given back since it was paused, and may have been
            played before this was written.
        """
        if self.sql.dialect.locks_rows:
            self._touch([fence.pid])
        self.cursor.execute(
            self.sql.release_one,
            {'released_pid': fence.pid, 'old_owner': self.engine_id, 'old_epoch': fence.epoch},
        )
        if take_again:
            self.claim([fence.pid])


def retired(retirement: Retirement) -> StoreRetired:
    """The error for a store that was closed for good."""
    when = time.strftime('%Y-%m-%d %H:%M', time.localtime(retirement.at))
    where = f'moved to {retirement.moved_to}' if retirement.moved_to else 'moved to another store'
    return StoreRetired(
        f'this store was retired on {when} and takes nothing any more: what was in it has {where}; name that store '
        f'(--store, store=... or TREADLE_STORE). If it never got there, `treadle store reopen` takes this one back'
    )
