"""A commit whose answer is lost is in, or it is not; the engine finds out which."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from treadle.engine import Engine
from treadle.engine.store.transaction import Transaction

PATIENCE = 30.0


@pytest.mark.timeout(120)
def test_a_transaction_of_a_crashed_server_whose_number_another_one_was_given_is_written_again(
    make_postgres: Callable[..., Any],
) -> None:
    server = make_postgres()
    attempts = 0

    def write(transaction: Transaction) -> int:
        nonlocal attempts
        attempts += 1
        first_free = transaction.reserve_pids(10)
        if attempts == 1:
            # Nothing of the transaction is on the disk yet, so its number is free again, and is taken.
            server.daemons[-1].stop(number=signal.SIGQUIT)
            server.start()
            for _ in range(10):
                server.execute('BEGIN; SELECT pg_current_xact_id(); COMMIT;')
        return first_free

    with Engine(server.url()) as engine:
        server.execute('CHECKPOINT')
        first_free = engine.core.store.call(write).result(PATIENCE)
        assert attempts == 2
        assert engine.core.store.call(lambda each: each.reserve_pids(1)).result(PATIENCE) == first_free + 1
