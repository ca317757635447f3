"""Writing to a store without an engine: one short transaction, for a command that submits or changes intents."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, cast

from .location import StoreLocation
from .migrations import check_schema
from .reader import uncut
from .records import ProcessRecord
from .sqlite import begin_writing, connect_writer, translate_error
from .transaction import Cursor, Transaction

if TYPE_CHECKING:
    from .statements import Statements

__all__ = ['write_once']

T = TypeVar('T')

#: Seconds to wait for the lock that other OS processes hold.
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


@functools.cache
def _statements() -> Statements:
    # SQLAlchemy takes longer to import than all the rest of a command; only those that write pay for it.
    from .statements import SqliteDialect, Statements  # noqa: PLC0415

    return Statements(SqliteDialect())


def write_once(location: StoreLocation, operation: Callable[[Transaction], T], *, patience: float = PATIENCE) -> T:
    """Run ``operation`` in a transaction of its own; what it returns is durable when it is returned here.

    Running engines notice at their store threads' next tick. The store is neither made nor upgraded.

    :param patience: seconds to wait for the lock of other writers.
    :raises StoreError: there is no store, or it cannot be written.
    """
    statements = _statements()
    with uncut:
        connection = connect_writer(location)
        try:
            check_schema(connection, location)
            cursor = connection.cursor()
            begin_writing(cursor, patience)
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
