"""A store in an SQLite file, put together from its parts."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sqlite3
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...values import DiskObjects
from ..changes import Changes
from ..connections import Connection, Connections, uncut
from ..queries import Queries
from ..reader import Reader
from .connection import connect_reader, leave_inherited, translate_error
from .database import SqliteDatabase
from .file import StoreFile, parse_url, refuse_network_mount
from .revision import check_schema, ensure_schema
from .wording import SqliteWording

if TYPE_CHECKING:
    from ..statements import Statements
    from .contents import SqliteContents

__all__ = ['SqliteLocation', 'locate_file']

#: Idle reading connections.
_KEPT = 8


def locate_file(url: str | os.PathLike[str]) -> SqliteLocation:
    """The store in the file that ``url`` names.

    :raises UnsupportedStore: the URL is not one of a store, or SQLite cannot be trusted on its file system.
    """
    file = parse_url(url)
    refuse_network_mount(file)
    return SqliteLocation(file)


class SqliteLocation:
    """A store in a file; see :class:`~..location.StoreLocation`.

    :ivar file: where it lies.
    """

    def __init__(self, file: StoreFile) -> None:
        self.file = file

    def __str__(self) -> str:
        return str(self.file.path)

    def __repr__(self) -> str:
        return f'SqliteLocation({self.url!r})'

    @property
    def url(self) -> str:
        """``sqlite:////absolute/path``."""
        return self.file.url

    def ensure_schema(self) -> None:
        """Make the file, or bring it to this Treadle's schema."""
        with uncut:
            ensure_schema(self.file)

    def open_reader(self, *, patience: float = 0.0) -> Reader:
        """A reader of the file; a file is never away for a while, so nothing is waited for."""
        connections = Connections(
            connect=self._connect_reader,
            translate=self._translate,
            is_lost=lambda error: False,
            leave=leave_inherited,
            keep=_KEPT,
        )
        return Reader(connections=connections, queries=Queries(SqliteWording()))

    def _connect_reader(self) -> Connection:
        connection = connect_reader(self.file)
        try:
            check_schema(connection, self.file)
        except BaseException:
            connection.close()
            raise
        return cast(Connection, connection)

    def _translate(self, error: BaseException) -> BaseException:
        return translate_error(error, self.file) if isinstance(error, sqlite3.Error) else error

    def make_database(self, *, name: str = 'treadle', lease: float = 10.0) -> SqliteDatabase:
        """A writing connection to the file."""
        return SqliteDatabase(self.file)

    def statements(self) -> Statements:
        """SQLite's."""
        return _statements()

    def changes(self) -> Changes:
        """What looks at SQLite's count of commits."""
        with uncut:
            connection = connect_reader(self.file)

        def version() -> int:
            with uncut:
                try:
                    return int(connection.execute('PRAGMA data_version').fetchone()[0])
                except sqlite3.Error as error:
                    raise translate_error(error, self.file) from error

        def close() -> None:
            with uncut:
                connection.close()

        return Changes(version=version, close=close)

    def upgrade(self) -> None:
        """The same as :meth:`ensure_schema`."""
        self.ensure_schema()

    def objects(self, *, patience: float = 0.0) -> DiskObjects:
        """Large contents, in a folder beside the file."""
        return DiskObjects(self.file.objects)

    def contents(self) -> SqliteContents:
        """The file, and the folder of large contents beside it."""
        # Imports SQLAlchemy, which takes longer than all the rest of a command.
        from .contents import SqliteContents  # noqa: PLC0415

        return SqliteContents(self.file)

    def identity(self) -> str:
        """By where the file lies: on which host, and its path."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f'{socket.gethostname()}:{self.url}'))

    def lock_folder(self) -> Path:
        """A folder beside the file."""
        return self.file.engines

    def size(self) -> int:
        """The size of the file and of its log."""
        path, size = self.file.path, 0
        for each in (path, path.with_name(f'{path.name}-wal')):
            with contextlib.suppress(FileNotFoundError):
                size += each.stat().st_size
        return size


@functools.cache
def _statements() -> Statements:
    # SQLAlchemy takes longer to import than all the rest of a command; only those that write pay for it.
    from ..statements import Statements  # noqa: PLC0415
    from .dialect import SqliteDialect  # noqa: PLC0415

    return Statements(SqliteDialect())
