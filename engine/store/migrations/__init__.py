"""Bringing a database to the schema that this Treadle knows.

:func:`ensure_schema` comes before every engine's first connection. Usually the database is at ``HEAD``
already; one plain query shows it, and neither Alembic nor SQLAlchemy is imported. Otherwise the work is
done in one ``BEGIN EXCLUSIVE`` transaction in which the revision is read again: of many OS processes that
open a new database at the same moment, one makes the tables and the others find them. A failure of any
kind rolls all of it back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Final

from ...errors import StoreTooNew, StoreUnavailable
from ..location import StoreLocation
from ..sqlite import (
    open_database,
    refuse_lost_database,
    require_writable,
    translate_error,
    use_write_ahead_log,
)

__all__ = ['APPLICATION_ID', 'HEAD', 'check_schema', 'ensure_schema', 'read_revision', 'too_new']

#: The newest revision. A test keeps it equal to Alembic's head.
HEAD: Final = '0004'
#: What SQLite keeps in the file's header as ``application_id`` ('trdl'): tells our files from others'.
APPLICATION_ID: Final = 0x7472646C


def ensure_schema(location: StoreLocation) -> None:
    """Make the database or upgrade it, unless it is at ``HEAD``; safe from any number of OS processes.

    The file is left with its write-ahead log switched on.

    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: it is no SQLite database, or another application's; it is left untouched.
    :raises StoreReadOnly: it would have to be written and cannot be.
    :raises StoreFull: the disk is full; nothing half-made is left.
    """
    location.require_folder()
    refuse_lost_database(location)
    with contextlib.closing(open_database(location, 'rwc')) as connection:
        try:
            if read_revision(connection, location) != HEAD:
                require_writable(location)
                # Alembic and SQLAlchemy take a while to import, and most starts find nothing to do.
                from .upgrade import upgrade  # noqa: PLC0415

                upgrade(connection, location)
            use_write_ahead_log(connection)
        except sqlite3.Error as error:
            raise translate_error(error, location) from error


def check_schema(connection: sqlite3.Connection, location: StoreLocation) -> None:
    """See to it that a reader can understand the database; nothing is changed.

    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: it holds no store, or one that an engine of this Treadle has yet to upgrade.
    """
    revision = read_revision(connection, location)
    if revision == HEAD:
        return
    if revision is None:
        raise StoreUnavailable(
            f'the database {location.path} is empty; it becomes a store when an engine first starts on it'
        )
    if revision > HEAD:
        raise too_new(location, revision)
    raise StoreUnavailable(
        f'the store {location.path} was made by an older Treadle (revision {revision}, ours is {HEAD}); '
        'start an engine on it once, which upgrades it'
    )


def read_revision(connection: sqlite3.Connection, location: StoreLocation) -> str | None:
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
                f'{location.path} is the database of another application (it has the table {min(tables)!r}, '
                'and not the mark of a Treadle store); it is left as it is. Name another file for the store'
            )
        row = connection.execute('SELECT version_num FROM alembic_version').fetchone()
    except sqlite3.Error as error:
        raise translate_error(error, location) from error
    if row is None:
        raise StoreUnavailable(
            f'the store {location.path} does not say which revision it is at; restore a backup of it'
        )
    return str(row[0])


def too_new(location: StoreLocation, revision: str) -> StoreTooNew:
    """The error for a revision that this Treadle does not know."""
    return StoreTooNew(
        f'the store {location.path} is at revision {revision}, which a newer Treadle made; this one knows '
        f'revisions up to {HEAD}. Upgrade Treadle (pip install --upgrade treadle), or name another store'
    )
