"""Large contents in tables of the database, for workers that share no disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, cast

import psycopg
from psycopg import errors

from ....threads import run_in_child
from ...errors import CorruptValue, StoreUnavailable
from ...values.objects import check_sha256
from ..connections import Connection, Connections
from .connection import PgConnection

__all__ = ['CHUNK', 'PostgresqlObjects']

#: Bytes of a row; all chunks of a content are of this size, but for the last.
CHUNK: Final = 1024 * 1024

_FIND: Final = 'SELECT content, size FROM object WHERE sha256 = %(sha256)s'
_LIST: Final = 'SELECT sha256 FROM object'
_READ: Final = 'SELECT bytes FROM chunk WHERE content = %(content)s AND number = %(number)s'
_WRITE: Final = 'INSERT INTO chunk (content, number, bytes) VALUES (%(content)s, %(number)s, %(bytes)s)'
_NAME: Final = (
    'INSERT INTO object (sha256, content, size) VALUES (%(sha256)s, %(content)s, %(size)s) '
    'ON CONFLICT DO NOTHING RETURNING content'
)


class PostgresqlObjects:
    """An :class:`~treadle.engine.values.ObjectStore` in two tables; see there.

    A content is written under a number of its own, in one transaction that ends with its name. So it is never there in
    part, and of two threads or hosts that write the same one, whichever names it first wins; the other undoes its own.

    :param connections: to the database.
    :param store: its name, for people.
    """

    def __init__(self, connections: Connections, store: str) -> None:
        self._connections = connections
        self._store = store
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        return f'PostgresqlObjects({self._store!r})'

    def put(self, source: bytes | BinaryIO) -> str:
        """Store ``source`` durably and return its sha256.

        :raises StoreFull, StoreReadOnly, StoreUnavailable: if the database does not take it.
        """
        if isinstance(source, bytes):
            sha256 = hashlib.sha256(source).hexdigest()
            if self.has(sha256):
                return sha256
            return self._put(io.BytesIO(source))
        return self._put(source)

    def _put(self, source: BinaryIO) -> str:
        start = source.tell() if source.seekable() else None
        began = False

        def write(connection: Connection) -> str:
            nonlocal began
            if began:  # the database was away in between
                if start is None:
                    raise StoreUnavailable(
                        f'the store {self._store} was away while a stream was written to it that cannot be read twice; '
                        'pass a file, and try again'
                    )
                source.seek(start)
            began = True
            return _write(cast(PgConnection, connection), source)

        return self._connections.use(write)

    def open(self, sha256: str) -> BinaryIO:
        """Return a binary stream of the object; see :meth:`ObjectStore.open`."""
        found = self._find(sha256)
        if found is None:
            raise CorruptValue(
                f'the object {sha256} is not in the store {self._store}; restore the tables object and chunk with the '
                'others'
            )
        content, size = found
        raw = _Chunks(self._connections, content=content, size=size, name=f'{sha256} of {self._store}')
        return cast(BinaryIO, io.BufferedReader(raw, CHUNK))

    def has(self, sha256: str) -> bool:
        """Return whether the object is stored, durably."""
        return self._find(sha256) is not None

    def hashes(self) -> list[str]:
        """Return the hashes of all objects."""
        return [row[0] for row in self._connections.use(lambda connection: connection.execute(_LIST, {}).fetchall())]

    def _find(self, sha256: str) -> tuple[int, int] | None:
        check_sha256(sha256)
        row = self._connections.use(
            lambda connection: connection.execute(_FIND, {'sha256': sha256}).fetchone()
        )
        return None if row is None else (row[0], row[1])

    def close(self) -> None:
        """Close the idle connection; it goes on working, with one for each call."""
        self._connections.close()

    def _after_fork(self) -> None:
        self._connections.forget()


def _write(connection: PgConnection, source: BinaryIO) -> str:
    """Write the rest of the stream in a transaction; an answer that is lost is no loss: it can be written again."""
    connection.execute('BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE', prepare=False)
    try:
        (content,) = _only(connection.execute("SELECT nextval('content')"))
        digest, size = hashlib.sha256(), 0
        for number, data in enumerate(_pieces(source)):
            digest.update(data)
            size += len(data)
            connection.execute(_WRITE, {'content': content, 'number': number, 'bytes': data})
        sha256 = digest.hexdigest()
        named = connection.execute(_NAME, {'sha256': sha256, 'content': content, 'size': size}).fetchone()
        connection.execute('ROLLBACK' if named is None else 'COMMIT', prepare=False)
    except BaseException:
        if not connection.closed:
            connection.execute('ROLLBACK', prepare=False)
        raise
    return sha256


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    """The stream in pieces of :data:`CHUNK` bytes, whatever its ``read`` gives at once."""
    while True:
        piece = bytearray()
        while len(piece) < CHUNK:
            data = source.read(CHUNK - len(piece))
            if not data:
                break
            piece += data
        if piece:
            yield bytes(piece)
        if len(piece) < CHUNK:
            return


def _only(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise errors.NoDataFound('a row was expected')
    return row


class _Chunks(io.RawIOBase):
    """A content as a stream. No connection is held between two reads."""

    def __init__(self, connections: Connections, *, content: int, size: int, name: str) -> None:
        self._connections = connections
        self._content = content
        self._size = size
        self._name = name
        self._position = 0
        self._chunk: tuple[int, bytes] = (-1, b'')

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f'negative position {base + offset}')
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        number, offset = divmod(self._position, CHUNK)
        data = self._read(number)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read(self, number: int) -> bytes:
        if self._chunk[0] != number:
            place = {'content': self._content, 'number': number}
            row = self._connections.use(
                lambda connection: cast(PgConnection, connection).execute(_READ, place, binary=True).fetchone()
            )
            if row is None:
                raise CorruptValue(f'chunk {number} of object {self._name} is missing; restore a backup of the store')
            self._chunk = number, bytes(row[0])
        return self._chunk[1]
