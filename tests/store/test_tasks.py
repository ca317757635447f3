"""Tasks that come by a broker: one process each, also for two engines at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from treadle.engine import Engine, Process
from treadle.engine.launch import compose
from treadle.engine.store.records import Unit
from treadle.engine.store.tasks import create_once
from treadle.engine.store.transaction import Transaction

PATIENCE = 30.0


class Nothing(Process):
    def run(self) -> None:
        """Nothing."""


def creating(engine: Engine, pid: int, key: str | None = None) -> Callable[[Transaction], tuple[int, bool]]:
    inputs: dict[str, Any] = {'metadata': {'key': key}} if key else {}
    record = compose(Nothing, inputs, codec=engine.core.source.codec, pid=pid, origin=engine.core.engine_id)
    return lambda transaction: create_once(transaction, 'the task', Unit(create=(record,)))


def wait_until_one_waits(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize('ends_well', [True, False])
def test_two_engines_with_the_same_task_make_one_process(postgres: str, ends_well: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()
    with Engine(postgres) as one, Engine(postgres) as other:
        create = creating(one, 1001)

        def slowly(transaction: Transaction) -> tuple[int, bool]:
            created = create(transaction)
            begun.set()
            go_on.wait(PATIENCE)
            if not ends_well:
                raise LookupError
            return created

        first = one.core.store.call(slowly)
        assert begun.wait(PATIENCE)
        second = other.core.store.call(creating(other, 1002))
        wait_until_one_waits(postgres)
        go_on.set()
        if ends_well:
            assert first.result(PATIENCE) == (1001, False)
            assert second.result(PATIENCE) == (1001, True)
        else:
            assert isinstance(first.exception(PATIENCE), LookupError)
            assert second.result(PATIENCE) == (1002, False)
        assert len(one.query()) == 1


def test_a_task_whose_key_is_taken_leads_to_the_process_that_holds_it(store_url: str) -> None:
    with Engine(store_url) as engine:
        node = engine.submit(Nothing, metadata={'key': 'mine'})
        create = creating(engine, 1001, 'mine')
        assert engine.core.store.call(create).result(PATIENCE) == (node.pid, False)
        assert engine.core.store.call(create).result(PATIENCE) == (node.pid, True)
        assert [each.pid for each in engine.query()] == [node.pid]
