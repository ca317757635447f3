"""The revision of a store in a PostgreSQL database, and making one.

Many engines, of several versions perhaps, share the database. So an engine makes the tables where there are none, but
never changes them in passing: bringing an older store to a new schema is a command of its own.
"""

from __future__ import annotations

from typing import Any

import psycopg

from ...errors import StoreUnavailable
from ..migrations import HEAD, require_head
from .connection import SCHEMA, PgConnection, connect
from .errors import translate_error
from .server import Server

__all__ = ['check_schema', 'ensure_schema', 'read_revision', 'upgrade_schema']


def ensure_schema(server: Server) -> None:
    """Make the tables where there are none; safe from any number of hosts at once.

    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: it was made by an older Treadle, or the schema ``treadle`` is somebody else's.
    :raises StoreReadOnly: the tables are to be made and may not be.
    """
    try:
        with connect(server) as connection:
            revision = read_revision(connection, server)
            if revision is None:
                _run_migrations(connection, server, only_if_new=True)
                revision = read_revision(connection, server)
            _require_head(revision, server)
    except psycopg.Error as error:
        raise translate_error(error, server) from error


def upgrade_schema(server: Server) -> None:
    """Bring the tables to ``HEAD``, or make them; all of it or nothing.

    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreError: it cannot be done.
    """
    try:
        with connect(server) as connection:
            if read_revision(connection, server) != HEAD:
                _run_migrations(connection, server, only_if_new=False)
    except psycopg.Error as error:
        raise translate_error(error, server) from error


def check_schema(connection: PgConnection, server: Server, *, exactly: bool = False) -> None:
    """See to it that this Treadle can use the tables; nothing is changed.

    :param exactly: they have to be of this Treadle's revision; else a newer one will do that lets older engines go on.
    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: there is no store, or one that has yet to be upgraded.
    """
    revision = read_revision(connection, server)
    since = None if exactly or revision is None or revision <= HEAD else _read_since(connection, revision)
    _require_head(revision, server, since)


def _read_since(connection: PgConnection, revision: str) -> str | None:
    row = connection.execute(
        f'SELECT since FROM {SCHEMA}.compatibility WHERE revision = %(revision)s', {'revision': revision}
    ).fetchone()
    return None if row is None else str(row[0])


def read_revision(connection: PgConnection, server: Server) -> str | None:
    """The revision of the store; ``None`` where there is none.

    :raises StoreUnavailable: the schema of our name is somebody else's.
    """
    named = {'namespace': SCHEMA}
    tables: list[tuple[Any, ...]] = connection.execute(
        'SELECT tablename FROM pg_tables WHERE schemaname = %(namespace)s ORDER BY 1', named
    ).fetchall()
    if not tables:
        return None
    if ('alembic_version',) not in tables:
        raise StoreUnavailable(
            f'the schema {SCHEMA!r} in the database {server.database!r} at {server.place} is of another application '
            f'(it has the table {tables[0][0]!r}); it is left as it is. Name another database for the store'
        )
    row = connection.execute(f'SELECT version_num FROM {SCHEMA}.alembic_version').fetchone()
    if row is None:
        raise StoreUnavailable(
            f'the store {server} does not say which revision it is at; restore a backup of it'
        )
    return str(row[0])


def _require_head(revision: str | None, server: Server, since: str | None = None) -> None:
    require_head(
        revision,
        store=str(server),
        remedy=f"run `treadle store upgrade --store '{server}'`, and leave no engine of an older Treadle on it",
        since=since,
    )


def _run_migrations(connection: PgConnection, server: Server, *, only_if_new: bool) -> None:
    # Alembic and SQLAlchemy take a while to import, and most starts find nothing to do.
    from .upgrade import upgrade  # noqa: PLC0415

    upgrade(connection, server, only_if_new=only_if_new)
