"""What runs for each batch finds its rows by their index, however many processes there are, also before any ANALYZE."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from treadle.engine.store.location import locate
from treadle.engine.store.postgresql.database import PLANS

_MANY = """
INSERT INTO treadle.process (pid, uuid, class_name, state, inputs, origin, created_at, changed_at)
SELECT number, number::text, 'module:Class', 'finished', '{}', 1, 0, 0 FROM generate_series(1, 100000) AS number
"""

_MANY_ENGINES = """
INSERT INTO treadle.engine (uuid, name, host, boot_id, os_pid, script, started_at, lease, ended)
SELECT number::text, '', '', '', 1, '/script.py', 0, 10, 'stopped' FROM generate_series(1, 20000) AS number
"""

_SOME = f'{{{",".join(str(pid) for pid in range(19001, 19101))}}}'
_GIVEN = dict.fromkeys(('pids', 'ended', 'fenced_pid', 'fenced_epoch', 'fenced_version', 'awaited_pid'), _SOME)
HOT = (
    'lock_fences', 'lock', 'lock_claimable', 'claim', 'wake', 'advance', 'insert_awaiting', 'select_ended',
)  # fmt: skip


@pytest.fixture
def connection(postgres: str) -> Iterator[psycopg.Connection]:
    """A connection to an empty store."""
    locate(postgres).ensure_schema()
    with psycopg.connect(postgres, autocommit=True, options='-c search_path=treadle') as connection:
        yield connection


@pytest.mark.parametrize('name', HOT)
def test_planned_for_many_rows(connection: psycopg.Connection, postgres: str, name: str) -> None:
    connection.execute(_MANY)
    statement = getattr(locate(postgres).statements(), name)
    named: dict[str, Any] = dict.fromkeys(re.findall(r'%\((\w+)\)s', statement))
    plan = connection.execute(f'EXPLAIN {statement}', {**named, **_GIVEN}).fetchall()
    assert 'Seq Scan on process' not in str(plan)


@pytest.mark.parametrize('name', ['live_engines', 'siblings_of_script', 'unfinished', 'has_free_jobs'])
def test_what_is_asked_every_second_does_not_read_what_has_ended(
    connection: psycopg.Connection, postgres: str, name: str
) -> None:
    connection.execute(_MANY)
    connection.execute(_MANY_ENGINES)
    connection.execute('ANALYZE process, engine')
    statement = getattr(locate(postgres).statements(), name)
    plan = connection.execute(f'EXPLAIN {statement}', {'script': '/other.py', 'origin': 1}).fetchall()
    assert 'Seq Scan on process' not in str(plan) and 'Seq Scan on engine' not in str(plan)


@pytest.mark.parametrize('name', HOT)
def test_planned_for_no_rows_and_kept(connection: psycopg.Connection, postgres: str, name: str) -> None:
    for setting, value in {**PLANS, 'plan_cache_mode': 'force_generic_plan'}.items():
        connection.execute(f'SET {setting} = {value}')
    statement = getattr(locate(postgres).statements(), name)
    names = list(dict.fromkeys(re.findall(r'%\((\w+)\)s', statement)))
    for number, each in enumerate(names, 1):
        statement = statement.replace(f'%({each})s', f'${number}')
    connection.execute(f'PREPARE hot AS {statement}')
    values = ', '.join(f"'{_GIVEN[each]}'" if each in _GIVEN else 'NULL' for each in names)
    plan = connection.execute(f'EXPLAIN EXECUTE hot({values})').fetchall()
    assert 'Seq Scan on process' not in str(plan)
