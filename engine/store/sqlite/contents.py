"""The rows of a store in a file as a whole."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..connections import uncut
from .connection import begin_writing, connect_reader, connect_writer, translate_error
from .file import StoreFile
from .revision import check_schema, read_revision

__all__ = ['SqliteContents']

#: Seconds to wait for the lock that other OS processes hold.
PATIENCE = 30.0


class SqliteContents:
    """See :class:`~..contents.Contents`."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file

    def revision(self) -> str | None:
        """What the file says of itself."""
        with uncut, contextlib.closing(connect_reader(self._file)) as connection:
            return read_revision(connection, self._file)

    @contextlib.contextmanager
    def snapshot(self, *, any_revision: bool = False) -> Iterator[sa.Connection]:
        """What is committed at the first reading; writers go on beside it."""
        with uncut, self._wrapped(connect_reader(self._file)) as connection:
            if not any_revision:
                check_schema(_driver(connection), self._file, exactly=True)
            connection.exec_driver_sql('BEGIN')
            yield connection

    @contextlib.contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """Holds the file's one write lock."""
        with uncut, self._wrapped(connect_writer(self._file)) as connection:
            check_schema(_driver(connection), self._file, exactly=True)
            begin_writing(_driver(connection).cursor(), PATIENCE)
            yield connection

    @contextlib.contextmanager
    def _wrapped(self, connection: sqlite3.Connection) -> Iterator[sa.Connection]:
        # A pool of one connection, on which nothing is done behind our back: who begins says so.
        pool = sa.create_engine(
            'sqlite://', creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None
        )
        try:
            with pool.begin() as wrapped:
                yield wrapped
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):
                raise translate_error(error.orig, self._file) from error
            raise
        except sqlite3.Error as error:
            raise translate_error(error, self._file) from error
        finally:
            connection.close()

    def last_number(self, connection: sa.Connection, table: sa.Table) -> int:
        """Of a table without AUTOINCREMENT, the highest that is there."""
        row = connection.exec_driver_sql('SELECT seq FROM sqlite_sequence WHERE name = ?', (table.name,)).first()
        return highest(connection, table) if row is None else int(row[0])

    def go_on_from(self, connection: sa.Connection, table: sa.Table, number: int) -> None:
        """Of a table without AUTOINCREMENT, SQLite knows by itself."""
        if table.dialect_options['sqlite']['autoincrement']:
            number = max(number, highest(connection, table))
            connection.exec_driver_sql('DELETE FROM sqlite_sequence WHERE name = ?', (table.name,))
            connection.exec_driver_sql('INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)', (table.name, number))


def highest(connection: sa.Connection, table: sa.Table) -> int:
    """The highest number in a table."""
    return int(connection.execute(sa.select(sa.func.max(table.autoincrement_column))).scalar_one() or 0)


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f'not a connection of SQLite: {driver!r}')
    return driver
