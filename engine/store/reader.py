"""Reading the store from any thread, beside the writer and without waiting for it.

What is read is a snapshot of what is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from ..errors import ProcessNotFound
from .connections import Connection, Connections
from .job_records import JobRecord
from .queries import Queries
from .records import (
    INTENTS,
    PARKS,
    EngineRecord,
    LogEntry,
    OwedReply,
    ProcessRecord,
    ProcessSummary,
    Retirement,
)

#: So many processes are looked for in one query, where each that is found is read as a whole.
AT_ONCE = 1000


class Reader:
    """Queries on committed data.

    :param connections: what they are run on.
    :param queries: in the database's words.
    """

    def __init__(self, *, connections: Connections, queries: Queries) -> None:
        self._connections = connections
        self._sql = queries

    def process(self, pid: int) -> ProcessRecord:
        """The row of one process.

        :raises ProcessNotFound: there is none.
        """
        rows = self.processes([pid])
        if not rows:
            raise ProcessNotFound(f'there is no process {pid} in this store; `treadle ps --all` lists those there are')
        return rows[0]

    def processes(self, pids: Iterable[int]) -> list[ProcessRecord]:
        """The rows of those of ``pids`` that exist."""
        rows = self._fetch(self._sql.select_processes, {'pids': self._sql.dialect.pids(pids)})
        return [ProcessRecord(*row) for row in rows]

    def ended(self, pids: Sequence[int]) -> Iterator[list[ProcessRecord]]:
        """The rows of those of ``pids`` that have ended, some at a time."""
        for first in range(0, len(pids), AT_ONCE):
            given = self._sql.dialect.pids(pids[first : first + AT_ONCE])
            yield [ProcessRecord(*row) for row in self._fetch(self._sql.select_ended, {'pids': given})]

    def states(self, pids: Iterable[int]) -> dict[int, str]:
        """The states of those of ``pids`` that exist."""
        return dict(self._fetch(self._sql.select_states, {'pids': self._sql.dialect.pids(pids)}))

    def intents(self, pids: Iterable[int]) -> list[tuple[int, str, int]]:
        """Those of ``pids`` that were killed or are paused: (pid, state, paused)."""
        rows = self._fetch(self._sql.select_intents, {'pids': self._sql.dialect.pids(pids)})
        return [tuple(row) for row in rows]

    def children(self, pid: int) -> list[ProcessRecord]:
        """The processes that ``pid`` has called, oldest first."""
        return [ProcessRecord(*row) for row in self._fetch(self._sql.select_children, {'parent': pid})]

    def call(self, parent: int, visit: int, number: int) -> ProcessRecord | None:
        """The process that ``parent`` called as number ``number`` of its visit ``visit``, if it is on record."""
        rows = self._fetch(
            self._sql.select_call, {'parent': parent, 'call_visit': visit, 'call_number': number}
        )
        return ProcessRecord(*rows[0]) if rows else None

    def log(self, pid: int) -> list[LogEntry]:
        """The log stream of one process, oldest first."""
        return [LogEntry(*row) for row in self._fetch(self._sql.select_log, {'pid': pid})]

    def log_after(self, pid: int, after: int) -> list[tuple[int, LogEntry]]:
        """The records of a log stream behind the one with the number ``after``, each with its number."""
        rows = self._fetch(self._sql.log_after, {'pid': pid, 'after': after})
        return [(row[0], LogEntry(*row[1:])) for row in rows]

    def last_log(self, pid: int, *, level: int = 0) -> LogEntry | None:
        """The newest log record of at least that level."""
        rows = self._fetch(self._sql.last_log, {'pid': pid, 'level': level})
        return LogEntry(*rows[0]) if rows else None

    def last_intent(self, pid: int) -> LogEntry | None:
        """What the log stream says of the last pause or play of that process."""
        rows = self._fetch(self._sql.last_log_of, {'pid': pid, 'logger': INTENTS})
        return LogEntry(*rows[0]) if rows else None

    def last_park(self, pid: int) -> LogEntry | None:
        """What the log stream says of the last time that an engine left that process alone."""
        rows = self._fetch(self._sql.last_log_of, {'pid': pid, 'logger': PARKS})
        return LogEntry(*rows[0]) if rows else None

    def code(self, digest: str) -> str | None:
        """What code said whose digest a process has; ``None`` when it was not kept."""
        rows = self._fetch(self._sql.select_code, {'digest': digest})
        return str(rows[0][0]) if rows else None

    def job(self, pid: int) -> JobRecord | None:
        """The job of a process, if it has one."""
        rows = self._fetch(self._sql.select_job, {'pid': pid})
        return JobRecord(*rows[0]) if rows else None

    def computers(self) -> dict[str, str]:
        """The definitions of the computers, by name."""
        return dict(self._fetch(self._sql.select_computers, {}))

    def computer_note(self, name: str) -> str | None:
        """Why a computer cannot be reached just now, if it cannot."""
        rows = self._fetch(self._sql.select_note, {'name': name})
        return rows[0][0] if rows else None

    def has_free_jobs(self) -> bool:
        """Whether there are jobs that live and that nobody looks after."""
        return bool(self._fetch(self._sql.has_free_jobs, {}))

    def job_counts(self) -> list[tuple[str, str, int]]:
        """How many jobs there are: (computer, state, how many)."""
        return [tuple(row) for row in self._fetch(self._sql.count_jobs, {})]

    def awaited_by(self, pid: int) -> list[int]:
        """The processes that must end before a waiting one goes on."""
        return [row[0] for row in self._fetch(self._sql.select_awaited, {'pid': pid})]

    def family(self, pid: int) -> list[ProcessSummary]:
        """A process and all its descendants, in short, by pid."""
        return [ProcessSummary(*row) for row in self._fetch(self._sql.select_family, {'pid': pid})]

    def counts(self) -> list[tuple[str, bool, int]]:
        """How many processes there are of each state: (state, paused, how many)."""
        return [(row[0], bool(row[1]), row[2]) for row in self._fetch(self._sql.count_states, {})]

    def runnable_count(self) -> int:
        """How many could run, and nobody runs them."""
        return int(self._fetch(self._sql.count_runnable, {})[0][0])

    def owned_counts(self) -> dict[int, int]:
        """How many processes each engine runs, by its id."""
        return dict(self._fetch(self._sql.count_owned, {}))

    def runnable(
        self, most: int, passed_over: int = 0, origins: Iterable[int] | None = None
    ) -> list[tuple[int, str, str | None, int]]:
        """Processes that nobody runs and that could run: (pid, class name, class hash, origin), most urgent first.

        :param origins: only those that these engines have submitted.
        """
        page = {'most': most, 'passed_over': passed_over}
        if origins is None:
            rows = self._fetch(self._sql.runnable, page)
        else:
            rows = self._fetch(self._sql.runnable_of, {**page, 'pids': self._sql.dialect.pids(origins)})
        return [tuple(row) for row in rows]

    def query(
        self,
        *,
        states: Collection[str] = (),
        process_label: str | None = None,
        key: str | None = None,
        top_level: bool = False,
        limit: int | None = None,
    ) -> list[ProcessRecord]:
        """Processes by what they are, newest first."""
        sql = self._sql.query(
            states=states,
            top_level=top_level,
            label=process_label is not None,
            key=key is not None,
            limited=limit is not None,
        )
        parameters = {'process_label': process_label, 'key': key, 'most': limit}
        return [ProcessRecord(*row) for row in self._fetch(sql, parameters)]

    def summaries(
        self,
        *,
        states: Collection[str] = (),
        parent: int | None = None,
        top_level: bool = False,
        since: float | None = None,
        limit: int | None = None,
    ) -> list[ProcessSummary]:
        """Processes in short, newest first.

        :param parent: only those that this process has called.
        :param since: seconds since the epoch; what ended before is left out.
        """
        sql = self._sql.summaries(
            states=states,
            parent=parent is not None,
            top_level=top_level,
            recent=since is not None,
            limited=limit is not None,
        )
        parameters = {'parent': parent, 'since': since, 'most': limit}
        return [ProcessSummary(*row) for row in self._fetch(sql, parameters)]

    def live_engines(self) -> list[EngineRecord]:
        """The engines that have not said that they end and that nobody has declared dead."""
        return [EngineRecord(*row) for row in self._fetch(self._sql.live_engines, {})]

    def retirement(self) -> Retirement | None:
        """When the store was closed for good, and where its contents went; ``None`` for a store in use."""
        rows = self._fetch(self._sql.select_retirement, {})
        return Retirement(*rows[0]) if rows else None

    def engine(self, engine_id: int) -> EngineRecord | None:
        """One engine's row."""
        rows = self._fetch(self._sql.select_engine, {'engine_id': engine_id})
        return EngineRecord(*rows[0]) if rows else None

    def ended_engines_of(self, script: str) -> set[int]:
        """The ids of the engines that the same script had started, that have ended, and left something unfinished."""
        return {row[0] for row in self._fetch(self._sql.siblings_of_script, {'script': script})}

    def unfinished_of(self, engine_id: int) -> list[int]:
        """The processes that an engine has submitted, not their children, and that have not ended."""
        return [row[0] for row in self._fetch(self._sql.unfinished, {'origin': engine_id})]

    def process_of_task(self, correlation_id: str) -> int | None:
        """The process that a task has led to which came by a broker."""
        rows = self._fetch(self._sql.process_of_task, {'correlation_id': correlation_id})
        return int(rows[0][0]) if rows else None

    def owed_replies_of(self, pids: Iterable[int]) -> list[OwedReply]:
        """The answers that are owed for these processes, whether they have ended or not."""
        rows = self._fetch(self._sql.owed_replies_of, {'pids': self._sql.dialect.pids(pids)})
        return [OwedReply(*row) for row in rows]

    def owed_replies(self, before: float) -> list[OwedReply]:
        """The answers that are owed for processes that had ended at that time, in seconds since the epoch."""
        return [OwedReply(*row) for row in self._fetch(self._sql.owed_replies, {'before': before})]

    def close(self) -> None:
        """Close the idle connections and keep none from now on; reading goes on, with a connection for each query."""
        self._connections.close()

    def forget_connections(self) -> None:
        """In a forked child, use nothing of the parent's."""
        self._connections.forget()

    def _fetch(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        def fetch(connection: Connection) -> list[Any]:
            rows: list[Any] = connection.execute(sql, parameters).fetchall()
            return rows

        return self._connections.use(fetch)
