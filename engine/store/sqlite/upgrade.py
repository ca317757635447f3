"""Migrating a store in a file; imported only when there is something to migrate."""

from __future__ import annotations

import sqlite3

import sqlalchemy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..migrations import HEAD
from ..migrations.run import migrate
from .file import StoreFile
from .revision import read_revision

__all__ = ['upgrade']


def upgrade(connection: sqlite3.Connection, file: StoreFile) -> None:
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
            revision = read_revision(connection, file)
            if revision != HEAD:
                migrate(wrapped, str(file.path), revision)
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise
