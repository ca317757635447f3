"""What the store can do inside one transaction, and nothing of threads, batches or retries.

The order within a group of units is fixed: the fences are read in one statement, what hangs on them is written
only for the units whose fence holds, then the waiting ones are looked at. So a parent that goes to wait while its
last child ends, in the same batch or in different ones, is woken exactly once: whoever commits second sees the
other's rows.

Nothing here tells anybody. ``changes`` and ``claims`` collect what is true once the transaction is committed; if
it is rolled back, the object is thrown away with them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..errors import KeyConflict
from ..states import TERMINAL_STATES, ProcessState
from .records import (
    INTENTS,
    PAUSED_FROM_ABOVE,
    PAUSED_ITSELF,
    Advance,
    EngineRecord,
    Fence,
    Held,
    LogEntry,
    Lost,
    ProcessRecord,
    StateChange,
    Unit,
    Verdict,
    storable,
)

if TYPE_CHECKING:
    from .statements import Statements  # which imports SQLAlchemy

_OWNED_STATES = frozenset({ProcessState.CREATED, ProcessState.RUNNING})

#: All bits of the column ``paused``.
_ANY_PAUSE = PAUSED_ITSELF | PAUSED_FROM_ABOVE


class Cursor(Protocol):
    """The part of a database driver's cursor that the store uses."""

    rowcount: int

    def execute(self, sql: str, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """Run one statement for each set of parameters."""

    def fetchall(self) -> list[Any]:
        """The rows of the last statement."""


#: So many deaths of its engines make a process a suspect: an engine holds one at a time, so that the next death shows
#: which of those that were held together is to blame.
SUSPECT = 2


class Admission(Protocol):
    """Who may be claimed by this engine, and how many at once."""

    def holds_suspect(self) -> bool:
        """Whether this engine holds a process that may be fatal; the next one has to wait then."""

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        """Whether this engine can take one more process, having taken ``taken`` in this transaction already."""


class Transaction:
    """One transaction's view of the store.

    :param cursor: a cursor inside a begun transaction.
    :param engine_id: the engine that claims; 0 for a writer that is none.
    :param admission: asked before each claim.
    """

    def __init__(self, *, cursor: Cursor, sql: Statements, engine_id: int, admission: Admission) -> None:
        self._cursor = cursor
        self._sql = sql
        #: The engine in whose name things are claimed; 0 for none.
        self.engine_id = engine_id
        #: Whether that is a new one, see :meth:`rejoin`.
        self.has_rejoined = False
        self._admission = admission
        self._now = time.time()
        self._took_suspect = False
        self.changes: list[StateChange] = []
        self.claims: list[ProcessRecord] = []
        #: By pid, whether the process is paused from now on, for those of which this transaction has changed it.
        self.pauses: dict[int, bool] = {}

    def _row(self) -> Any:
        """The only row of the last statement, or ``None``."""
        # All rows are taken: from Python 3.12 on a statement of which some are left keeps a COMMIT from succeeding.
        rows = self._cursor.fetchall()
        return rows[0] if rows else None

    # -- units -------------------------------------------------------------------------------------

    def apply(self, units: Sequence[Unit]) -> list[Verdict]:
        """Write the units in their order and give a verdict on each.

        :raises KeyConflict: a created process names a key that is taken by another class or other inputs.
        """
        verdicts: list[Verdict] = []
        for wave in _waves(units):
            verdicts.extend(self._apply_wave(wave))
        return verdicts

    def _apply_wave(self, units: Sequence[Unit]) -> list[Verdict]:
        verdicts = self._judge(units)
        held = [unit for unit, verdict in zip(units, verdicts, strict=True) if isinstance(verdict, Held)]
        paused = {
            unit.fence.pid
            for unit, verdict in zip(units, verdicts, strict=True)
            if unit.fence is not None and isinstance(verdict, Held) and verdict.paused
        }
        self._create(held, units, verdicts, paused)
        self._write_advances(held, paused)
        self._write_log([entry for unit in held for entry in unit.log])
        satisfied = self._await(held, paused)
        self._wake_waiters_of(
            unit.fence.pid
            for unit in held
            if unit.fence is not None and unit.advance is not None and unit.advance.state in TERMINAL_STATES
        )
        if any(unit.kept_calls is not None for unit in held):
            # After the waits: what is killed here may have gone to wait, or have been woken, a moment ago.
            self._kill_unasked_calls(held)
        pausing = [unit.fence.pid for unit in held if unit.pauses and unit.fence is not None]
        if pausing:
            self._pause_below(pausing)
        if satisfied:
            for index, unit in enumerate(units):
                verdict = verdicts[index]
                if unit.fence is not None and unit.fence.pid in satisfied and isinstance(verdict, Held):
                    verdicts[index] = msgspec.structs.replace(verdict, satisfied=True)
        return verdicts

    def _judge(self, units: Sequence[Unit]) -> list[Verdict]:
        fenced = [unit.fence.pid for unit in units if unit.fence is not None]
        rows: dict[int, Any] = {}
        if fenced:
            self._cursor.execute(self._sql.fences, {'pids': self._sql.dialect.pids(fenced)})
            rows = {row[0]: row for row in self._cursor.fetchall()}
        return [_verdict(unit, rows, self._now) for unit in units]

    def _create(
        self, held: Sequence[Unit], units: Sequence[Unit], verdicts: list[Verdict], paused: set[int]
    ) -> None:
        rows: list[dict[str, Any]] = []
        for unit in held:
            for record in unit.create:
                if record.key is not None:
                    holder = self._holder_of_key(record)
                    if holder is not None:
                        index = next(i for i, other in enumerate(units) if other is unit)
                        verdict = verdicts[index]
                        version = verdict.version if isinstance(verdict, Held) else 0
                        verdicts[index] = Held(version=version, attached=holder)
                        continue
                if record.parent in paused:
                    record = msgspec.structs.replace(record, paused=PAUSED_FROM_ABOVE)
                self.changes.append(StateChange(record.pid, '', record.state))
                rows.append(msgspec.structs.asdict(self._claimed_at_birth(record)))
        if rows:
            self._cursor.executemany(self._sql.insert_process, rows)

    def _holder_of_key(self, record: ProcessRecord) -> ProcessRecord | None:
        self._cursor.execute(self._sql.holder_of_key, {'key': record.key})
        row = self._row()
        if row is None:
            return None
        holder = ProcessRecord(*row)
        if holder.fingerprint != record.fingerprint:
            raise KeyConflict(
                f'the key {record.key!r} belongs to process {holder.pid} ({holder.process_label}, {holder.state}), '
                + (
                    'which has other inputs; use another key, or the same inputs to attach to that process'
                    if holder.class_name == record.class_name
                    else f'which has another class, {holder.class_name}; use another key'
                )
            )
        if holder.owner is None and self.engine_id:
            # With its children: an engine that runs only what is its own would leave them alone for ever.
            self._cursor.execute(
                self._sql.adopt,
                {'new_origin': self.engine_id, 'pids': self._sql.dialect.pids([holder.pid])},
            )
            self.claim([row[0] for row in self._cursor.fetchall()])
        return holder

    def _claimed_at_birth(self, record: ProcessRecord) -> ProcessRecord:
        if record.owner is not None:  # a function, which its caller drives; this engine may have rejoined meanwhile
            return msgspec.structs.replace(record, owner=self.engine_id or None)
        if record.driven or record.paused or record.state not in _OWNED_STATES:
            return record
        if not self._admits(record, len(self.claims)):
            return record
        record = msgspec.structs.replace(record, owner=self.engine_id, epoch=1, state=ProcessState.RUNNING)
        self.claims.append(record)
        self.changes.append(StateChange(record.pid, ProcessState.CREATED, ProcessState.RUNNING))
        return record

    def _write_advances(self, held: Sequence[Unit], paused: set[int]) -> None:
        rows: list[dict[str, Any]] = []
        owner = self.engine_id or None
        for unit in held:
            fence, advance = unit.fence, unit.advance
            if fence is None or advance is None:
                continue
            rows.append(
                {
                    'state': advance.state,
                    'visit': advance.visit,
                    'step': advance.step,
                    'checkpoint': advance.checkpoint,
                    'outputs': advance.outputs,
                    'exit_status': advance.exit_status,
                    'exit_message': advance.exit_message,
                    'exception': advance.exception,
                    'pause_bits': PAUSED_ITSELF if unit.pauses else 0,
                    'pause_mask': 0 if advance.state in TERMINAL_STATES else _ANY_PAUSE,
                    'owner': owner if advance.state in _OWNED_STATES and fence.pid not in paused else None,
                    'changed_at': self._now,
                    'fenced_pid': fence.pid,
                    'fenced_epoch': fence.epoch,
                    'fenced_version': fence.version,
                }
            )
            if unit.emitted:
                self.changes.append(
                    StateChange(fence.pid, ProcessState.RUNNING, advance.state, unit.emitted, advance.outputs)
                )
            elif advance.state != ProcessState.RUNNING:
                self.changes.append(StateChange(fence.pid, ProcessState.RUNNING, advance.state))
        if rows:
            self._cursor.executemany(self._sql.advance, rows)

    def _write_log(self, log: Sequence[LogEntry]) -> None:
        if log:
            self._cursor.executemany(self._sql.insert_log, [msgspec.structs.asdict(entry) for entry in log])

    def _kill_unasked_calls(self, held: Sequence[Unit]) -> None:
        for unit in held:
            fence, advance, kept = unit.fence, unit.advance, unit.kept_calls
            if fence is None or advance is None or kept is None:
                continue
            # The visit that ends here is the one before the visit that the advance begins.
            self._cursor.execute(
                self._sql.unasked_calls, {'parent': fence.pid, 'call_visit': advance.visit - 1}
            )
            unasked = [pid for pid, number in self._cursor.fetchall() if number not in kept]
            if unasked:
                self.kill(unasked, 'the step that had called it was run again and did not ask for it')

    def _await(self, held: Sequence[Unit], paused: set[int]) -> set[int]:
        """Register what goes to wait; return those whose wait was over before it began."""
        waits = [
            (unit.fence.pid, unit.advance)
            for unit in held
            if unit.fence is not None and unit.advance is not None and unit.advance.state == ProcessState.WAITING
        ]
        if not waits:
            return set()
        self._cursor.executemany(
            self._sql.insert_awaiting,
            [{'waiter': pid, 'awaited_pid': awaited} for pid, advance in waits for awaited in advance.awaiting],
        )
        waiters = {pid for pid, _ in waits}
        satisfied = waiters - self._still_waiting(waiters)
        if satisfied:
            for owner, pids in ((self.engine_id or None, satisfied - paused), (None, satisfied & paused)):
                if pids:
                    self._cursor.execute(
                        self._sql.stay_running, {'owner': owner, 'pids': self._sql.dialect.pids(pids)}
                    )
            self.changes.extend(
                StateChange(pid, ProcessState.WAITING, ProcessState.RUNNING) for pid in satisfied
            )
        return satisfied

    # -- waking and claiming ---------------------------------------------------------------------------

    def _still_waiting(self, waiters: Iterable[int]) -> set[int]:
        self._cursor.execute(self._sql.still_waiting, {'pids': self._sql.dialect.pids(waiters)})
        return {row[0] for row in self._cursor.fetchall()}

    def _wake_waiters_of(self, ended: Iterable[int]) -> None:
        pids = self._sql.dialect.pids(ended)
        if pids == self._sql.dialect.pids(()):
            return
        self._cursor.execute(self._sql.resolve_awaited, {'pids': pids})
        waiters = {row[0] for row in self._cursor.fetchall()}
        if not waiters:
            return
        woken = waiters - self._still_waiting(waiters)
        if not woken:
            return
        self._cursor.execute(
            self._sql.wake, {'pids': self._sql.dialect.pids(woken), 'changed_at': self._now}
        )
        running = [row[0] for row in self._cursor.fetchall()]
        self.changes.extend(StateChange(pid, ProcessState.WAITING, ProcessState.RUNNING) for pid in running)
        if running:
            self.claim(running)

    def claim(self, pids: Iterable[int]) -> int:
        """Take those of ``pids`` that nobody owns, as far as the admission goes.

        :returns: how many were claimed.
        """
        self._cursor.execute(self._sql.select_processes, {'pids': self._sql.dialect.pids(pids)})
        admitted: dict[int, str] = {}
        for row in self._cursor.fetchall():
            record = ProcessRecord(*row)
            taken = len(self.claims) + len(admitted)
            if record.owner is not None or record.driven or record.paused:
                continue
            if self._admits(record, taken):
                admitted[record.pid] = record.state
        if not admitted:
            return 0
        self._cursor.execute(
            self._sql.claim, {'pids': self._sql.dialect.pids(admitted), 'new_owner': self.engine_id}
        )
        records = [ProcessRecord(*row) for row in self._cursor.fetchall()]
        self.claims.extend(records)
        self.changes.extend(
            StateChange(record.pid, ProcessState.CREATED, ProcessState.RUNNING)
            for record in records
            if admitted[record.pid] == ProcessState.CREATED
        )
        return len(records)

    def _admits(self, record: ProcessRecord, taken: int) -> bool:
        if not self.engine_id:
            return False
        is_suspect = record.crashes >= SUSPECT and record.nesting == 0
        if is_suspect and (self._took_suspect or self._admission.holds_suspect()):
            return False
        if not self._admission.admits(record, taken):
            return False
        self._took_suspect |= is_suspect
        return True

    def claim_driven(self, pid: int) -> ProcessRecord | None:
        """Take a process function that the calling thread is about to drive itself, if nobody owns it."""
        if not self.engine_id:
            return None
        self._cursor.execute(
            self._sql.claim_driven, {'pids': self._sql.dialect.pids([pid]), 'new_owner': self.engine_id}
        )
        row = self._row()
        return None if row is None else ProcessRecord(*row)

    # -- intents ---------------------------------------------------------------------------------------

    def kill(self, pids: Iterable[int], message: str) -> list[int]:
        """Kill these processes and all their descendants that have not ended.

        From the commit on no other end is possible: the row's version has moved on, so whatever a step that still
        executes wants to write is refused.

        :returns: the pids that this call killed.
        """
        self._cursor.execute(self._sql.family, {'pids': self._sql.dialect.pids(pids)})
        family = self._cursor.fetchall()
        killed = [row[0] for row in family]
        if killed:
            as_set = self._sql.dialect.pids(killed)
            self._cursor.execute(
                self._sql.kill, {'pids': as_set, 'exit_message': storable(message), 'changed_at': self._now}
            )
            self._cursor.execute(self._sql.forget_waiter, {'pids': as_set})
            self.changes.extend(StateChange(pid, before, ProcessState.KILLED) for pid, before in family)
            # What this very transaction has claimed must not be handed to a worker any more.
            gone = set(killed)
            self.claims[:] = [record for record in self.claims if record.pid not in gone]
            self._wake_waiters_of(killed)
        return killed

    def keep_log_of_killed(self, fence: Fence, log: Sequence[LogEntry]) -> None:
        """Write what a step had logged whose process was killed under this very claim; else it counts for nothing."""
        self._cursor.execute(self._sql.fences, {'pids': self._sql.dialect.pids([fence.pid])})
        row = self._row()
        if row is not None and row[1] == fence.epoch and row[3] == ProcessState.KILLED:
            self._write_log(log)

    def pause(self, pids: Iterable[int], message: str | None) -> list[int]:
        """Pause these processes and all their descendants that have not ended.

        No version is raised: a step that executes commits, and its process is released by that commit.

        :returns: those of ``pids`` that this call paused: they have not ended, and were not paused by themselves.
        """
        roots = set(pids)
        paused = [
            pid
            for pid, before in self._live_family(roots)
            if pid in roots and not before & PAUSED_ITSELF
        ]
        if paused:
            self._set_paused(paused, PAUSED_ITSELF, _ANY_PAUSE)
            self._pause_below(paused)
            self._log_intent(paused, 'paused' if message is None else f'paused: {message}')
        return paused

    def _pause_below(self, pids: Sequence[int]) -> None:
        """Pause the descendants of processes that are paused by themselves; take back what was just claimed."""
        family = dict(self._live_family(pids))
        below = [pid for pid, before in family.items() if pid not in pids and not before & PAUSED_FROM_ABOVE]
        self._set_paused(below, PAUSED_FROM_ABOVE, _ANY_PAUSE)
        self.pauses.update(dict.fromkeys(family, True))
        withdrawn = [record.pid for record in self.claims if record.pid in family]
        if withdrawn:
            self._cursor.execute(self._sql.withdraw, {'pids': self._sql.dialect.pids(withdrawn)})
            self.claims[:] = [record for record in self.claims if record.pid not in family]

    def play(self, pids: Iterable[int]) -> list[int]:
        """Let these processes go on, and those of their descendants that were paused only because of them.

        A process that is named goes on though one above it stays paused.

        :returns: the pids that are no longer paused.
        """
        roots = set(pids)
        self._cursor.execute(self._sql.paused_below, {'pids': self._sql.dialect.pids(roots)})
        rows = self._cursor.fetchall()
        named = [pid for pid, _ in rows if pid in roots]
        self._set_paused(named, 0, 0)
        self._cursor.execute(self._sql.forgive, {'pids': self._sql.dialect.pids(named)})
        self._set_paused([pid for pid, _ in rows if pid not in roots], 0, PAUSED_ITSELF)
        played = [pid for pid, before in rows if pid in roots or not before & PAUSED_ITSELF]
        if played:
            self.pauses.update(dict.fromkeys(played, False))
            self._log_intent(named, 'played')
            self.claim(played)
        return played

    def _live_family(self, pids: Iterable[int]) -> list[tuple[int, int]]:
        """Those of ``pids`` that have not ended with their descendants that have not: pid and ``paused``."""
        self._cursor.execute(self._sql.live_family, {'pids': self._sql.dialect.pids(pids)})
        return [(row[0], row[1]) for row in self._cursor.fetchall()]

    def _set_paused(self, pids: Sequence[int], bits: int, mask: int) -> None:
        if pids:
            self._cursor.execute(
                self._sql.set_paused,
                {'pids': self._sql.dialect.pids(pids), 'pause_bits': bits, 'pause_mask': mask},
            )

    def _log_intent(self, pids: Iterable[int], message: str) -> None:
        entries = [LogEntry(pid, self._now, logging.INFO, INTENTS, storable(message)) for pid in pids]
        self._cursor.executemany(self._sql.insert_log, [msgspec.structs.asdict(entry) for entry in entries])

    def release(self, fence: Fence, *, take_again: bool = False) -> None:
        """Give a claimed process back, to be claimed by anyone.

        :param take_again: claim it anew, if it can be: it was given back since it was paused, and may have been
            played before this was written.
        """
        self._cursor.execute(
            self._sql.release_one,
            {'released_pid': fence.pid, 'old_owner': self.engine_id, 'old_epoch': fence.epoch},
        )
        if take_again:
            self.claim([fence.pid])

    def set_aside_the_fatal(self, engine_id: int, most: int) -> None:
        """Pause what has seen more deaths of its engines than it may, before it is taken from the last of them."""
        self._cursor.execute(self._sql.fatal, {'old_owner': engine_id, 'most': most})
        for pid, crashes in self._cursor.fetchall():
            self.pause(
                [pid],
                f'quarantined: {crashes + 1} engines in a row have died while they ran it, before it came to a '
                f'checkpoint; look into its step, then play it',
            )
    # -- what is told to people --------------------------------------------------------------------------

    def keep_code(self, texts: Mapping[str, str]) -> None:
        """Keep what code says under its digest, unless it is there."""
        self._cursor.executemany(
            self._sql.insert_code, [{'digest': digest, 'text': text} for digest, text in texts.items()]
        )

    def log_once(self, entry: LogEntry) -> None:
        """Add to a log stream, unless the same was said since the process last moved on."""
        self._cursor.execute(self._sql.insert_log_once, msgspec.structs.asdict(entry))

    # -- engines and pids --------------------------------------------------------------------------------

    def reserve_pids(self, count: int) -> int:
        """Reserve ``count`` pids; returns the first one after them."""
        self._cursor.execute(self._sql.next_number, {'counter': 'pid', 'count': count})
        return int(self._row()[0])

    def register_engine(self, record: EngineRecord) -> int:
        """Add an engine; returns its id, which is never used again."""
        parameters = msgspec.structs.asdict(record)
        del parameters['id']
        self._cursor.execute(self._sql.insert_engine, parameters)
        return int(self._row()[0])

    def live_engines(self) -> list[EngineRecord]:
        """The engines that have not ended."""
        self._cursor.execute(self._sql.live_engines, {})
        return [EngineRecord(*row) for row in self._cursor.fetchall()]

    def is_member(self) -> bool:
        """Whether the engine has not ended, and was not declared dead."""
        self._cursor.execute(self._sql.is_member, {'engine_id': self.engine_id})
        return self._row() is not None

    def rejoin(self, record: EngineRecord | None) -> None:
        """Go on as another engine, since this one was declared dead; ``None`` for none, which claims nothing."""
        self.engine_id = 0 if record is None else self.register_engine(record)
        self.has_rejoined = record is not None

    def beat(self) -> None:
        """Raise the engine's heartbeat."""
        self._cursor.execute(self._sql.beat, {'engine_id': self.engine_id, 'at': self._now})

    def heartbeat_of(self, engine_id: int) -> int:
        """An engine's heartbeat; -1 when it has ended."""
        return next((each.heartbeat for each in self.live_engines() if each.id == engine_id), -1)

    def declare_dead(self, engine_id: int, seen: int, max_crashes: int | None) -> bool:
        """Declare an engine dead whose heartbeat was ``seen`` last, and take away what it owned.

        The epochs are raised, so nothing that the engine may yet write counts.

        :param max_crashes: how many such deaths in a row a process may see before it is paused; ``None`` when its
            processes have nothing to do with it.
        :returns: whether this call did it; ``False`` when it has beaten or ended since.
        """
        self._cursor.execute(self._sql.declare_dead, {'engine_id': engine_id, 'seen': seen})
        if self._cursor.rowcount != 1:
            return False
        if max_crashes is not None:
            self.set_aside_the_fatal(engine_id, max_crashes)
        blame = 0 if max_crashes is None else 1
        self._cursor.execute(self._sql.take_away, {'old_owner': engine_id, 'blame': blame})
        return True

    def end_engine(self, how: str) -> None:
        """End the engine, which stops by itself, and release what it owns."""
        self._cursor.execute(self._sql.release, {'old_owner': self.engine_id})
        self._cursor.execute(self._sql.end_engine, {'engine_id': self.engine_id, 'how': how})

    def release_all_but(self, pids: Iterable[int]) -> None:
        """Release what the engine owns, except for these, whose steps still execute; from now on it beats no more."""
        self._cursor.execute(
            self._sql.release_others, {'old_owner': self.engine_id, 'pids': self._sql.dialect.pids(pids)}
        )
        self._cursor.execute(self._sql.give_up_lease, {'engine_id': self.engine_id})


def _verdict(unit: Unit, rows: dict[int, Any], now: float) -> Verdict:
    fence: Fence | None = unit.fence
    if fence is None:
        return Held(version=0)
    row = rows.get(fence.pid)
    if row is None:
        return Lost(state=None)
    _, epoch, version, state, message, paused = row
    if epoch != fence.epoch or version != fence.version or state in TERMINAL_STATES:
        return Lost(state=state, message=message)
    advance: Advance | None = unit.advance
    return Held(
        version=version if advance is None else version + 1, at=now, paused=bool(paused) or unit.pauses
    )


def _waves(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """Cut the units into runs in which no process is named twice, so that each run can be written as a set."""
    start, seen = 0, set[int]()
    for index, unit in enumerate(units):
        named = [record.pid for record in unit.create]
        keys = [hash(record.key) for record in unit.create if record.key is not None]
        if unit.fence is not None:
            named.append(unit.fence.pid)
        if not seen.isdisjoint(named) or not seen.isdisjoint(keys):
            yield units[start:index]
            start, seen = index, set()
        seen.update(named, keys)
    if start < len(units):
        yield units[start:]
