"""Writing units: processes come into being, move on, go to wait and end. This is the hot path of the store.

The order within a group of units is fixed: the fences are read in one statement, what hangs on them is written
only for the units whose fence holds, then the waiting ones are looked at. So a parent that goes to wait while its
last child ends, in the same batch or in different ones, is woken exactly once: whoever commits second sees the
other's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..errors import KeyConflict
from ..states import TERMINAL_STATES, ProcessState
from .intents import kill, pause_below
from .jobs import begin_jobs
from .notes import write_log
from .records import (
    ANY_PAUSE,
    PAUSED_FROM_ABOVE,
    PAUSED_ITSELF,
    Advance,
    Fence,
    Held,
    Lost,
    ProcessRecord,
    StateChange,
    Unit,
    Verdict,
)
from .transaction import Transaction

__all__ = ['apply']

_OWNED_STATES: Final = frozenset({ProcessState.CREATED, ProcessState.RUNNING})


def apply(transaction: Transaction, units: Sequence[Unit]) -> list[Verdict]:
    """Write the units in their order and give a verdict on each.

    :raises KeyConflict: a created process names a key that is taken by another class or other inputs.
    """
    verdicts: list[Verdict] = []
    for wave in _waves(units):
        verdicts.extend(_Wave(transaction, wave).write())
    return verdicts


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


class _Wave:
    """Units that are written as one set: no process is named twice among them."""

    def __init__(self, transaction: Transaction, units: Sequence[Unit]) -> None:
        self._transaction = transaction
        self._sql = transaction.sql
        self._units = units
        self._verdicts: list[Verdict] = []
        # Of the verdicts, what is asked for again and again: the units that hold, those of them that move a process on,
        # and the processes that are paused.
        self._held: list[Unit] = []
        self._moves: list[tuple[Fence, Advance, Unit]] = []
        self._paused: set[int] = set()

    def write(self) -> list[Verdict]:
        """Write all that holds; a verdict on each unit."""
        self._judge()
        self._create()
        self._advance()
        write_log(self._transaction, [entry for unit in self._held for entry in unit.log])
        self._await()
        self._transaction.wake_waiters_of(
            [fence.pid for fence, advance, _ in self._moves if advance.state in TERMINAL_STATES]
        )
        # After the waits: what is killed here may have gone to wait, or have been woken, a moment ago.
        self._kill_unasked_calls()
        self._pause_below()
        return self._verdicts

    def _judge(self) -> None:
        fenced = [unit.fence.pid for unit in self._units if unit.fence is not None]
        rows: dict[int, Any] = {}
        if fenced:
            found = self._transaction.fences(fenced, ended=self._ending(), awaited=self._awaited())
            rows = {row[0]: row for row in found}
        for unit in self._units:
            verdict = _verdict(unit, rows, self._transaction.now)
            self._verdicts.append(verdict)
            if isinstance(verdict, Lost):
                continue
            self._held.append(unit)
            if unit.fence is not None:
                if unit.advance is not None:
                    self._moves.append((unit.fence, unit.advance, unit))
                if verdict.paused:
                    self._paused.add(unit.fence.pid)

    def _ending(self) -> list[int]:
        return [
            unit.fence.pid
            for unit in self._units
            if unit.fence is not None and unit.advance is not None and unit.advance.state in TERMINAL_STATES
        ]

    def _awaited(self) -> list[int]:
        return [pid for unit in self._units if unit.advance is not None for pid in unit.advance.awaiting]

    # -- coming into being ---------------------------------------------------------------------------------

    def _create(self) -> None:
        rows: list[dict[str, Any]] = []
        for index, unit in enumerate(self._units):
            verdict = self._verdicts[index]
            if isinstance(verdict, Lost):
                continue
            for record in unit.create:
                holder = None if record.key is None else self._holder_of_key(record)
                if holder is None:
                    rows.append(msgspec.structs.asdict(self._born(record)))
                else:
                    self._verdicts[index] = msgspec.structs.replace(verdict, attached=holder)
        if rows:
            self._transaction.run_each(self._sql.insert_process, rows)

    def _holder_of_key(self, record: ProcessRecord) -> ProcessRecord | None:
        row = self._transaction.row(self._sql.holder_of_key, {'key': record.key})
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
        if holder.state not in TERMINAL_STATES:
            # Somebody wants it still: the deaths of engines that were killed by hand must not add up.
            self._transaction.cursor.execute(self._sql.forgive_family, {'pids': self._transaction.as_set([holder.pid])})
        if holder.owner is None and self._transaction.engine_id:
            self._adopt(holder.pid)
        return holder

    def _adopt(self, pid: int) -> None:
        """Make it this engine's own, with its children: one that runs only its own would leave them alone for ever."""
        self._transaction.lock_family([pid])
        adopted = self._transaction.rows(
            self._sql.adopt,
            {'new_origin': self._transaction.engine_id, 'pids': self._transaction.as_set([pid])},
        )
        self._transaction.claim([row[0] for row in adopted])

    def _born(self, record: ProcessRecord) -> ProcessRecord:
        """The row of a new process: paused as its parent is, or claimed at once, if it can be."""
        transaction = self._transaction
        if record.parent in self._paused:
            record = msgspec.structs.replace(record, paused=PAUSED_FROM_ABOVE)
        transaction.changes.append(StateChange(record.pid, '', record.state))
        if record.owner is not None:  # a function, which its caller drives; this engine may have rejoined meanwhile
            return msgspec.structs.replace(record, owner=transaction.engine_id or None)
        if record.driven or record.paused or record.state not in _OWNED_STATES:
            return record
        if not transaction.admits(record, len(transaction.claims)):
            return record
        record = msgspec.structs.replace(
            record, owner=transaction.engine_id, epoch=1, state=ProcessState.RUNNING
        )
        transaction.claims.append(record)
        transaction.changes.append(StateChange(record.pid, ProcessState.CREATED, ProcessState.RUNNING))
        return record

    # -- moving on -----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if not self._moves:
            return
        changes = self._transaction.changes
        self._transaction.run_each(self._sql.advance, [self._moved(*move) for move in self._moves])
        for fence, advance, unit in self._moves:
            if unit.emitted:
                changes.append(
                    StateChange(fence.pid, ProcessState.RUNNING, advance.state, unit.emitted, advance.outputs)
                )
            elif advance.state != ProcessState.RUNNING:
                changes.append(StateChange(fence.pid, ProcessState.RUNNING, advance.state))

    def _moved(self, fence: Fence, advance: Advance, unit: Unit) -> dict[str, Any]:
        """What becomes of a row."""
        is_kept = advance.state in _OWNED_STATES and fence.pid not in self._paused
        return {
            'state': advance.state,
            'visit': advance.visit,
            'step': advance.step,
            'checkpoint': advance.checkpoint,
            'outputs': advance.outputs,
            'exit_status': advance.exit_status,
            'exit_message': advance.exit_message,
            'exception': advance.exception,
            'pause_bits': PAUSED_ITSELF if unit.pauses else 0,
            'pause_mask': 0 if advance.state in TERMINAL_STATES else ANY_PAUSE,
            'owner': (self._transaction.engine_id or None) if is_kept else None,
            'changed_at': self._transaction.now,
            'fenced_pid': fence.pid,
            'fenced_epoch': fence.epoch,
            'fenced_version': fence.version,
        }

    def _await(self) -> None:
        """Register what goes to wait; those whose wait was over before it began stay running."""
        waits = {
            fence.pid: advance.awaiting
            for fence, advance, _ in self._moves
            if advance.state == ProcessState.WAITING
        }
        if not waits:
            return
        self._transaction.run_each(
            self._sql.insert_awaiting,
            [{'waiter': pid, 'awaited_pid': awaited} for pid, pids in waits.items() for awaited in pids],
        )
        jobs = {fence.pid: unit.job for fence, _, unit in self._moves if unit.job is not None}
        begin_jobs(self._transaction, jobs.values())
        satisfied = waits.keys() - self._transaction.still_waiting(waits) - jobs.keys()
        if satisfied:
            self._stay_running(satisfied)

    def _stay_running(self, pids: set[int]) -> None:
        transaction = self._transaction
        for owner, those in ((transaction.engine_id or None, pids - self._paused), (None, pids & self._paused)):
            if those:
                transaction.cursor.execute(
                    self._sql.stay_running, {'owner': owner, 'pids': transaction.as_set(those)}
                )
        transaction.changes.extend(StateChange(pid, ProcessState.WAITING, ProcessState.RUNNING) for pid in pids)
        for index, unit in enumerate(self._units):
            verdict = self._verdicts[index]
            if unit.fence is not None and unit.fence.pid in pids and isinstance(verdict, Held):
                self._verdicts[index] = msgspec.structs.replace(verdict, satisfied=True)

    # -- those below ---------------------------------------------------------------------------------------

    def _kill_unasked_calls(self) -> None:
        for fence, advance, unit in self._moves:
            if unit.kept_calls is None:
                continue
            # The visit that ends here is the one before the visit that the advance begins.
            calls = self._transaction.rows(
                self._sql.unasked_calls, {'parent': fence.pid, 'call_visit': advance.visit - 1}
            )
            unasked = [pid for pid, number in calls if number not in unit.kept_calls]
            if unasked:
                kill(
                    self._transaction,
                    unasked,
                    'the step that had called it was run again and did not ask for it',
                )

    def _pause_below(self) -> None:
        pausing = [unit.fence.pid for unit in self._held if unit.pauses and unit.fence is not None]
        if pausing:
            pause_below(self._transaction, pausing)


def _verdict(unit: Unit, rows: dict[int, Any], now: float) -> Verdict:
    fence = unit.fence
    if fence is None:
        return Held(version=0)
    row = rows.get(fence.pid)
    if row is None:
        return Lost(state=None)
    _, epoch, version, state, message, paused = row
    if epoch != fence.epoch or version != fence.version or state in TERMINAL_STATES:
        return Lost(state=state, message=message)
    return Held(
        version=version if unit.advance is None else version + 1,
        at=now,
        paused=bool(paused) or unit.pauses,
    )
