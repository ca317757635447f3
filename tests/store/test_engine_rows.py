"""The rows of engines: numbers that grow for ever, and which rows go, so that the table stays small."""

from __future__ import annotations

import time
from typing import Any

import pytest

from treadle.engine.store.engines import KEPT, beat, declare_dead, register_engine

_ENGINE = (
    'INSERT INTO engine (id, uuid, name, host, boot_id, os_pid, script, started_at, lease, ended, beat_at) '
    "VALUES ({id}, 'u{id}', 'n', 'h', 'b', 1, '/s.py', {at}, 10, {ended}, {beat_at})"
)
_JOB = (
    'INSERT INTO job (pid, computer, state, request, owner, changed_at) '
    "VALUES ({pid}, 'c', '{state}', '', {owner}, 0)"
)


def execute(rig: Any, *statements: str) -> None:
    def write(transaction: Any) -> None:
        for statement in statements:
            transaction.cursor.execute(statement)

    rig.do(write)


def engines(rig: Any) -> set[int]:
    query = 'SELECT id FROM engine'
    return {row[0] for row in rig.reader._connections.use(lambda connection: connection.execute(query).fetchall())}


def ended(number: int, *, at: float | None = None, beat_at: str | float = 'NULL', how: str = "'stopped'") -> str:
    long_ago = time.time() - KEPT - 60
    return _ENGINE.format(id=number, at=long_ago if at is None else at, ended=how, beat_at=beat_at)


def test_a_heartbeat_goes_on_beyond_32_bits(rig: Any) -> None:
    execute(rig, f'UPDATE engine SET heartbeat = {2**31 - 1} WHERE id = {rig.engine_id}')
    rig.do(beat)
    rig.do(beat)
    assert rig.reader.engine(rig.engine_id).heartbeat > 2**31
    assert rig.lives == []


def test_rows_of_engines_that_ended_long_ago_and_left_nothing_go(rig: Any, rigs: Any) -> None:
    now = time.time()
    execute(
        rig,
        *(ended(number) for number in range(101, 108)),
        ended(108, at=now),
        ended(109, beat_at=now),  # it has worked for long, and ended a moment ago
        ended(110, how='NULL'),
        _JOB.format(pid=1, state='submitted', owner=104),
        _JOB.format(pid=2, state='retrieved', owner=105),
    )
    for pid, fields in enumerate(
        (
            {'origin': 101, 'state': 'waiting'},
            {'origin': 102, 'state': 'running'},
            {'origin': 106, 'state': 'finished'},
            {'origin': 107, 'state': 'killed'},
        ),
        1,
    ):
        record = rigs.process_record(pid, **fields)
        rig.commit(rigs.Unit(create=(record,)))
    execute(rig, 'UPDATE process SET owner = 103 WHERE pid = 2')
    added = rig.do(lambda transaction: register_engine(transaction, rigs.engine_record()))
    assert engines(rig) == {rig.engine_id, 101, 102, 103, 104, 108, 109, 110, added}
    assert rig.reader.ended_engines_of('/s.py') == {101, 102}


def test_no_more_than_some_go_at_once(rig: Any, rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('treadle.engine.store.engines._FORGOTTEN', 2)
    execute(rig, *(ended(number) for number in (101, 102, 103)))
    rig.do(lambda transaction: register_engine(transaction, rigs.engine_record()))
    assert engines(rig) & {101, 102, 103} == {103}


def test_an_engine_whose_row_is_gone_takes_itself_for_dead(rig: Any, rigs: Any) -> None:
    before, rig.successor = rig.engine_id, rigs.engine_record()
    with rigs.Rig(rig.location.url) as other:
        other.do(lambda transaction: declare_dead(transaction, before, seen=None, max_crashes=None))
        execute(other, f'UPDATE engine SET started_at = 0, beat_at = 0 WHERE id = {before}')
        other.do(lambda transaction: register_engine(transaction, rigs.engine_record()))
        assert before not in engines(other)
        assert other.do(
            lambda transaction: declare_dead(transaction, before, seen=None, max_crashes=None)
        ) is None
    rig.do(beat)
    assert rig.lives == [rig.engine_id] and rig.engine_id > before


def test_what_another_is_removing_is_not_waited_for(postgres_store: str, rigs: Any) -> None:
    with rigs.Rig(postgres_store) as one, rigs.Rig(postgres_store) as two:
        execute(one, ended(101))
        with one.written(lambda transaction: register_engine(transaction, rigs.engine_record())):
            two.do(lambda transaction: register_engine(transaction, rigs.engine_record()))
            assert 101 in engines(two)  # one has not committed
        one.do(beat)
        assert 101 not in engines(two)


def test_an_id_is_not_given_again(rig: Any, rigs: Any) -> None:
    highest = rig.do(lambda transaction: register_engine(transaction, rigs.engine_record()))
    execute(rig, f"UPDATE engine SET ended = 'stopped', started_at = 0, beat_at = 0 WHERE id = {highest}")
    added = [rig.do(lambda transaction: register_engine(transaction, rigs.engine_record())) for _ in range(2)]
    assert highest not in engines(rig) and min(added) > highest
    assert rig.reader.engine(highest) is None
