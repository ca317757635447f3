"""What runs for each batch finds its rows by their index, however many processes there are, also before any ANALYZE."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from treadle.engine.store.location import locate

_MANY = """
INSERT INTO treadle.process (pid, uuid, class_name, state, inputs, origin, created_at, changed_at)
SELECT number, number::text, 'module:Class', 'finished', '{}', 1, 0, 0 FROM generate_series(1, 100000) AS number
"""


@pytest.fixture
def many(postgres: str) -> str:
    """A store with very many processes."""
    locate(postgres).ensure_schema()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(_MANY)
    return postgres


def test_no_statement_of_the_hot_path_reads_the_whole_table(many: str) -> None:
    statements = locate(many).statements()
    some = f'{{{",".join(str(pid) for pid in range(19001, 19101))}}}'
    given = {'pids': some, 'ended': some, 'fenced_pid': 19001, 'fenced_epoch': 1, 'fenced_version': 1}
    with psycopg.connect(many, autocommit=True, options='-c search_path=treadle') as connection:
        for name in ('lock_fences', 'lock', 'lock_claimable', 'claim', 'wake', 'advance', 'select_ended'):
            statement = getattr(statements, name)
            named: dict[str, Any] = dict.fromkeys(re.findall(r'%\((\w+)\)s', statement))
            plan = connection.execute(f'EXPLAIN {statement}', {**named, **given}).fetchall()
            assert 'Seq Scan on process' not in str(plan), name
