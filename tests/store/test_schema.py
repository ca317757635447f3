"""The tables as the rest of the store relies on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy.dialects import postgresql, sqlite

from treadle.engine.store import schema
from treadle.engine.store.queries import Queries
from treadle.engine.store.sqlite.wording import SqliteWording


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    engine = sqlalchemy.create_engine('sqlite://')
    schema.metadata.create_all(engine)
    with engine.connect() as wrapped:
        raw = wrapped.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        yield raw
    engine.dispose()


def add(connection: sqlite3.Connection, pid: int, **values: object) -> None:
    row = {'pid': pid, 'uuid': f'uuid-{pid}', 'class_name': 'm:C', 'state': 'created', 'inputs': '{}'}
    row |= {'origin': 1, 'created_at': 0.0, 'changed_at': 0.0, **values}
    names, marks = ', '.join(row), ', '.join(f':{name}' for name in row)
    connection.execute(f'INSERT INTO process ({names}) VALUES ({marks})', row)


_GIVEN = {'x': 1, 'script': '/a.py', 'origin': 1}
QUERIES = Queries(SqliteWording())


@pytest.mark.parametrize(
    ('query', 'index'),
    [
        (QUERIES.live_engines, 'engine_live'),
        (QUERIES.siblings_of_script, 'engine_ended'),
        (QUERIES.siblings_of_script, 'process_unfinished'),
        (QUERIES.unfinished, 'process_unfinished'),
        (QUERIES.has_free_jobs, 'SEARCH engine USING INTEGER PRIMARY KEY'),
        (f'SELECT pid FROM process WHERE {schema.RUNNABLE} ORDER BY nesting DESC, pid', 'process_runnable'),
        ('SELECT pid FROM process WHERE owner = :x', 'process_owner'),
        (f'SELECT pid FROM process WHERE key = :x AND {schema.HAS_KEY}', 'process_key'),
        ('SELECT min(wake_at) FROM process WHERE wake_at <= :x', 'process_wake_at'),
        ('SELECT pid FROM process WHERE parent = :x', '(parent=?)'),
        ('SELECT waiter FROM awaiting WHERE awaited = :x', '(awaited=?)'),
        ('SELECT awaited FROM awaiting WHERE waiter = :x', 'awaiting_waiter'),
        ('SELECT message FROM log WHERE pid = :x ORDER BY id', 'log_pid'),
    ],
)
def test_queries_use_their_index_and_never_sort(
    connection: sqlite3.Connection, query: str, index: str
) -> None:
    plan = '\n'.join(row[3] for row in connection.execute(f'EXPLAIN QUERY PLAN {query}', _GIVEN))
    assert index in plan
    assert 'TEMP B-TREE' not in plan


def test_a_key_is_unique_until_its_process_is_killed_or_excepts(connection: sqlite3.Connection) -> None:
    add(connection, 1, key='k', state='killed')
    add(connection, 2, key='k', state='excepted')
    add(connection, 3, key='k', state='finished')
    with pytest.raises(sqlite3.IntegrityError):
        add(connection, 4, key='k')


def test_a_call_is_recorded_once(connection: sqlite3.Connection) -> None:
    add(connection, 1, parent=9, call_visit=0, call_number=1)
    with pytest.raises(sqlite3.IntegrityError):
        add(connection, 2, parent=9, call_visit=0, call_number=1)
    # Children of ``self.submit`` and top-level processes have no call number.
    add(connection, 3)
    add(connection, 4)


def test_an_engine_id_is_never_used_again(connection: sqlite3.Connection) -> None:
    insert = (
        'INSERT INTO engine (uuid, name, host, boot_id, os_pid, started_at, lease)'
        " VALUES (?, 'n', 'h', 'b', 1, 0.0, 10.0)"
    )
    first = connection.execute(insert, ('a',)).lastrowid
    connection.execute('DELETE FROM engine')
    second = connection.execute(insert, ('b',)).lastrowid
    assert first is not None and second is not None and second > first


def test_a_pid_is_the_row_id(connection: sqlite3.Connection) -> None:
    add(connection, 41)
    assert connection.execute('SELECT rowid FROM process').fetchone() == (41,)


def test_no_column_needs_a_processor() -> None:
    """Statements are run with plain values: integers, texts and floats pass unchanged on both dialects."""
    kinds = {column.type.python_type for table in schema.metadata.tables.values() for column in table.columns}
    assert kinds == {int, str, float}


@pytest.mark.parametrize('dialect', [sqlite.dialect(), postgresql.dialect()], ids=['sqlite', 'postgresql'])
def test_partial_indexes_are_partial_on_both_dialects(dialect: sqlalchemy.Dialect) -> None:
    statements = {
        str(index.name): str(sqlalchemy.schema.CreateIndex(index).compile(dialect=dialect))
        for index in schema.process.indexes
    }
    assert statements['process_runnable'].endswith(f'(nesting DESC, pid) WHERE {schema.RUNNABLE}')
    assert statements['process_owner'].endswith(f'WHERE {schema.OWNED}')
    assert statements['process_key'].startswith('CREATE UNIQUE INDEX')
    assert statements['process_key'].endswith(f'WHERE {schema.HAS_KEY}')
    assert statements['process_wake_at'].endswith(f'WHERE {schema.TIMED}')
