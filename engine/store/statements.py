"""Every SQL statement that writes, compiled once for a dialect; what only reads is in :mod:`.queries`.

They are written with SQLAlchemy Core, so that a second database is a dialect and not a second copy, and run as
text on the driver's own cursor, because the hot path executes thousands a second. Parameters are named; a
parameter called ``pids`` is a set of pids in the dialect's own form (see :meth:`Dialect.pids`). Constants stand
in the text itself, since a planner uses a partial index only for a predicate that it can read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from ..states import TERMINAL_STATES
from .queries import LIVE_JOB, UNFINISHED, Queries, Wording
from .records import PAUSED_ITSELF, EngineRecord, LogEntry, ProcessRecord
from .schema import OWNED, awaiting, code, counter, engine, job, log, process, task

Parameters = Mapping[str, Any]


class Dialect(Wording, Protocol):
    """What differs between the databases when their statements are put together by SQLAlchemy.

    :ivar locks_rows: whether writers exclude each other row by row; otherwise one at a time writes, and the statements
        that only lock are never run.
    """

    locks_rows: bool

    def compile(self, statement: sa.ClauseElement) -> str:
        """The statement's text, constants included."""

    def parameter(self, name: str) -> sa.ColumnElement[Any]:
        """The place of the named parameter in a statement."""

    def is_member(self, column: sa.ColumnElement[int], name: str = 'pids') -> sa.ColumnElement[bool]:
        """The condition that ``column`` is in the set of pids called ``name``."""

    def is_among(self, column: sa.ColumnElement[int], pids: sa.SelectBase) -> sa.ColumnElement[bool]:
        """The condition that ``column`` is one of the pids that a query gives, which are few beside all there are."""

    def members(self, name: str) -> sa.Select[Any]:
        """The set of pids called ``name``, as rows."""

    def insert(self, table: sa.Table) -> Any:
        """An insert that knows ``on_conflict_do_nothing``."""

    def each(self, **types: sa.types.TypeEngine[Any]) -> Mapping[str, sa.ColumnElement[Any]]:
        """The values of one row, by their names, in a statement for :meth:`run_each`."""

    def insert_each(self, table: sa.Table, *names: str) -> Any:
        """:meth:`insert`, of these columns, for :meth:`run_each`; it asks for no row back."""


def _columns(table: sa.Table, record: type[msgspec.Struct], prefix: str = '') -> list[sa.Label[Any]]:
    return [table.c[field].label(prefix + field) for field in record.__struct_fields__]


def _values(dialect: Dialect, *names: str) -> dict[str, sa.ColumnElement[Any]]:
    return {name: dialect.parameter(name) for name in names}


def _descendants(dialect: Dialect, *among: sa.ColumnElement[bool]) -> sa.CTE:
    """The processes in the set ``pids`` that meet the conditions, and all that these have called, and so on."""
    tree = sa.select(process.c.pid).where(dialect.is_member(process.c.pid), *among).cte('tree', recursive=True)
    child = process.alias('child')
    return tree.union(sa.select(child.c.pid).where(child.c.parent == tree.c.pid))


class Statements(Queries):
    """The queries and the statements that write, as text, grouped by the modules that run them."""

    dialect: Dialect

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect)
        self._units(dialect)
        self._awaiting(dialect)
        self._claiming(dialect)
        self._intents(dialect)
        self._engines(dialect)
        self._owned(dialect)
        self._notes(dialect)
        self._tasks(dialect)
        self._locking(dialect)

    def _locking(self, dialect: Dialect) -> None:
        """What is run where writers lock rows, in the order of the pids, so that they do not wait for each other."""
        row = process.c
        text = dialect.compile
        waiters = sa.select(awaiting.c.waiter).where(dialect.is_member(awaiting.c.awaited, 'ended'))
        touched = dialect.members('pids').union(waiters)
        self.lock_fences = text(
            sa.select(*self._fenced)
            .where(dialect.is_among(row.pid, touched))
            .order_by(row.pid)
            .with_for_update(of=process)
        )
        self.lock = text(
            sa.select(row.pid).where(dialect.is_member(row.pid)).order_by(row.pid).with_for_update()
        )
        self.called_by = text(sa.select(row.pid).where(dialect.is_member(row.parent)))
        # What another is claiming, killing or playing just now is left to the other.
        self.lock_claimable = text(
            sa.select(*_columns(process, ProcessRecord))
            .where(dialect.is_member(row.pid))
            .with_for_update(skip_locked=True)
        )

    def _units(self, dialect: Dialect) -> None:
        row = process.c
        text, given = dialect.compile, dialect.parameter
        self._fenced = (row.pid, row.epoch, row.version, row.state, row.exit_message, row.paused)
        self.fences = text(sa.select(*self._fenced).where(dialect.is_member(row.pid)))
        self.next_number = text(
            sa.update(counter)
            .values(next=counter.c.next + given('count'))
            .where(counter.c.name == given('counter'))
            .returning(counter.c.next)
        )
        self.insert_process = text(
            dialect.insert_each(process, *ProcessRecord.__struct_fields__).on_conflict_do_nothing(
                index_elements=[row.uuid]
            )
        )
        self.advance = text(self._advance(dialect))
        self.holder_of_key = text(
            sa.select(*_columns(process, ProcessRecord)).where(
                row.key == given('key'), row.state.not_in(['killed', 'excepted'])
            )
        )
        tree = _descendants(dialect)
        self.adopt = text(
            sa.update(process)
            .values(origin=given('new_origin'))
            .where(
                dialect.is_among(row.pid, sa.select(tree.c.pid)),
                sa.exists().where(engine.c.id == row.origin, engine.c.ended.is_not(None)),
            )
            .returning(row.pid)
        )
        self.stay_running = text(
            sa.update(process).values(state='running', owner=given('owner')).where(dialect.is_member(row.pid))
        )
        self.unasked_calls = text(
            sa.select(row.pid, row.call_number).where(
                row.parent == given('parent'),
                row.call_visit == given('call_visit'),
                row.state.not_in(sorted(TERMINAL_STATES)),
            )
        )

    def _advance(self, dialect: Dialect) -> sa.Update:
        row = process.c
        set_to = [
            'state', 'visit', 'step', 'checkpoint', 'exit_status', 'exit_message', 'exception', 'owner', 'changed_at',
        ]  # fmt: skip
        given = dialect.each(
            **{name: row[name].type for name in [*set_to, 'outputs']},
            pause_bits=row.paused.type,
            pause_mask=row.paused.type,
            fenced_pid=row.pid.type,
            fenced_epoch=row.epoch.type,
            fenced_version=row.version.type,
        )
        return (
            sa.update(process)
            .values(
                **{name: given[name] for name in set_to},
                outputs=sa.func.coalesce(given['outputs'], row.outputs),
                # Set for a process that pauses itself, cleared for one that ends.
                paused=row.paused.bitwise_or(given['pause_bits']).bitwise_and(given['pause_mask']),
                crashes=0,
                version=row.version + 1,
            )
            .where(
                row.pid == given['fenced_pid'],
                row.epoch == given['fenced_epoch'],
                row.version == given['fenced_version'],
            )
        )

    def _awaiting(self, dialect: Dialect) -> None:
        row = process.c
        text, given = dialect.compile, dialect.parameter
        pair = dialect.each(waiter=row.pid.type, awaited_pid=row.pid.type)
        self.insert_awaiting = text(
            dialect.insert(awaiting)
            .from_select(
                ['waiter', 'awaited'],
                sa.select(pair['waiter'], row.pid).where(
                    row.pid == pair['awaited_pid'], row.state.not_in(sorted(TERMINAL_STATES))
                ),
            )
            .on_conflict_do_nothing()
        )
        self.still_waiting = text(
            sa.select(awaiting.c.waiter).where(dialect.is_member(awaiting.c.waiter)).distinct()
        )
        self.resolve_awaited = text(
            sa.delete(awaiting).where(dialect.is_member(awaiting.c.awaited)).returning(awaiting.c.waiter)
        )
        self.forget_waiter = text(sa.delete(awaiting).where(dialect.is_member(awaiting.c.waiter)))
        self.wake = text(
            sa.update(process)
            .values(
                state='running',
                version=row.version + 1,
                changed_at=given('changed_at'),
            )
            .where(dialect.is_member(row.pid), row.state == 'waiting')
            .returning(row.pid)
        )

    def _claiming(self, dialect: Dialect) -> None:
        row = process.c
        text, given = dialect.compile, dialect.parameter
        free = sa.and_(row.owner.is_(None), row.state.in_(['created', 'running']))
        claim = (
            sa.update(process)
            .values(state='running', owner=given('new_owner'), epoch=row.epoch + 1, version=row.version + 1)
            .where(dialect.is_member(row.pid), free)
            .returning(*_columns(process, ProcessRecord))
        )
        self.claim = text(claim.where(row.paused == 0))
        # A called function is part of its caller's step, which is not interrupted by a pause.
        self.claim_driven = text(claim)
        self.release_one = text(
            sa.update(process)
            .values(owner=None)
            .where(
                row.pid == given('released_pid'),
                row.owner == given('old_owner'),
                row.epoch == given('old_epoch'),
            )
        )

    def _intents(self, dialect: Dialect) -> None:
        row = process.c
        text, given = dialect.compile, dialect.parameter
        alive = row.state.not_in(sorted(TERMINAL_STATES))
        # Below what has ended, too: it may have called what lives on.
        tree = _descendants(dialect)
        self.to_kill = text(
            sa.select(row.pid, row.state)
            .where(dialect.is_among(row.pid, sa.select(tree.c.pid)), alive)
            .order_by(row.pid)
        )
        self.kill = text(
            sa.update(process)
            .values(
                state='killed',
                exit_message=given('exit_message'),
                checkpoint=None,
                step=None,
                owner=None,
                paused=0,
                version=row.version + 1,
                changed_at=given('changed_at'),
            )
            .where(dialect.is_member(row.pid))
        )
        tree = _descendants(dialect, alive)
        self.to_pause = text(
            sa.select(row.pid, row.paused)
            .where(dialect.is_among(row.pid, sa.select(tree.c.pid)), alive)
            .order_by(row.pid)
        )
        child = process.alias('child')
        # What hangs on a process that was paused by itself stays as it is: the search goes no further down there.
        top = (
            sa.select(row.pid, sa.literal(1).label('passes'))
            .where(dialect.is_member(row.pid))
            .cte('below', recursive=True)
        )
        passes = sa.case((child.c.paused.bitwise_and(PAUSED_ITSELF) == 0, 1), else_=0)
        below = top.union(sa.select(child.c.pid, passes).where(child.c.parent == top.c.pid, top.c.passes == 1))
        self.to_play = text(
            sa.select(row.pid, row.paused)
            .where(dialect.is_among(row.pid, sa.select(below.c.pid)), row.paused != 0)
            .order_by(row.pid)
        )
        self.set_paused = text(
            sa.update(process)
            .values(paused=row.paused.bitwise_or(given('pause_bits')).bitwise_and(given('pause_mask')))
            .where(dialect.is_member(row.pid))
        )
        self.forgive = text(sa.update(process).values(crashes=0).where(dialect.is_member(row.pid)))
        family = _descendants(dialect)
        self.forgive_family = text(
            sa.update(process)
            .values(crashes=0)
            .where(dialect.is_among(row.pid, sa.select(family.c.pid)), row.crashes > 0)
        )
        self.withdraw = text(sa.update(process).values(owner=None).where(dialect.is_member(row.pid)))

    def _engines(self, dialect: Dialect) -> None:
        row = engine.c
        text, given = dialect.compile, dialect.parameter
        fields = [field for field in EngineRecord.__struct_fields__ if field != 'id']
        self.insert_engine = text(sa.insert(engine).values(_values(dialect, *fields)).returning(row.id))
        present = sa.and_(row.id == given('engine_id'), row.ended.is_(None))
        if dialect.locks_rows:
            # Each transaction is a sign of life, and leaves a mark of its own. Until it has ended nobody else gets at
            # the row, and so can declare the engine dead.
            self.sign = text(
                sa.update(engine)
                .values(heartbeat=row.heartbeat + 1, beat_at=given('at'))
                .where(present)
                .returning(row.uuid, row.heartbeat)
            )
        else:
            self.sign = text(sa.select(row.uuid, row.heartbeat).where(present))
        self.has_mark = text(
            sa.select(row.id).where(row.uuid == given('uuid'), row.heartbeat >= given('heartbeat'))
        )
        self.beat = text(
            sa.update(engine)
            .values(heartbeat=row.heartbeat + 1, beat_at=given('at'))
            .where(row.id == given('engine_id'), row.ended.is_(None))
        )
        self.give_up_lease = text(sa.update(engine).values(lease=0).where(row.id == given('engine_id')))
        self.end_engine = text(
            sa.update(engine)
            .values(ended=given('how'))
            .where(row.id == given('engine_id'), row.ended.is_(None))
        )
        ended = sa.select(row.id).where(
            row.ended.is_not(None),
            sa.func.coalesce(row.beat_at, row.started_at) < given('before'),
            row.id.not_in(sa.select(process.c.owner).where(sa.text(OWNED))),
            row.id.not_in(sa.select(job.c.owner).where(sa.text(LIVE_JOB), job.c.owner.is_not(None))),
            ~sa.exists().where(process.c.origin == row.id, sa.text(UNFINISHED)),
        )
        # What another removes, or reads for that, is left to the other.
        some = ended.order_by(row.id).limit(given('most')).with_for_update(skip_locked=True, of=engine)
        self.forget_engines = text(sa.delete(engine).where(row.id.in_(some)))
        self.declare_dead = text(
            sa.update(engine)
            .values(ended='dead')
            .where(
                row.id == given('engine_id'),
                row.ended.is_(None),
                row.heartbeat == sa.func.coalesce(given('seen'), row.heartbeat),
            )
        )

    def _owned(self, dialect: Dialect) -> None:
        row = process.c
        text, given = dialect.compile, dialect.parameter
        owned = row.owner == given('old_owner')
        self.release_all = text(sa.update(process).values(owner=None).where(owned))
        self.release_others = text(
            sa.update(process).values(owner=None).where(owned, sa.not_(dialect.is_member(row.pid)))
        )
        self.fatal = text(
            sa.select(row.pid, row.crashes)
            .where(owned, row.driven == 0, row.crashes + 1 >= given('most'))
            .order_by(row.pid)
        )
        self.take_away = text(
            sa.update(process)
            .values(owner=None, epoch=row.epoch + 1, version=row.version + 1, crashes=row.crashes + given('blame'))
            .where(owned)
        )

    def _notes(self, dialect: Dialect) -> None:
        row = process.c
        text, given = dialect.compile, dialect.parameter
        self.insert_log = text(dialect.insert_each(log, *LogEntry.__struct_fields__))
        # Once for each time that the process comes to stand, however often it is looked at there.
        said_before = sa.select(log.c.id).where(
            log.c.pid == given('pid'),
            log.c.logger == given('logger'),
            log.c.message == given('message'),
            log.c.at >= sa.select(row.changed_at).where(row.pid == given('pid')).scalar_subquery(),
        )
        self.insert_log_once = text(
            sa.insert(log).from_select(
                list(LogEntry.__struct_fields__),
                sa.select(*_values(dialect, *LogEntry.__struct_fields__).values()).where(~said_before.exists()),
            )
        )
        self.insert_code = text(
            dialect.insert_each(code, 'digest', 'text').on_conflict_do_nothing(index_elements=[code.c.digest])
        )

    def _tasks(self, dialect: Dialect) -> None:
        row = task.c
        text, given = dialect.compile, dialect.parameter
        this = row.correlation_id == given('correlation_id')
        self.insert_task = text(
            dialect.insert(task)
            .inline()
            .values(_values(dialect, 'correlation_id', 'pid'))
            .on_conflict_do_nothing(index_elements=[row.correlation_id])
        )
        self.point_task = text(sa.update(task).values(pid=given('pid')).where(this))
        self.owe_reply = text(sa.update(task).values(reply_to=given('reply_to')).where(this))
        answered = dialect.each(correlation_id=row.correlation_id.type)
        self.settle_task = text(
            sa.update(task).values(reply_to=None).where(row.correlation_id == answered['correlation_id'])
        )
