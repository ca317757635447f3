"""Running migrations with Alembic; imported only when there are any to run."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..location import StoreLocation
from . import HEAD, read_revision, too_new


def script_directory() -> ScriptDirectory:
    """Alembic's view of the ``versions`` beside this file, made from code: there is no alembic.ini."""
    folder = Path(__file__).parent
    return ScriptDirectory(str(folder), version_locations=[str(folder / 'versions')])


def upgrade(connection: sqlite3.Connection, location: StoreLocation) -> None:
    """Bring a database to ``HEAD`` in one transaction that excludes everybody else; all of it or nothing.

    :param connection: with no transaction open; it stays open and belongs to the caller.
    :raises StoreTooNew: the database's revision is not one of ours.
    :raises StoreUnavailable: the database is another application's.
    :raises sqlite3.Error: what the database said.
    """
    # A pool of one connection, the caller's, on which nothing is done behind our back. The engine is not
    # disposed of, which would close that connection.
    engine = sqlalchemy.create_engine(
        'sqlite://', creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None
    )
    try:
        with engine.connect() as wrapped, wrapped.begin():
            # The driver begins nothing by itself, see `open_database`. Not IMMEDIATE: readers of a new file
            # must not come between, and without a write-ahead log the last step needs them gone anyway.
            wrapped.exec_driver_sql('BEGIN EXCLUSIVE')
            revision = read_revision(connection, location)
            if revision != HEAD:
                _migrate(wrapped, location, revision)
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise


def _migrate(connection: sqlalchemy.Connection, location: StoreLocation, revision: str | None) -> None:
    directory = script_directory()
    if revision is not None and revision not in {script.revision for script in directory.walk_revisions()}:
        raise too_new(location, revision)

    def steps(current: Any, _context: MigrationContext) -> Any:
        # What `alembic.command.upgrade` does, without its files and its terminal output.
        return directory._upgrade_revs(HEAD, current)

    context = MigrationContext.configure(connection, opts={'fn': steps})
    with Operations.context(context):
        context.run_migrations()
