"""The rows of a store in a PostgreSQL database as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..connections import uncut
from .connection import SCHEMA, PgConnection, connect
from .errors import translate_error
from .revision import check_schema, read_revision
from .server import Server

__all__ = ['PostgresqlContents']

#: For how long to wait until the transactions that are under way have ended, in PostgreSQL's words.
_PATIENCE: Final = '30s'

# Each transaction of an engine locks the engine's row before it does anything, and one of a command reads the table of
# retirements: so whatever has begun has ended when these are locked, and what begins then comes after.
_LOCKS: Final = (
    f'LOCK TABLE {SCHEMA}.engine IN EXCLUSIVE MODE',
    f'LOCK TABLE {SCHEMA}.retirement IN ACCESS EXCLUSIVE MODE',
)
_SEQUENCE: Final = 'pg_get_serial_sequence(%(table)s, %(column)s)::regclass'


class PostgresqlContents:
    """See :class:`~..contents.Contents`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def revision(self) -> str | None:
        """What the database says of itself."""
        try:
            with uncut, connect(self._server) as connection:
                return read_revision(connection, self._server)
        except psycopg.Error as error:
            raise translate_error(error, self._server) from error

    @contextlib.contextmanager
    def snapshot(self, *, any_revision: bool = False) -> Iterator[sa.Connection]:
        """What is committed at the first reading; writers go on beside it."""
        with self._connected(any_revision=any_revision) as connection:
            connection.exec_driver_sql('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY')
            yield connection

    @contextlib.contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """Holds the tables that everybody who writes looks at first."""
        with self._connected(lock_timeout=_PATIENCE) as connection:
            for lock in _LOCKS:
                connection.exec_driver_sql(lock)
            yield connection

    @contextlib.contextmanager
    def _connected(self, *, any_revision: bool = False, **settings: str) -> Iterator[sa.Connection]:
        try:
            # A server's limit for those who stand still is not for one that writes or reads a file in between.
            settings['idle_in_transaction_session_timeout'] = '0'
            with uncut, contextlib.closing(connect(self._server, **settings)) as connection:
                if not any_revision:
                    check_schema(connection, self._server, exactly=True)
                connection.autocommit = False
                with _wrapped(connection).begin() as wrapped:
                    yield wrapped
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise translate_error(error.orig, self._server) from error
            raise
        except psycopg.Error as error:
            raise translate_error(error, self._server) from error

    def last_number(self, connection: sa.Connection, table: sa.Table) -> int:
        """Of the sequence behind the column."""
        answer = connection.exec_driver_sql(f'SELECT pg_sequence_last_value({_SEQUENCE})', _names(table))
        return int(answer.scalar_one() or 0)

    def go_on_from(self, connection: sa.Connection, table: sa.Table, number: int) -> None:
        """A sequence knows nothing of rows that were inserted with numbers."""
        highest = connection.execute(sa.select(sa.func.max(table.autoincrement_column))).scalar_one()
        last = max(number, int(highest or 0))
        if last:
            connection.exec_driver_sql(f'SELECT setval({_SEQUENCE}, %(last)s)', {**_names(table), 'last': last})


def _wrapped(connection: PgConnection) -> sa.Engine:
    # A pool of one connection, the caller's, on which nothing is done behind our back.
    return sa.create_engine(
        'postgresql+psycopg://', creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None
    )


def _names(table: sa.Table) -> dict[str, str]:
    column = table.autoincrement_column
    return {'table': f'{SCHEMA}.{table.name}', 'column': '' if column is None else column.name}
