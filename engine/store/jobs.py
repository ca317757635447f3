"""Jobs and computers in the store: who looks after a job, how far it has come, and how many a computer may have.

A job is written by one engine at a time, its owner; each write names the epoch that the ownership began with and the
attempt it is about, and changes nothing when they have moved on. That a job has to be cancelled is not written
anywhere: it is a job that lives although its process has ended. That its owner is gone is not either: it is an engine
that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgspec

from ..states import TERMINAL_STATES
from .job_records import JobFence, JobRecord, JobView
from .queries import FREE_JOB, Wording
from .queries import LIVE_JOB as LIVE
from .transaction import Transaction

__all__ = [
    'begin_jobs',
    'claim_jobs',
    'count_jobs',
    'forget_computer',
    'move_job',
    'note_computer',
    'note_job',
    'renew_fenced',
    'save_computer',
    'select_computer',
    'take_slots',
    'views_of',
]

#: Gives the folder of a job for a pid and an attempt.
FolderOf = Callable[[int, int], str]

_SLOTS: Final = "state IN ('uploading', 'submitting', 'submitted')"
_PREPARED, _UPLOADING = 'prepared', 'uploading'
#: After one of these the process goes on.
_WAKING: Final = frozenset({'retrieved', 'refused'})
_ENDED: Final = ', '.join(f"'{state.value}'" for state in sorted(TERMINAL_STATES))
#: The columns that :func:`move_job` may set.
_SETTABLE: Final = ('job_id', 'phase', 'outcome', 'retrieved')


class _Sql:
    """The statements as text, for one database."""

    def __init__(self, dialect: Wording) -> None:
        named, among = dialect.named, dialect.among_pids
        columns = JobRecord.__struct_fields__
        live_process = "process.state = 'waiting' AND process.paused = 0"
        fenced = (
            f'pid = {named("pid")} AND epoch = {named("epoch")} AND attempt = {named("attempt")} AND {LIVE}'
        )
        self.insert = (
            f'INSERT INTO job ({", ".join(columns)}) VALUES ({", ".join(map(named, columns))}) '
            f'ON CONFLICT (pid) DO NOTHING'
        )
        # Of two engines one counts after the other.
        self.lock_computer = dialect.lock('computer')
        self.count_slots = (
            f"SELECT count(*), coalesce(sum(CASE WHEN phase = 'running' THEN 1 ELSE 0 END), 0) FROM job "
            f'WHERE computer = {named("computer")} AND {_SLOTS}'
        )
        self.count_of_host = (
            f'SELECT count(*) FROM job WHERE computer = {named("computer")} AND {_SLOTS} AND owner IN '
            f'(SELECT id FROM engine WHERE host = (SELECT host FROM engine WHERE id = {named("owner")}))'
        )
        self.next_prepared = (
            f'SELECT job.pid, job.epoch, job.attempt FROM job JOIN process ON process.pid = job.pid '
            f'WHERE job.computer = {named("computer")} AND job.owner = {named("owner")} '
            f"AND job.state = '{_PREPARED}' AND {live_process} ORDER BY job.pid LIMIT {named('most')}"
        )
        self.begin_attempt = (
            f"UPDATE job SET state = '{_UPLOADING}', attempt = {named('attempt')} + 1, folder = {named('folder')}, "
            f'job_id = NULL, phase = NULL, note = NULL, changed_at = {named("at")} WHERE {fenced}'
        )
        view = ', '.join(f'job.{name}' for name in JobView.__struct_fields__[:-2])
        self.views = (
            f'SELECT {view}, process.state, process.paused FROM job JOIN process ON process.pid = job.pid '
            f'WHERE job.computer = {named("computer")} AND job.owner = {named("owner")} AND job.{LIVE} '
            f"AND (job.state != '{_PREPARED}' OR process.state IN ({_ENDED})) ORDER BY job.pid"
        )
        self.has_live = (
            f'SELECT count(*) FROM job WHERE computer = {named("computer")} AND owner = {named("owner")} AND {LIVE}'
        )
        # Whoever is there cancels what is to be cancelled, whosoever it was.
        whose = f'(process.state IN ({_ENDED}) OR {among("process.origin")})'
        mine = f'SELECT process.pid FROM process JOIN job ON job.pid = process.pid WHERE {FREE_JOB}'
        claim = f'UPDATE job SET owner = {named("owner")}, epoch = epoch + 1 WHERE {LIVE} AND pid IN'
        self.claim_some = f'{claim} ({mine} AND {whose}) RETURNING computer'
        self.claim_any = f'{claim} ({mine}) RETURNING computer'
        self.move = (
            f'UPDATE job SET state = {named("state")}, changed_at = {named("at")}, '
            + ', '.join(f'{name} = coalesce({named(name)}, {name})' for name in _SETTABLE)
            + ', note = NULL'
            + f' WHERE {fenced}'
        )
        self.move_if_wanted = (
            f'{self.move} AND EXISTS (SELECT 1 FROM process WHERE process.pid = job.pid AND {live_process})'
        )
        self.note = f'UPDATE job SET note = {named("note")}, phase = coalesce({named("phase")}, phase) WHERE {fenced}'
        self.save_computer = (
            f'INSERT INTO computer (name, definition, changed_at) '
            f'VALUES ({named("name")}, {named("definition")}, {named("at")}) '
            f'ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, changed_at = excluded.changed_at'
        )
        self.note_computer = f'UPDATE computer SET note = {named("note")} WHERE name = {named("name")}'
        self.select_computer = f'SELECT definition FROM computer WHERE name = {named("name")}'
        self.forget_computer = f'DELETE FROM computer WHERE name = {named("name")} RETURNING name'
        self.live_on = f'SELECT count(*) FROM job WHERE computer = {named("name")} AND {LIVE}'


_made: dict[type, _Sql] = {}


def sql_of(dialect: Wording) -> _Sql:
    """The statements for a database, by how it words them."""
    made = _made.get(type(dialect))
    if made is None:
        made = _made[type(dialect)] = _Sql(dialect)
    return made


# -- the life of a job ---------------------------------------------------------------------------------------


def begin_jobs(transaction: Transaction, jobs: Iterable[JobRecord]) -> None:
    """Jobs come into being, with the step that has prepared them; they are this engine's to look after."""
    sql = sql_of(transaction.sql.dialect)
    for job in jobs:
        mine = msgspec.structs.replace(job, owner=transaction.engine_id or None, changed_at=transaction.now)
        transaction.cursor.execute(sql.insert, msgspec.structs.asdict(mine))


def claim_jobs(transaction: Transaction, origins: Collection[int] | None) -> set[str]:
    """Take the jobs that nobody looks after; returns the names of their computers.

    :param origins: only of processes that these engines have submitted, and those to be cancelled; ``None`` for all.
    """
    sql = sql_of(transaction.sql.dialect)
    parameters: dict[str, Any] = {'owner': transaction.engine_id}
    if origins is None:
        rows = transaction.rows(sql.claim_any, parameters)
    else:
        rows = transaction.rows(sql.claim_some, {**parameters, 'pids': transaction.as_set(origins)})
    return {row[0] for row in rows}


def take_slots(
    transaction: Transaction,
    computer: str,
    *,
    max_jobs: int | None,
    max_queued: int | None,
    max_of_host: int | None = None,
    most: int,
    folder_of: FolderOf,
) -> list[int]:
    """Begin the first attempts of the next jobs, as far as the computer's limits go; over all engines of the store.

    :param max_of_host: how many may be in the hands of the engines on this engine's host.
    :param most: how many at once, at most.
    :param folder_of: gives the folder for a pid and an attempt.
    :returns: their pids.
    """
    sql = sql_of(transaction.sql.dialect)
    if sql.lock_computer is not None and (max_jobs, max_queued, max_of_host) != (None, None, None):
        transaction.rows(sql.lock_computer, {'computer': computer})
    if max_jobs is not None or max_queued is not None:
        taken, running = count_slots(transaction, computer)
        if max_jobs is not None:
            most = min(most, max_jobs - taken)
        if max_queued is not None:
            most = min(most, max_queued - (taken - running))
    if max_of_host is not None:
        row = transaction.row(sql.count_of_host, {'computer': computer, 'owner': transaction.engine_id})
        most = min(most, max_of_host - int(row[0]))
    if most <= 0:
        return []
    rows = transaction.rows(
        sql.next_prepared, {'computer': computer, 'owner': transaction.engine_id, 'most': most}
    )
    # Where rows are not locked by being read, another engine may have taken one meanwhile.
    return [row[0] for row in rows if renew_fenced(transaction, JobFence(*row), folder_of)]


def count_slots(transaction: Transaction, computer: str) -> tuple[int, int]:
    """How many jobs count for a computer's limits, and how many of them are known to run."""
    row = transaction.row(sql_of(transaction.sql.dialect).count_slots, {'computer': computer})
    return int(row[0]), int(row[1])


def renew_fenced(transaction: Transaction, fence: JobFence, folder_of: FolderOf) -> bool:
    """Begin the next attempt of a job of which it is certain that nothing of the one before will do anything.

    :returns: whether the fence held.
    """
    transaction.cursor.execute(
        sql_of(transaction.sql.dialect).begin_attempt,
        {**_fence(fence), 'folder': folder_of(fence.pid, fence.attempt + 1), 'at': transaction.now},
    )
    return transaction.cursor.rowcount == 1


def move_job(
    transaction: Transaction, fence: JobFence, state: str, *, if_wanted: bool = False, **columns: str | None
) -> bool:
    """Write how far a job has come, and let its process go on if that is what it waits for; forgets what was noted.

    :param if_wanted: only if its process still waits for it, and is not paused.
    :param columns: further columns to set.
    :returns: whether the fence held.
    """
    sql = sql_of(transaction.sql.dialect)
    given = dict.fromkeys(_SETTABLE) | columns
    transaction.cursor.execute(
        sql.move_if_wanted if if_wanted else sql.move,
        {**_fence(fence), **given, 'state': state, 'at': transaction.now},
    )
    if transaction.cursor.rowcount != 1:
        return False
    if state in _WAKING:
        transaction.wake([fence.pid])
    return True


def note_job(transaction: Transaction, fence: JobFence, note: str | None, phase: str | None = None) -> None:
    """Say what stands in a job's way, for people, and where the scheduler has it."""
    transaction.cursor.execute(
        sql_of(transaction.sql.dialect).note, {**_fence(fence), 'note': note, 'phase': phase}
    )


def views_of(transaction: Transaction, computer: str) -> tuple[list[JobView], int]:
    """The engine's jobs there on which something may be to be done, and how many live in all."""
    sql = sql_of(transaction.sql.dialect)
    which = {'computer': computer, 'owner': transaction.engine_id}
    views = [JobView(*row) for row in transaction.rows(sql.views, which)]
    return views, int(transaction.row(sql.has_live, which)[0])


def _fence(fence: JobFence) -> dict[str, int]:
    return {'pid': fence.pid, 'epoch': fence.epoch, 'attempt': fence.attempt}


# -- computers -----------------------------------------------------------------------------------------------


def save_computer(transaction: Transaction, name: str, definition: str) -> None:
    """Define a computer, or define it anew."""
    transaction.cursor.execute(
        sql_of(transaction.sql.dialect).save_computer,
        {'name': name, 'definition': definition, 'at': transaction.now},
    )


def select_computer(transaction: Transaction, name: str) -> str | None:
    """A computer's definition."""
    row = transaction.row(sql_of(transaction.sql.dialect).select_computer, {'name': name})
    return None if row is None else row[0]


def count_jobs(transaction: Transaction, computer: str) -> int:
    """How many jobs live on a computer."""
    return int(transaction.row(sql_of(transaction.sql.dialect).live_on, {'name': computer})[0])


def note_computer(transaction: Transaction, name: str, note: str | None) -> None:
    """Say why a computer cannot be reached just now, for people."""
    transaction.cursor.execute(sql_of(transaction.sql.dialect).note_computer, {'name': name, 'note': note})


def forget_computer(transaction: Transaction, name: str) -> bool:
    """Forget a computer's definition; whether there was one."""
    return transaction.row(sql_of(transaction.sql.dialect).forget_computer, {'name': name}) is not None
