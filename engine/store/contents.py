"""A store in an SQLite file as something to be copied, retired or filled; see :mod:`.moving`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..values import DiskObjects
from .location import StoreLocation
from .migrations import check_schema, ensure_schema
from .reader import uncut
from .sqlite import begin_writing, connect_reader, connect_writer, translate_error

__all__ = ['SqliteContents']

#: Seconds to wait for the lock that other OS processes hold.
PATIENCE = 30.0


class SqliteContents:
    """See :class:`~.moving.Contents`."""

    def __init__(self, location: StoreLocation) -> None:
        self.name = str(location)
        self.objects = DiskObjects(location.objects)
        self._location = location

    def prepare(self) -> None:
        """Make the file, or bring it to this Treadle's schema."""
        ensure_schema(self._location)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """What is committed at the first reading; writers go on beside it."""
        with self._wrapped(connect_reader(self._location)) as connection:
            connection.exec_driver_sql('BEGIN')
            yield connection

    @contextlib.contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """Holds the file's one write lock."""
        writer = connect_writer(self._location)
        with self._wrapped(writer) as connection:
            begin_writing(writer.cursor(), PATIENCE)
            yield connection

    @contextlib.contextmanager
    def _wrapped(self, connection: sqlite3.Connection) -> Iterator[sa.Connection]:
        # A pool of one connection, on which nothing is done behind our back: who begins says so.
        pool = sa.create_engine(
            'sqlite://', creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None
        )
        try:
            with uncut:
                check_schema(connection, self._location)
                with pool.begin() as wrapped:
                    yield wrapped
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):
                raise translate_error(error.orig, self._location) from error
            raise
        except sqlite3.Error as error:
            raise translate_error(error, self._location) from error
        finally:
            connection.close()

    def last_number(self, connection: sa.Connection, table: sa.Table) -> int:
        """Of a table without AUTOINCREMENT, the highest that is there."""
        row = connection.exec_driver_sql('SELECT seq FROM sqlite_sequence WHERE name = ?', (table.name,)).first()
        if row is not None:
            return int(row[0])
        highest = sa.select(sa.func.max(table.autoincrement_column))
        return int(connection.execute(highest).scalar_one() or 0)

    def go_on_from(self, connection: sa.Connection, table: sa.Table, number: int) -> None:
        """Rows that were inserted with numbers have raised it already; this is for those that are gone."""
        if not table.dialect_options['sqlite']['autoincrement']:
            return
        connection.exec_driver_sql('DELETE FROM sqlite_sequence WHERE name = ?', (table.name,))
        connection.exec_driver_sql('INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)', (table.name, number))
