"""Migrating a store in a PostgreSQL database; imported only when there is something to migrate."""

from __future__ import annotations

import psycopg
import sqlalchemy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ...errors import StoreUnavailable
from ..migrations import APPLICATION_ID, HEAD
from ..migrations.run import migrate
from .connection import SCHEMA, PgConnection
from .revision import read_revision
from .server import Server

__all__ = ['upgrade']


def upgrade(connection: PgConnection, server: Server, *, only_if_new: bool) -> None:
    """Bring the tables to ``HEAD`` in one transaction; all of it or nothing.

    One connection at a time does so, of whatever host; the others find it done.

    :param connection: belongs to the caller.
    :param only_if_new: leave a store that is there as it is.
    :raises StoreTooNew: its revision is not one of ours.
    :raises psycopg.Error: what the database said.
    """
    _check_encoding(connection, server)
    # A pool of one connection, the caller's. The engine is not disposed of, which would close it.
    engine = sqlalchemy.create_engine(
        'postgresql+psycopg://', creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None
    )
    connection.autocommit = False
    try:
        with engine.connect() as wrapped, wrapped.begin():
            wrapped.exec_driver_sql(f'SELECT pg_advisory_xact_lock({APPLICATION_ID})')
            revision = read_revision(connection, server)
            if revision is None:
                wrapped.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS {SCHEMA}')
            if revision is None or (revision != HEAD and not only_if_new):
                migrate(wrapped, str(server), revision)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise
    finally:
        if not connection.closed:
            connection.autocommit = True


def _check_encoding(connection: PgConnection, server: Server) -> None:
    encoding = connection.info.parameter_status('server_encoding')
    if encoding != 'UTF8':
        raise StoreUnavailable(
            f'the database {server.database!r} at {server.place} keeps text as {encoding}, and a store needs UTF8; '
            'make one with `createdb --encoding UTF8 --template template0`'
        )
