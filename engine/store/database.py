"""A store in an SQLite file, as the store thread and the reader see it."""

from __future__ import annotations

import logging
import sqlite3
from typing import cast

from ...threads import run_in_child
from ..errors import StoreError
from .location import StoreLocation
from .migrations import check_schema, ensure_schema
from .queries import Queries, SqliteWording
from .reader import Connection, Reader, leave_inherited, uncut
from .sqlite import begin_writing, connect_reader, connect_writer, is_busy, translate_error
from .transaction import Cursor

__all__ = ['SqliteDatabase', 'open_reader']

LOGGER = logging.getLogger(__name__)


class SqliteDatabase:
    """The writing connection; made anywhere, then used by the store thread alone.

    :param location: where the file lies; it is made, or brought to this Treadle's schema, by :meth:`open`.
    """

    def __init__(self, location: StoreLocation) -> None:
        self._location = location
        self._connection: sqlite3.Connection | None = None
        self._seen_version = 0
        self._inside = False
        run_in_child(self._after_fork)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f'the store {self._location} is not open; start its engine')
        return self._connection

    def open(self) -> None:
        """Connect, making or upgrading the file if need be."""
        with uncut:
            ensure_schema(self._location)
            self._connection = connect_writer(self._location)

    def close(self) -> None:
        """Fold the write-ahead log into the database, unless somebody reads it just now, and disconnect.

        SQLite does so by itself when the last connection is closed, but that may be a reader, which cannot.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with uncut:
            self._close(connection)

    def _close(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute('PRAGMA busy_timeout = 0')
            connection.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        except sqlite3.Error as error:
            LOGGER.debug('the log of %s is left for the next engine to fold in: %s', self._location, error)
        finally:
            connection.close()

    def begin(self) -> Cursor:
        """Take the file's one write lock; no fork comes between this and the end of the transaction."""
        cursor = self._connected().cursor()
        uncut.__enter__()
        try:
            begin_writing(cursor)
        except BaseException:
            uncut.__exit__()
            raise
        self._inside = True
        return cast(Cursor, cursor)

    def commit(self) -> None:
        """Make the transaction durable: when this returns, the log is on the disk."""
        self._connected().execute('COMMIT')
        self._end()

    def rollback(self) -> None:
        """Undo the transaction, unless SQLite has done so already, as it does when the disk is full."""
        connection = self._connected()
        try:
            if connection.in_transaction:
                connection.execute('ROLLBACK')
        finally:
            self._end()

    def _end(self) -> None:
        if self._inside:
            self._inside = False
            uncut.__exit__()

    def _after_fork(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            leave_inherited(cast(Connection, connection))

    def is_busy(self, error: BaseException) -> bool:
        """Whether another OS process holds the lock."""
        return is_busy(error)

    def translate(self, error: BaseException) -> BaseException:
        """SQLite's errors as ours, others as they are."""
        return translate_error(error, self._location) if isinstance(error, sqlite3.Error) else error

    def changed_elsewhere(self) -> bool:
        """Whether another connection has committed since the last time this was asked."""
        with uncut:
            version = self._connected().execute('PRAGMA data_version').fetchone()[0]
        changed, self._seen_version = version != self._seen_version, version
        return bool(changed)


def open_reader(location: StoreLocation, queries: Queries | None = None) -> Reader:
    """A reader of the store at ``location``, whether an engine runs or not.

    :raises StoreError: there is no store of this Treadle's schema that can be read.
    """

    def connect() -> Connection:
        connection = connect_reader(location)
        try:
            check_schema(connection, location)
        except BaseException:
            connection.close()
            raise
        return cast(Connection, connection)

    def translate(error: BaseException) -> BaseException:
        return translate_error(error, location) if isinstance(error, sqlite3.Error) else error

    return Reader(connect=connect, queries=queries or Queries(SqliteWording()), translate=translate)
