"""What runs for each batch finds its rows by their index, however many processes there are, also before any ANALYZE."""

from __future__ import annotations

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
    given = dict.fromkeys(
        ('exit_status', 'exit_message', 'exception', 'outputs', 'checkpoint', 'step', 'owner', 'pause_bits',
         'pause_mask', 'visit', 'changed_at', 'fenced_pid', 'fenced_epoch', 'fenced_version', 'new_owner'), 1,
    )  # fmt: skip
    given.update(state='running')  # type: ignore[call-overload]
    with psycopg.connect(postgres, autocommit=True, options='-c search_path=treadle') as connection:
        connection.execute(_MANY)
        parameters = {**given, 'pids': '{19001,19002,19003}', 'ended': '{19001}'}
        plan = '\n'.join(row[0] for row in connection.execute(f'EXPLAIN {statement}', parameters).fetchall())
    assert 'Seq Scan on process' not in plan, plan
