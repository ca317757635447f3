"""Writing to a store without an engine: one short transaction, for a command that submits or changes intents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from .database import transact
from .location import StoreLocation
from .records import ProcessRecord
from .transaction import Cursor, Transaction

__all__ = ['write_once']

T = TypeVar('T')

#: Seconds to wait for what other OS processes hold.
PATIENCE = 30.0


class _ClaimNothing:
    """The admission of a writer that runs no processes."""

    def is_suspect(self, record: ProcessRecord) -> bool:
        """It matters to none."""
        return False

    def admits_suspect(self, *, took_one: bool) -> bool:
        """Never."""
        return False

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        """Never."""
        return False


#: Engines are counted from 1.
_NO_ENGINE: Final = 0


def write_once(location: StoreLocation, operation: Callable[[Transaction], T], *, patience: float = PATIENCE) -> T:
    """Run ``operation`` in a transaction of its own; what it returns is durable when it is returned here.

    Running engines notice at their store threads' next tick. The store is neither made nor upgraded.

    :param operation: may run more than once, if the database is busy.
    :param patience: seconds to wait for other writers.
    :raises StoreError: there is no store, or it cannot be written.
    :raises StoreRetired: it was closed for good.
    """
    statements = location.statements()
    database = location.make_database()

    def work(cursor: Cursor) -> T:
        transaction = Transaction(cursor=cursor, sql=statements, engine_id=_NO_ENGINE, admission=_ClaimNothing())
        transaction.refuse_if_retired()
        return operation(transaction)

    database.connect()
    try:
        return transact(database, work, patience=patience)
    finally:
        database.close()
