"""A store in a PostgreSQL database, put together from its parts."""

from __future__ import annotations

import functools
import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psycopg

from ...errors import StoreUnavailable
from ..changes import Changes
from ..connections import Connection, Connections, uncut
from ..queries import Queries
from ..reader import Reader
from .connection import PgConnection, connect, leave_inherited
from .database import PostgresqlDatabase
from .errors import is_lost, translate_error
from .objects import PostgresqlObjects
from .revision import check_schema, ensure_schema, upgrade_schema
from .server import Server, parse_url
from .wording import PostgresqlWording

if TYPE_CHECKING:
    from ..statements import Statements
    from .contents import PostgresqlContents

__all__ = ['PostgresqlLocation', 'locate_server']

#: Idle connections for reading, and for large contents: a server has few for all its engines.
READERS, CARRIERS = 2, 1


def locate_server(url: str) -> PostgresqlLocation:
    """The store in the database that ``url`` names.

    :raises UnsupportedStore: the URL is not one of a PostgreSQL database.
    """
    return PostgresqlLocation(parse_url(url))


class PostgresqlLocation:
    """A store in a PostgreSQL database; see :class:`~..location.StoreLocation`.

    :ivar server: which one.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._identity: str | None = None
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f'PostgresqlLocation({self.url!r})'

    @property
    def url(self) -> str:
        """As it was given, but for the password."""
        return self.server.url

    def ensure_schema(self) -> None:
        """Make the tables, if there are none; an older store is refused."""
        ensure_schema(self.server)

    def upgrade(self) -> None:
        """Bring the tables to this Treadle's schema."""
        upgrade_schema(self.server)

    def open_reader(self, *, patience: float = 0.0) -> Reader:
        """A reader of the database."""
        return Reader(connections=self._connections(READERS, patience), queries=Queries(PostgresqlWording()))

    def _connections(self, keep: int, patience: float) -> Connections:
        return Connections(
            connect=self._connect_reader,
            translate=self._translate,
            is_lost=is_lost,
            leave=leave_inherited,
            keep=keep,
            patience=patience,
        )

    def _connect_reader(self) -> Connection:
        connection = connect(self.server)
        try:
            check_schema(connection, self.server)
        except BaseException:
            connection.close()
            raise
        return cast(Connection, connection)

    def _translate(self, error: BaseException) -> BaseException:
        return translate_error(error, self.server) if isinstance(error, psycopg.Error) else error

    def make_database(self, *, name: str = 'treadle', lease: float = 10.0) -> PostgresqlDatabase:
        """A writing connection to the database."""
        return PostgresqlDatabase(self.server, name=name, lease=lease)

    def statements(self) -> Statements:
        """PostgreSQL's."""
        return _statements()

    def changes(self) -> Changes:
        """What looks at the server's list of transactions."""
        connection = cast(PgConnection, self._ask(lambda: self._connect_reader()))

        def version() -> Any:
            return self._ask(lambda: connection.execute('SELECT pg_current_snapshot()::text').fetchone())

        return Changes(version=version, close=connection.close)

    def _ask(self, question: Any) -> Any:
        try:
            with uncut:
                return question()
        except psycopg.Error as error:
            raise translate_error(error, self.server) from error

    def objects(self, *, patience: float = 0.0) -> PostgresqlObjects:
        """Large contents, in tables of the same database."""
        return PostgresqlObjects(self._connections(CARRIERS, patience), str(self.server))

    def contents(self) -> PostgresqlContents:
        """The tables of the database."""
        # Imports SQLAlchemy, which takes longer than all the rest of a command.
        from .contents import PostgresqlContents  # noqa: PLC0415

        return PostgresqlContents(self.server)

    def identity(self) -> str:
        """What the database itself says: two URLs may mean one server."""
        with self._lock:
            if self._identity is None:
                with cast(PgConnection, self._ask(lambda: self._connect_reader())) as connection:
                    row = self._ask(lambda: connection.execute('SELECT uuid FROM identity').fetchone())
                self._identity = str(row[0])
            return self._identity

    def lock_folder(self) -> Path:
        """A folder of this user's on this host, named after the store itself."""
        return _private_folder() / self.identity()

    def size(self) -> int:
        """The size of all tables and indexes."""
        with cast(PgConnection, self._ask(lambda: self._connect_reader())) as connection:
            row = self._ask(
                lambda: connection.execute(
                    'SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class '
                    "WHERE relnamespace = 'treadle'::regnamespace AND relkind = 'r'"
                ).fetchone()
            )
        return int(row[0])


@functools.cache
def _statements() -> Statements:
    # SQLAlchemy takes longer to import than all the rest of a command; only those that write pay for it.
    from ..statements import Statements  # noqa: PLC0415
    from .dialect import PostgresqlDialect  # noqa: PLC0415

    return Statements(PostgresqlDialect())


def _private_folder() -> Path:
    """A folder that only this user can write to, and that all his sessions find.

    :raises StoreUnavailable: somebody else has made it.
    """
    runtime = os.environ.get('XDG_RUNTIME_DIR', '')
    base = Path(runtime) if os.path.isabs(runtime) and os.path.isdir(runtime) else Path(tempfile.gettempdir())
    folder = base / f'treadle-{os.getuid()}'
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StoreUnavailable(
            f'the folder {folder} for the lock files of engines cannot be made ({error.strerror}); set XDG_RUNTIME_DIR '
            'or TMPDIR to a folder that you may write to'
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StoreUnavailable(
            f'{folder} is for the lock files of engines, and others can write to it; remove it, or set XDG_RUNTIME_DIR '
            'or TMPDIR to a folder of your own'
        )
    return folder
