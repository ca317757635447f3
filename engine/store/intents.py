"""Kill, pause and play: intents in the rows, effective whether anything runs the processes or not.

Each takes the descendants along in the same transaction. The two bits of the column ``paused`` tell an intent of the
process's own from one that it has from above, so that a child which was paused by itself stays so when its parent is
played.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from ..states import ProcessState
from .notes import write_log
from .records import ANY_PAUSE, INTENTS, PAUSED_FROM_ABOVE, PAUSED_ITSELF, LogEntry, StateChange, storable
from .transaction import Transaction

__all__ = ['kill', 'pause', 'pause_below', 'play']


def kill(transaction: Transaction, pids: Collection[int], message: str) -> list[int]:
    """Kill these processes and all their descendants that have not ended.

    From the commit on no other end is possible: the row's version has moved on, so whatever a step that still
    executes wants to write is refused.

    :returns: the pids that this call killed.
    """
    sql = transaction.sql
    transaction.lock_family(pids)
    family = transaction.rows(sql.to_kill, {'pids': transaction.as_set(pids)})
    killed = [pid for pid, _ in family]
    if killed:
        as_set = transaction.as_set(killed)
        transaction.cursor.execute(
            sql.kill, {'pids': as_set, 'exit_message': storable(message), 'changed_at': transaction.now}
        )
        transaction.cursor.execute(sql.forget_waiter, {'pids': as_set})
        transaction.changes.extend(StateChange(pid, before, ProcessState.KILLED) for pid, before in family)
        transaction.unclaim(set(killed))
        transaction.wake_waiters_of(killed)
    return killed


def pause(transaction: Transaction, pids: Iterable[int], message: str | None) -> list[int]:
    """Pause these processes and all their descendants that have not ended.

    No version is raised: a step that executes commits, and its process is released by that commit.

    :returns: those of ``pids`` that this call paused: they have not ended, and were not paused by themselves.
    """
    roots = set(pids)
    family = _to_pause(transaction, roots)
    paused = [pid for pid, before in family.items() if pid in roots and not before & PAUSED_ITSELF]
    if paused:
        _set_paused(transaction, paused, PAUSED_ITSELF, ANY_PAUSE)
        pause_below(transaction, paused)
        _log(transaction, paused, 'paused' if message is None else f'paused: {message}')
    return paused


def pause_below(transaction: Transaction, pids: Iterable[int]) -> None:
    """Pause the descendants of processes that are paused by themselves; take back what was just claimed."""
    roots = set(pids)
    family = _to_pause(transaction, roots)
    below = [pid for pid, before in family.items() if pid not in roots and not before & PAUSED_FROM_ABOVE]
    _set_paused(transaction, below, PAUSED_FROM_ABOVE, ANY_PAUSE)
    transaction.pauses.update(dict.fromkeys(family, True))
    withdrawn = transaction.unclaim(family)
    if withdrawn:
        transaction.cursor.execute(transaction.sql.withdraw, {'pids': transaction.as_set(withdrawn)})


def play(transaction: Transaction, pids: Iterable[int]) -> list[int]:
    """Let these processes go on, and those of their descendants that were paused only because of them.

    A process that is named goes on though one above it stays paused.

    :returns: the pids that are no longer paused.
    """
    roots = set(pids)
    transaction.lock_family(roots)
    rows = transaction.rows(transaction.sql.to_play, {'pids': transaction.as_set(roots)})
    named = [pid for pid, _ in rows if pid in roots]
    _set_paused(transaction, named, 0, 0)
    transaction.cursor.execute(transaction.sql.forgive, {'pids': transaction.as_set(named)})
    _set_paused(transaction, [pid for pid, _ in rows if pid not in roots], 0, PAUSED_ITSELF)
    played = [pid for pid, before in rows if pid in roots or not before & PAUSED_ITSELF]
    if played:
        transaction.pauses.update(dict.fromkeys(played, False))
        _log(transaction, named, 'played')
        transaction.claim(played)
    return played


def _to_pause(transaction: Transaction, pids: Collection[int]) -> dict[int, int]:
    """Those of ``pids`` that have not ended with their descendants that have not: by pid, the column ``paused``."""
    transaction.lock_family(pids)
    return dict(transaction.rows(transaction.sql.to_pause, {'pids': transaction.as_set(pids)}))


def _set_paused(transaction: Transaction, pids: Sequence[int], bits: int, mask: int) -> None:
    """Set the bits, then clear all that are not in the mask."""
    if pids:
        transaction.cursor.execute(
            transaction.sql.set_paused,
            {'pids': transaction.as_set(pids), 'pause_bits': bits, 'pause_mask': mask},
        )


def _log(transaction: Transaction, pids: Iterable[int], message: str) -> None:
    text = storable(message)
    write_log(transaction, [LogEntry(pid, transaction.now, logging.INFO, INTENTS, text) for pid in pids])
