"""The tables of a store, as SQLAlchemy Core metadata for SQLite and PostgreSQL alike.

Columns are integers, floats and text only, so a compiled statement can be run with plain Python values
and no bind processor in between. Flags are the integers 0 and 1. Times are seconds since the epoch and
for information only: no decision rests on them, except that ``process.wake_at`` says when a timer is due.

A planner uses a partial index only where a query repeats the index's predicate *literally* (bound
parameters do not count), so the predicates are constants here: put them into the query's text.

``process.parent`` has no index of its own; it is the leading column of ``uq_process_call``.
There are no foreign keys: every row is written by the one store thread, inside the unit that fences it.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from .migrations import APPLICATION_ID, HEAD
from .queries import LIVE_ENGINE, LIVE_JOB, RUNNABLE, UNFINISHED

__all__ = [
    'APPLICATION_ID',
    'HAS_KEY',
    'HEAD',
    'OWED',
    'OWNED',
    'RUNNABLE',
    'STAYS',
    'TIMED',
    'awaiting',
    'code',
    'compatibility',
    'computer',
    'counter',
    'engine',
    'job',
    'log',
    'metadata',
    'process',
    'retirement',
    'task',
]

#: Predicate of ``process_owner``.
OWNED = 'owner IS NOT NULL'
#: Predicate of the unique ``process_key``: a killed or excepted process gives its key back.
HAS_KEY = "key IS NOT NULL AND state NOT IN ('killed', 'excepted')"
#: Predicate of ``task_owed``.
OWED = 'reply_to IS NOT NULL'
#: Predicate of ``process_wake_at``.
TIMED = 'wake_at IS NOT NULL'

#: In ``Table.info`` of what is of one store alone, and is not taken along when its contents move to another one.
STAYS: Final = 'stays'

metadata = MetaData(
    naming_convention={
        'pk': 'pk_%(table_name)s',
        'uq': 'uq_%(table_name)s_%(column_0_N_name)s',
        'ix': '%(table_name)s_%(column_0_N_name)s',
    }
)

# SQLite makes a primary key its row id only where the type is spelled INTEGER; PostgreSQL's is 32 bits wide.
_Id = BigInteger().with_variant(Integer(), 'sqlite')
# What grows without an end, or comes from users, is not to overflow PostgreSQL's either.
_Large = BigInteger().with_variant(Integer(), 'sqlite')
_Real: Double[float] = Double()


def _partial(name: str, *columns: str, where: str, unique: bool = False, **options: Any) -> Index:
    """An index over the rows where ``where`` holds, on both dialects."""
    predicate = text(where)
    return Index(
        name,
        *(text(column) if ' ' in column else column for column in columns),
        unique=unique,
        sqlite_where=predicate,
        postgresql_where=predicate,
        **options,
    )


process = Table(
    'process',
    metadata,
    # Handed out by the store (see ``counter``), so that a pid is known before its row is committed.
    Column('pid', _Id, primary_key=True, autoincrement=False),
    Column('uuid', Text, nullable=False, unique=True),
    # The process that called this one, and which call it was: the parent's visit and a number in it.
    Column('parent', _Id),
    Column('call_visit', Integer),
    Column('call_number', Integer),
    # How many blocked threads wait above it: the deeper, the sooner it is claimed.
    Column('nesting', Integer, nullable=False, server_default=text('0')),
    # 1: a process function that its caller's thread drives; a sweep never claims it.
    Column('driven', Integer, nullable=False, server_default=text('0')),
    # 'module:QualName', or '/abs/script.py:QualName' for a class of __main__.
    Column('class_name', Text, nullable=False),
    # Hash of the source, for classes of scripts and notebooks.
    Column('class_hash', Text),
    Column('process_label', Text, nullable=False, server_default=text("''")),
    Column('label', Text, nullable=False, server_default=text("''")),
    Column('description', Text, nullable=False, server_default=text("''")),
    Column('key', Text),
    # Hash of class and inputs, compared when a key or a replayed call attaches to this row.
    Column('fingerprint', Text),
    Column('state', Text, nullable=False),
    # Bits: 1 by an intent of its own, 2 because a process above it was paused.
    Column('paused', Integer, nullable=False, server_default=text('0')),
    # How many steps are committed, and the name of the present or the next one.
    Column('visit', Integer, nullable=False, server_default=text('0')),
    Column('step', Text),
    Column('exit_status', _Large),
    Column('exit_message', Text),
    Column('exception', Text),
    Column('inputs', Text, nullable=False),
    Column('checkpoint', Text),
    Column('outputs', Text),
    # The engine that submitted it (children inherit it), and the one that runs it now.
    Column('origin', _Id, nullable=False),
    Column('owner', _Id),
    # The fencing token, raised by each claim, and the number of the row's last write.
    Column('epoch', Integer, nullable=False, server_default=text('0')),
    Column('version', Integer, nullable=False, server_default=text('0')),
    Column('wake_at', _Real),
    Column('created_at', _Real, nullable=False),
    Column('changed_at', _Real, nullable=False),
    # How many engines have died while they owned it, since its last checkpoint.
    Column('crashes', Integer, nullable=False, server_default=text('0')),
    # Digest of what its class declared when it began; see ``code``.
    Column('code', Text),
    UniqueConstraint('parent', 'call_visit', 'call_number', name='uq_process_call'),
    _partial('process_runnable', 'nesting DESC', 'pid', where=RUNNABLE),
    _partial('process_owner', 'owner', where=OWNED),
    _partial('process_key', 'key', where=HAS_KEY, unique=True),
    _partial('process_wake_at', 'wake_at', where=TIMED),
    _partial('process_unfinished', 'origin', where=UNFINISHED),
)

awaiting = Table(
    'awaiting',
    metadata,
    Column('awaited', _Id, primary_key=True, autoincrement=False),
    Column('waiter', _Id, primary_key=True, autoincrement=False),
    Index('awaiting_waiter', 'waiter'),
    sqlite_with_rowid=False,
)

log = Table(
    'log',
    metadata,
    Column('id', _Id, primary_key=True, autoincrement=True),
    Column('pid', _Id, nullable=False),
    Column('at', _Real, nullable=False),
    Column('level', Integer, nullable=False),
    Column('logger', Text, nullable=False),
    Column('message', Text, nullable=False),
    Index('log_pid', 'pid', 'id'),
)

engine = Table(
    'engine',
    metadata,
    Column('id', _Id, primary_key=True, autoincrement=True),
    Column('uuid', Text, nullable=False, unique=True),
    Column('name', Text, nullable=False),
    Column('host', Text, nullable=False),
    Column('boot_id', Text, nullable=False),
    Column('os_pid', Integer, nullable=False),
    # Absolute path of the script that started it; a later engine of the same script is its successor.
    Column('script', Text),
    Column('started_at', _Real, nullable=False),
    Column('heartbeat', _Large, nullable=False, server_default=text('0')),
    # Seconds of silence after which others may declare it dead; 0: it beats no more, and its lock file alone tells.
    Column('lease', _Real, nullable=False),
    Column('ended', Text),
    # When it last beat, for people; the counter is what counts.
    Column('beat_at', _Real),
    # Those that live are few; of a script that is run every minute there are many that have ended.
    _partial('engine_live', 'id', where=LIVE_ENGINE),
    # By hash, since a path may be longer than what PostgreSQL takes into an index that keeps an order.
    _partial('engine_ended', 'script', where='ended IS NOT NULL', postgresql_using='hash'),
    # An engine's id is never used again, not even after its row was deleted.
    sqlite_autoincrement=True,
)

# What code said, by its digest, to show the difference when it has changed: the declarations that ``process.code``
# names, and the sources of scripts' classes that ``process.class_hash`` does.
code = Table(
    'code',
    metadata,
    Column('digest', Text, primary_key=True),
    Column('text', Text, nullable=False),
)

# Tasks that came by a broker, by the sender's mark of the message; see ``tasks.py``.
task = Table(
    'task',
    metadata,
    Column('correlation_id', Text, primary_key=True),
    Column('pid', _Id, nullable=False, autoincrement=False),
    # Where the answer is to go when the process has ended; NULL if there is none to send, or it is sent.
    Column('reply_to', Text),
    _partial('task_owed', 'pid', where=OWED),
)

counter = Table(
    'counter',
    metadata,
    Column('name', Text, primary_key=True),
    Column('next', _Id, nullable=False),
)

computer = Table(
    'computer',
    metadata,
    Column('name', Text, primary_key=True),
    # JSON, see ``Computer.to_text``; never a secret.
    Column('definition', Text, nullable=False),
    # Why it cannot be reached just now, for people.
    Column('note', Text),
    Column('changed_at', _Real, nullable=False),
)

# The job of a process on a computer; how far it has come, and which engine looks after it.
job = Table(
    'job',
    metadata,
    Column('pid', _Id, primary_key=True, autoincrement=False),
    Column('computer', Text, nullable=False),
    Column('state', Text, nullable=False),
    Column('request', Text, nullable=False),
    # How many times it was begun to be brought there, each time in a folder of its own.
    Column('attempt', Integer, nullable=False, server_default=text('0')),
    # The fencing token, raised whenever another engine looks after it.
    Column('epoch', Integer, nullable=False, server_default=text('1')),
    Column('owner', _Id),
    Column('folder', Text),
    Column('job_id', Text),
    # Where the scheduler has it: 'queued' or 'running'.
    Column('phase', Text),
    Column('outcome', Text),
    Column('retrieved', Text),
    # What stands in its way, for people.
    Column('note', Text),
    # 1: something is to look at it while it runs.
    Column('monitored', Integer, nullable=False, server_default=text('0')),
    Column('changed_at', _Real, nullable=False),
    _partial('job_live', 'computer', 'pid', where=LIVE_JOB),
)

# One row, once the store was closed for good: nothing is written any more, since all goes on in another store.
retirement = Table(
    'retirement',
    metadata,
    Column('at', _Real, primary_key=True, autoincrement=False),
    # What engines that still come here are told, such as the other store's URL; may be empty.
    Column('moved_to', Text, nullable=False),
    info={STAYS: True},
)

# One row, written by the migrations: since which revision an engine that was at work can go on at this one.
compatibility = Table(
    'compatibility',
    metadata,
    Column('revision', Text, primary_key=True),
    Column('since', Text, nullable=False),
    info={STAYS: True},
)
