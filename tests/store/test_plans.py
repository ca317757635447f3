"""What runs for each batch finds its rows by their index, however many processes there are, also before any ANALYZE."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from treadle.engine.store.location import locate

_MANY = """
INSERT INTO treadle.process (pid, uuid, class_name, state, inputs, origin, created_at, changed_at)
SELECT number, number::text, 'module:Class', 'finished', '{}', 1, 0, 0 FROM generate_series(1, 20000) AS number
"""


@pytest.mark.parametrize('name', ['lock_fences', 'lock', 'lock_claimable', 'claim', 'wake', 'advance'])
def test_no_statement_of_the_hot_path_reads_the_whole_table(postgres: str, name: str) -> None:
    location = locate(postgres)
    location.ensure_schema()
    statement = getattr(location.statements(), name)
    named: dict[str, Any] = dict.fromkeys(re.findall(r'%\((\w+)\)s', statement))
    some = f'{{{",".join(str(pid) for pid in range(19001, 19101))}}}'
    parameters = {**named, 'pids': some, 'ended': some, 'fenced_pid': 19001, 'fenced_epoch': 1, 'fenced_version': 1}
    with psycopg.connect(postgres, autocommit=True, options='-c search_path=treadle') as connection:
        connection.execute(_MANY)
        plan = '\n'.join(row[0] for row in connection.execute(f'EXPLAIN {statement}', parameters).fetchall())
    assert 'Seq Scan on process' not in plan, plan
