"""What is kept for people to read: log streams, and what code said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..states import ProcessState
from .records import Fence, LogEntry
from .transaction import Transaction

__all__ = ['keep_code', 'keep_log_of_killed', 'log_once', 'write_log']


def write_log(transaction: Transaction, entries: Sequence[LogEntry]) -> None:
    """Add to the log streams that the entries name."""
    transaction.run_each(transaction.sql.insert_log, [msgspec.structs.asdict(entry) for entry in entries])


def log_once(transaction: Transaction, entry: LogEntry) -> None:
    """Add to a log stream, unless the same was said since the process last moved on."""
    transaction.cursor.execute(transaction.sql.insert_log_once, msgspec.structs.asdict(entry))


def keep_log_of_killed(transaction: Transaction, fence: Fence, entries: Sequence[LogEntry]) -> None:
    """Write what a step had logged whose process was killed under this very claim; else it counts for nothing."""
    row = transaction.row(transaction.sql.fences, {'pids': transaction.as_set([fence.pid])})
    if row is None:
        return
    _, epoch, _, state, _, _ = row
    if epoch == fence.epoch and state == ProcessState.KILLED:
        write_log(transaction, entries)


def keep_code(transaction: Transaction, texts: Mapping[str, str]) -> None:
    """Keep what code says under its digest, unless it is there.

    :param texts: by digest.
    """
    transaction.run_each(
        transaction.sql.insert_code, [{'digest': digest, 'text': text} for digest, text in texts.items()]
    )
