"""The writing connection to a store in a file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import cast

from ....threads import run_in_child
from ...errors import StoreError
from ..connections import uncut
from ..transaction import Cursor
from .connection import begin_writing, connect_writer, is_busy, leave_inherited, translate_error
from .file import StoreFile
from .revision import check_schema, ensure_schema

__all__ = ['SqliteDatabase']

LOGGER = logging.getLogger(__name__)


class SqliteDatabase:
    """The writing connection; made anywhere, then used by one thread alone.

    :param file: it is made, or brought to this Treadle's schema, by :meth:`open`.
    """

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self.hurry = threading.Event()
        self._connection: sqlite3.Connection | None = None
        self._seen_version = 0
        self._checked_version = 0
        self._folds_log = False
        self._inside = False
        run_in_child(self._after_fork)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f'the store {self._file.path} is not open; start its engine')
        return self._connection

    def open(self) -> None:
        """Connect, making or upgrading the file if need be."""
        with uncut:
            ensure_schema(self._file)
            self._connection = connect_writer(self._file)
        self._folds_log = True

    def connect(self) -> None:
        """Connect to a file that is there and has our schema."""
        with uncut:
            connection = connect_writer(self._file)
            try:
                check_schema(connection, self._file)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def close(self) -> None:
        """Disconnect; an engine folds the write-ahead log into the database, unless somebody reads it just now.

        SQLite does so by itself when the last connection is closed, but that may be a reader, which cannot.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with uncut:
            self._close(connection)

    def _close(self, connection: sqlite3.Connection) -> None:
        try:
            if self._folds_log:
                connection.execute('PRAGMA busy_timeout = 0')
                connection.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        except sqlite3.Error as error:
            LOGGER.debug('the log of %s is left for the next engine to fold in: %s', self._file.path, error)
        finally:
            connection.close()

    def begin(self, *, hasty: bool = False) -> Cursor:
        """Take the file's one write lock; no fork comes between this and the end of the transaction."""
        cursor = self._connected().cursor()
        uncut.__enter__()
        try:
            begin_writing(cursor)
            self._check_schema_again(cursor)
        except BaseException:
            if cursor.connection.in_transaction:
                cursor.connection.rollback()
            uncut.__exit__()
            raise
        self._inside = True
        return cast(Cursor, cursor)

    def _check_schema_again(self, cursor: sqlite3.Cursor) -> None:
        """A newer Treadle may have upgraded the file since this was last asked; only if others have written at all."""
        (version,) = cursor.execute('PRAGMA data_version').fetchone()
        if version != self._checked_version:
            check_schema(cursor.connection, self._file)
            self._checked_version = version

    def mark(self, is_left: Callable[[Cursor], bool]) -> None:
        """Not needed: a commit gets its answer in the same call."""

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
            leave_inherited(connection)

    def is_busy(self, error: BaseException) -> bool:
        """Whether another OS process holds the lock."""
        return is_busy(error)

    def is_held(self, error: BaseException) -> bool:
        """Never: there are no locks of rows."""
        return False

    def translate(self, error: BaseException) -> BaseException:
        """SQLite's errors as ours, others as they are."""
        return translate_error(error, self._file) if isinstance(error, sqlite3.Error) else error

    def changed_elsewhere(self) -> bool:
        """Whether another connection has committed since the last time this was asked."""
        with uncut:
            version = self._connected().execute('PRAGMA data_version').fetchone()[0]
        changed, self._seen_version = version != self._seen_version, version
        return bool(changed)
