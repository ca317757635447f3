"""What readers ask a store, as SQL text that is made without SQLAlchemy.

Importing SQLAlchemy takes longer than everything else that ``treadle ps`` does, and these are plain selections
that differ between databases only in how a parameter is written (see :class:`Wording`). What is written
(:mod:`.statements`) is SQLAlchemy's. Constants stand in the text itself, since a planner uses a partial index only
for a predicate that it can read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..states import TERMINAL_STATES
from .job_records import JobRecord
from .records import EngineRecord, LogEntry, ProcessRecord, ProcessSummary

if TYPE_CHECKING:
    from .transaction import Cursor

__all__ = ['FREE_JOB', 'LIVE_ENGINE', 'LIVE_JOB', 'RUNNABLE', 'UNFINISHED', 'Queries', 'Wording']

#: What a sweep may claim; the predicate of the index ``process_runnable``. Order by ``nesting DESC, pid``.
RUNNABLE: Final = "owner IS NULL AND driven = 0 AND state IN ('created', 'running') AND paused = 0"

#: What has not ended; the predicate of the index ``process_unfinished``.
UNFINISHED: Final = f'state NOT IN ({", ".join(repr(state.value) for state in sorted(TERMINAL_STATES))})'

#: The engines that have not ended; the predicate of the index ``engine_live``.
LIVE_ENGINE: Final = 'ended IS NULL'

#: Jobs about which something may be to be done; the predicate of the index ``job_live``.
LIVE_JOB: Final = "state NOT IN ('retrieved', 'refused', 'gone')"

#: Those of them that no engine looks after, in a statement that reads ``job``.
FREE_JOB: Final = (
    # Not EXISTS, which PostgreSQL would answer by reading all engines that ever were.
    f'job.{LIVE_JOB} AND (job.owner IS NULL OR '
    '(SELECT engine.ended IS NOT NULL OR engine.lease = 0 FROM engine WHERE engine.id = job.owner))'
)

_PROCESS: Final = ', '.join(ProcessRecord.__struct_fields__)
_ENGINE: Final = ', '.join(EngineRecord.__struct_fields__)
_JOB: Final = ', '.join(JobRecord.__struct_fields__)
_LOG: Final = ', '.join(LogEntry.__struct_fields__)


class Wording(Protocol):
    """How the text differs between the databases."""

    def named(self, name: str) -> str:
        """The place of the named parameter."""

    def among_pids(self, column: str) -> str:
        """The condition that ``column`` is in the set of pids called ``pids``."""

    def pids(self, pids: Iterable[int]) -> object:
        """A set of pids as the value of the parameter ``pids``."""

    def lock(self, name: str) -> str | None:
        """What keeps out, to the end of the transaction, whoever else asks for the same value of the named parameter.

        ``None`` where one transaction keeps out all others anyway.
        """

    def run_each(self, cursor: Cursor, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that is made to be run for many rows, for these, which all have the same names."""


class Queries:
    """The selections as text.

    :param wording: the database's.
    """

    def __init__(self, wording: Wording) -> None:
        self.dialect = wording
        named, among = wording.named, wording.among_pids
        ended = _listed(TERMINAL_STATES)
        self.select_processes = f'SELECT {_PROCESS} FROM process WHERE {among("pid")}'
        self.select_ended = f'SELECT {_PROCESS} FROM process WHERE {among("pid")} AND state IN ({ended})'
        self.select_states = f'SELECT pid, state FROM process WHERE {among("pid")}'
        self.select_intents = (
            f'SELECT pid, state, paused FROM process WHERE {among("pid")} '
            f"AND (state = 'killed' OR paused != 0)"
        )
        self.select_children = f'SELECT {_PROCESS} FROM process WHERE parent = {named("parent")} ORDER BY pid'
        self.select_call = (
            f'SELECT {_PROCESS} FROM process WHERE parent = {named("parent")} '
            f'AND call_visit = {named("call_visit")} AND call_number = {named("call_number")}'
        )
        self.select_log = f'SELECT {_LOG} FROM log WHERE pid = {named("pid")} ORDER BY id'
        self.log_after = (
            f'SELECT id, {_LOG} FROM log WHERE pid = {named("pid")} AND id > {named("after")} ORDER BY id'
        )
        self.last_log = (
            f'SELECT {_LOG} FROM log WHERE pid = {named("pid")} AND level >= {named("level")} '
            f'ORDER BY id DESC LIMIT 1'
        )
        self.last_log_of = (
            f'SELECT {_LOG} FROM log WHERE pid = {named("pid")} AND logger = {named("logger")} '
            f'ORDER BY id DESC LIMIT 1'
        )
        self.select_code = f'SELECT text FROM code WHERE digest = {named("digest")}'
        self.select_awaited = f'SELECT awaited FROM awaiting WHERE waiter = {named("pid")} ORDER BY awaited'
        self.select_family = (
            f'WITH RECURSIVE tree (pid) AS (SELECT pid FROM process WHERE pid = {named("pid")} '
            f'UNION SELECT child.pid FROM process AS child, tree WHERE child.parent = tree.pid) '
            f'SELECT {_summary_columns()} FROM process WHERE pid IN (SELECT pid FROM tree) ORDER BY pid'
        )
        self.count_states = 'SELECT state, paused != 0, count(*) FROM process GROUP BY 1, 2'
        self.count_runnable = f'SELECT count(*) FROM process WHERE {RUNNABLE}'
        self.count_owned = 'SELECT owner, count(*) FROM process WHERE owner IS NOT NULL GROUP BY owner'
        columns, order = 'pid, class_name, class_hash, origin', 'ORDER BY nesting DESC, pid'
        page = f'{order} LIMIT {named("most")} OFFSET {named("passed_over")}'
        self.runnable = f'SELECT {columns} FROM process WHERE {RUNNABLE} {page}'
        self.runnable_of = f'SELECT {columns} FROM process WHERE {RUNNABLE} AND {among("origin")} {page}'
        self.unfinished = (
            f'SELECT pid FROM process WHERE origin = {named("origin")} AND parent IS NULL '
            f'AND {UNFINISHED} ORDER BY pid'
        )
        self.process_of_task = f'SELECT pid FROM task WHERE correlation_id = {named("correlation_id")}'
        self.owed_replies_of = (
            f'SELECT correlation_id, reply_to, pid FROM task WHERE reply_to IS NOT NULL AND {among("pid")}'
        )
        self.owed_replies = (
            f'SELECT task.correlation_id, task.reply_to, task.pid FROM task JOIN process ON process.pid = task.pid '
            f'WHERE task.reply_to IS NOT NULL AND process.state IN ({ended}) AND process.changed_at < {named("before")}'
        )
        self.select_engine = f'SELECT {_ENGINE} FROM engine WHERE id = {named("engine_id")}'
        self.select_retirement = 'SELECT at, moved_to FROM retirement'
        self.live_engines = f'SELECT {_ENGINE} FROM engine WHERE {LIVE_ENGINE}'
        self.select_job = f'SELECT {_JOB} FROM job WHERE pid = {named("pid")}'
        self.select_note = f'SELECT note FROM computer WHERE name = {named("name")}'
        self.has_free_jobs = f'SELECT 1 FROM job WHERE {FREE_JOB} LIMIT 1'
        self.select_computers = 'SELECT name, definition FROM computer ORDER BY name'
        self.count_jobs = 'SELECT computer, state, count(*) FROM job GROUP BY computer, state'
        self.siblings_of_script = (
            f'SELECT id FROM engine WHERE script = {named("script")} AND ended IS NOT NULL '
            f'AND EXISTS (SELECT 1 FROM process WHERE process.origin = engine.id AND process.{UNFINISHED})'
        )

    def query(
        self, *, states: Collection[str], top_level: bool, label: bool, key: bool, limited: bool
    ) -> str:
        """A listing of processes, newest first; the parameters are ``process_label``, ``key`` and ``most``."""
        conditions = [
            (bool(states), f'state IN ({_listed(states)})'),
            (top_level, 'parent IS NULL'),
            (label, f'process_label = {self.dialect.named("process_label")}'),
            (key, f'key = {self.dialect.named("key")}'),
        ]
        return self._newest_first(f'SELECT {_PROCESS} FROM process', conditions, limited)

    def summaries(
        self, *, states: Collection[str], parent: bool, top_level: bool, recent: bool, limited: bool
    ) -> str:
        """The same in short, with how many each has called; the parameters are ``parent``, ``since`` and ``most``.

        :param recent: leave out what ended before ``since``.
        """
        ended = _listed(TERMINAL_STATES)
        conditions = [
            (bool(states), f'state IN ({_listed(states)})'),
            (parent, f'parent = {self.dialect.named("parent")}'),
            (top_level, 'parent IS NULL'),
            (recent, f'(state NOT IN ({ended}) OR changed_at >= {self.dialect.named("since")})'),
        ]
        return self._newest_first(f'SELECT {_summary_columns()} FROM process', conditions, limited)

    def _newest_first(self, select: str, conditions: list[tuple[bool, str]], limited: bool) -> str:
        chosen = [condition for wanted, condition in conditions if wanted]
        where = f' WHERE {" AND ".join(chosen)}' if chosen else ''
        limit = f' LIMIT {self.dialect.named("most")}' if limited else ''
        return f'{select}{where} ORDER BY pid DESC{limit}'


def _summary_columns() -> str:
    calls = 'FROM process AS child WHERE child.parent = process.pid'
    counted = {
        'called': f'(SELECT count(*) {calls})',
        'called_ended': f'(SELECT count(*) {calls} AND child.state IN ({_listed(TERMINAL_STATES)}))',
    }
    return ', '.join(counted.get(field, field) for field in ProcessSummary.__struct_fields__)


def _listed(states: Collection[str]) -> str:
    # Text of the caller's becomes part of the statement, hence the doubled quotes.
    return ', '.join("'" + str(state).replace("'", "''") + "'" for state in sorted(states))
