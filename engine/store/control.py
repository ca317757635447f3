"""Writing to a store without an engine: one short transaction, for a command that changes intents.

Engines write whenever they have something to write, and leave the file's lock free for about a millisecond between
their batches. Whoever wants in has to look often, hence the short pauses here instead of SQLite's own growing ones.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final, TypeVar, cast

from .location import StoreLocation
from .migrations import check_schema
from .reader import uncut
from .records import ProcessRecord
from .sqlite import connect_writer, is_busy, translate_error
from .transaction import Cursor, Transaction

__all__ = ['write_once']

T = TypeVar('T')

#: Seconds between two looks at a lock that another OS process holds, and for how long to go on.
LOOK, PATIENCE = 0.0005, 30.0


class _ClaimNothing:
    """The admission of a writer that runs no processes."""

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        """Never."""
        return False


#: Engines are counted from 1.
_NO_ENGINE: Final = 0


def write_once(location: StoreLocation, operation: Callable[[Transaction], T], *, patience: float = PATIENCE) -> T:
    """Run ``operation`` in a transaction of its own; what it returns is durable when it is returned here.

    Running engines notice within 50 ms. The store is neither made nor upgraded.

    :param patience: seconds to wait for the lock of other writers.
    :raises StoreError: there is no store, or it cannot be written.
    """
    # SQLAlchemy takes longer to import than all the rest of a command; only those that write pay for it.
    from .statements import SqliteDialect, Statements  # noqa: PLC0415

    statements = Statements(SqliteDialect())
    with uncut:
        connection = connect_writer(location)
        try:
            check_schema(connection, location)
            connection.execute('PRAGMA busy_timeout = 0')
            cursor = connection.cursor()
            _begin(cursor, time.monotonic() + patience)
            try:
                result = operation(
                    Transaction(
                        cursor=cast(Cursor, cursor),
                        sql=statements,
                        engine_id=_NO_ENGINE,
                        admission=_ClaimNothing(),
                    )
                )
                connection.execute('COMMIT')
            except BaseException:
                if connection.in_transaction:
                    connection.execute('ROLLBACK')
                raise
            return result
        except sqlite3.Error as error:
            raise translate_error(error, location) from error
        finally:
            connection.close()


def _begin(cursor: sqlite3.Cursor, give_up: float) -> None:
    while True:
        try:
            cursor.execute('BEGIN IMMEDIATE')
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > give_up:
                raise
            time.sleep(LOOK)
