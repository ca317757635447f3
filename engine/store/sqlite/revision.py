"""The revision of a store in a file, and bringing it to the one that this Treadle knows.

:func:`ensure_schema` comes before every engine's first connection. Usually the database is at ``HEAD``
already. Otherwise the work is done in one ``BEGIN EXCLUSIVE`` transaction in which the revision is read again: of
many OS processes that open a new database at the same moment, one makes the tables and the others find them. A
failure of any kind rolls all of it back.
"""

from __future__ import annotations

import contextlib
import sqlite3

from ...errors import StoreUnavailable
from ..migrations import APPLICATION_ID, HEAD, require_head
from .connection import (
    open_database,
    refuse_lost_database,
    require_writable,
    translate_error,
    use_write_ahead_log,
)
from .file import StoreFile

__all__ = ['check_schema', 'ensure_schema', 'read_revision']


def ensure_schema(file: StoreFile) -> None:
    """Make the database or upgrade it, unless it is at ``HEAD``; safe from any number of OS processes.

    The file is left with its write-ahead log switched on.

    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: it is no SQLite database, or another application's; it is left untouched.
    :raises StoreReadOnly: it would have to be written and cannot be.
    :raises StoreFull: the disk is full; nothing half-made is left.
    """
    file.require_folder()
    refuse_lost_database(file)
    with contextlib.closing(open_database(file, 'rwc')) as connection:
        try:
            if read_revision(connection, file) != HEAD:
                require_writable(file)
                # Alembic and SQLAlchemy take a while to import, and most starts find nothing to do.
                from .upgrade import upgrade  # noqa: PLC0415

                upgrade(connection, file)
            use_write_ahead_log(connection)
        except sqlite3.Error as error:
            raise translate_error(error, file) from error


def check_schema(connection: sqlite3.Connection, file: StoreFile, *, exactly: bool = False) -> None:
    """See to it that this Treadle understands the database; nothing is changed.

    :param exactly: it has to be of this Treadle's revision; else a newer one will do that lets older engines go on.
    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: it holds no store, or one that has yet to be upgraded.
    """
    revision = read_revision(connection, file)
    require_head(
        revision,
        store=str(file.path),
        remedy='run `treadle store upgrade`, or start an engine on it, which upgrades it',
        since=None if exactly or revision is None or revision <= HEAD else _read_since(connection, revision, file),
    )


def _read_since(connection: sqlite3.Connection, revision: str, file: StoreFile) -> str | None:
    try:
        row = connection.execute('SELECT since FROM compatibility WHERE revision = ?', (revision,)).fetchone()
    except sqlite3.Error as error:
        raise translate_error(error, file) from error
    return None if row is None else str(row[0])


def read_revision(connection: sqlite3.Connection, file: StoreFile) -> str | None:
    """The revision that a database is at; None when it is empty.

    :raises StoreUnavailable: it is no database, or another application's.
    """
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in rows}
        if not tables:
            return None
        (application,) = connection.execute('PRAGMA application_id').fetchone()
        if application != APPLICATION_ID or 'alembic_version' not in tables:
            raise StoreUnavailable(
                f'{file.path} is the database of another application (it has the table {min(tables)!r}, '
                'and not the mark of a Treadle store); it is left as it is. Name another file for the store'
            )
        row = connection.execute('SELECT version_num FROM alembic_version').fetchone()
    except sqlite3.Error as error:
        raise translate_error(error, file) from error
    if row is None:
        raise StoreUnavailable(
            f'the store {file.path} does not say which revision it is at; restore a backup of it'
        )
    return str(row[0])
