"""Connections to a store in an SQLite file, and what SQLite's errors mean to its user.

One writer per engine, on the store thread; readers wherever somebody reads. The write-ahead log lets them
go on beside each other: a reader sees the state of the moment its transaction began and delays nobody.

Nothing here knows the tables; ``revision.ensure_schema`` makes them, and must have run before
:func:`connect_writer`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ...config import STORE_VARIABLE
from ...errors import StoreError, StoreFull, StoreReadOnly, StoreUnavailable
from ..connections import uncut
from .file import StoreFile

__all__ = [
    'MINIMUM_VERSION',
    'begin_writing',
    'check_version',
    'connect_reader',
    'connect_writer',
    'is_busy',
    'leave_inherited',
    'open_database',
    'refuse_lost_database',
    'translate_error',
    'use_write_ahead_log',
]

#: The first SQLite with ``RETURNING``.
MINIMUM_VERSION: Final = (3, 35, 0)

#: For how long, in seconds, SQLite itself waits for another connection's lock before it gives up.
BUSY_TIMEOUT: Final = 10.0

# Seconds between two looks at the one write lock. Engines leave it free for about a millisecond between their batches,
# so whoever wants in has to look more often than SQLite itself, whose pauses grow to a tenth of a second.
_LOOK: Final = 0.0005

_STATEMENTS: Final = 512
# Pages (of 4 KiB) in the log before a commit copies them into the database. Twice SQLite's own figure:
# group commits are large, and every copy costs the committing thread two more fsyncs.
_CHECKPOINT_PAGES: Final = 2000
# What a log that once grew large is cut back to, in bytes.
_LOG_LIMIT: Final = 64 * 1024 * 1024
# Below this many free bytes, an input-output error is put down to the full disk.
_SCARCE: Final = 64 * 1024

# What a forked child got from its parent in the middle of being used, and must neither use nor close.
_inherited: list[sqlite3.Connection] = []


def check_version(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """See to it that the SQLite library is new enough.

    :raises StoreUnavailable: it is not.
    """
    if version < MINIMUM_VERSION:
        raise StoreUnavailable(
            f'the SQLite library of this Python is version {_dotted(version)}; a store needs '
            f'{_dotted(MINIMUM_VERSION)} or newer. Upgrade the libsqlite3 package of the system, or use a '
            'Python that brings a newer one'
        )


def open_database(
    file: StoreFile, mode: str, *, busy_timeout: float = BUSY_TIMEOUT, immutable: bool = False
) -> sqlite3.Connection:
    """Open the file with no pragma set and no transaction begun; nothing is read yet.

    :param mode: ``ro``, ``rw`` or, to make a missing file, ``rwc``.
    :raises StoreError: the library is too old, or the file cannot be opened.
    """
    check_version()
    uri = f'file:{quote(os.fsencode(file.path))}?mode={mode}'
    if immutable:
        uri += '&immutable=1'
    try:
        return sqlite3.connect(
            uri,
            uri=True,
            timeout=busy_timeout,
            # No implicit transactions: whoever uses the connection says BEGIN and COMMIT.
            isolation_level=None,
            cached_statements=_STATEMENTS,
            # Each is used by one thread at a time, which our own rules see to; a forked child closes its copies.
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise translate_error(error, file) from error


def connect_writer(file: StoreFile, *, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    """Open a store for writing, on the thread that will write.

    Commits are durable when they return (``synchronous=FULL``). There are no implicit transactions.

    :param busy_timeout: how long, in seconds, a statement waits for another OS process's lock.
    :raises StoreUnavailable: there is no database, or it is not one.
    :raises StoreReadOnly: the database or its folder may not be written.
    """
    require_writable(file)
    connection = open_database(file, 'rw', busy_timeout=busy_timeout)
    try:
        use_write_ahead_log(connection, patience=busy_timeout)
        for setting in (
            'synchronous = FULL',
            'foreign_keys = OFF',
            f'wal_autocheckpoint = {_CHECKPOINT_PAGES}',
            f'journal_size_limit = {_LOG_LIMIT}',
            'temp_store = MEMORY',
            'trusted_schema = OFF',
        ):
            connection.execute(f'PRAGMA {setting}')
    except sqlite3.Error as error:
        connection.close()
        raise translate_error(error, file) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(file: StoreFile, *, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    """Open a store for reading, whether an engine runs or not.

    The connection may change threads, but only one at a time may use it.

    SQLite's write-ahead log needs a file of shared memory beside the database. Where none is there and
    none can be made (a folder that we may not write to), the database is opened as *immutable*: no locks
    are taken and the log is not looked at. That is right only when the log holds nothing, so it is done
    only then, and only for as long as nobody starts to write: use such a connection for one look, not for
    watching. If the log does hold commits (an engine was killed), reading around it would show the past
    as the present; that is refused.

    :raises StoreUnavailable: there is no database, or it is not one.
    :raises StoreReadOnly: the log holds commits that cannot be read without write permission.
    """
    if not file.path.exists():
        refuse_lost_database(file)
        raise StoreUnavailable(
            f'there is no store at {file.path}; it is made when an engine first runs a process there. '
            f'Name another store with {STORE_VARIABLE}=sqlite:////path/of/a/store.db'
        )
    try:
        return _connect_reader(file, busy_timeout=busy_timeout, immutable=False)
    except sqlite3.Error as error:
        if not _lacks_shared_memory(error, file):
            raise translate_error(error, file) from error
    if _size(_log(file)) > 0:
        raise StoreReadOnly(
            f'the store {file.path} holds commits in {_log(file).name}, left by an engine that was '
            f'killed, and to read them the folder {file.path.parent} would have to be writable here; '
            'open it as a user who may write there, or copy the database and its -wal file to another folder'
        )
    try:
        return _connect_reader(file, busy_timeout=busy_timeout, immutable=True)
    except sqlite3.Error as error:
        raise translate_error(error, file) from error


def _connect_reader(file: StoreFile, *, busy_timeout: float, immutable: bool) -> sqlite3.Connection:
    connection = open_database(file, 'ro', busy_timeout=busy_timeout, immutable=immutable)
    try:
        connection.execute('PRAGMA query_only = ON')
        # The file is not looked at before the first read; make it, so that errors come here.
        connection.execute('SELECT count(*) FROM sqlite_master').fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def leave_inherited(connection: sqlite3.Connection) -> None:
    """Get rid of a parent's connection in a forked child.

    SQLite keeps what it knows of locked files per OS process, and the child has a copy of that: while an inherited
    connection is open there, new ones believe that they hold locks which only the parent holds. Closed between two
    transactions it takes that belief along and leaves the parent's locks alone, which the system keeps per OS process.
    Closed in the middle of one it might undo the parent's work, hence it is kept then.
    """
    if uncut.clean:
        connection.close()
    else:
        _inherited.append(connection)


def refuse_lost_database(file: StoreFile) -> None:
    """See to it that no new database is made beside the log of another, which would be emptied by it.

    :raises StoreUnavailable: the log is there, and the database is not.
    """
    # In this order: who makes a database makes its log later.
    if _log(file).exists() and not file.path.exists():
        raise StoreUnavailable(
            f'the store {file.path} is not there, but its log {_log(file).name} is, with what was committed '
            'last: the database was moved away or deleted while an engine ran or after one was killed. Put it back; '
            'or, for a new store of this name, remove the log'
        )


def require_writable(file: StoreFile) -> None:
    """See early that the file and its folder can be written; SQLite would only say so at the first write.

    :raises StoreReadOnly: they cannot.
    :raises StoreUnavailable: the file is missing.
    """
    path = file.path
    if not path.exists():
        raise StoreUnavailable(
            f'there is no store at {path}; put it back if it was moved, or start an engine on it'
        )
    for item in (path, path.parent):
        if not os.access(item, os.W_OK):
            raise _read_only(file, item)


def use_write_ahead_log(connection: sqlite3.Connection, *, patience: float = BUSY_TIMEOUT) -> None:
    """Switch the database to its write-ahead log, for good; outside of a transaction.

    The switch needs the database for itself and does not honour the busy timeout in every case, so it is
    tried again for ``patience`` seconds.

    :raises sqlite3.Error: the switch failed.
    :raises StoreUnavailable: the file system has no shared memory for the log.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            (mode,) = connection.execute('PRAGMA journal_mode').fetchone()
            if mode != 'wal':
                (mode,) = connection.execute('PRAGMA journal_mode = WAL').fetchone()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
            continue
        if mode != 'wal':
            raise StoreUnavailable(
                f'SQLite cannot keep a write-ahead log here (it stays with {mode!r}); use a local disk'
            )
        return


def begin_writing(cursor: sqlite3.Cursor, patience: float = BUSY_TIMEOUT) -> None:
    """Begin a transaction with the file's one write lock, which other OS processes may hold for ``patience`` seconds.

    :raises sqlite3.OperationalError: somebody still holds it; see :func:`is_busy`.
    """
    give_up = time.monotonic() + patience
    cursor.execute('PRAGMA busy_timeout = 0')
    while True:
        try:
            cursor.execute('BEGIN IMMEDIATE')
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > give_up:
                raise
            time.sleep(_LOOK)


def is_busy(error: BaseException) -> bool:
    """Whether the error is another connection's lock, and the same thing may work a moment later."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translate_error(error: sqlite3.Error, file: StoreFile) -> StoreError:
    """The engine's error for one of SQLite's, with what can be done about it. It is returned, not raised."""
    code, path = _code(error), file.path
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path.parent)):
        return StoreFull(
            f'the disk of the store {path} is full ({error}); free some space there, then go on: '
            'nothing of the failed write was kept, and what was committed before is intact'
        )
    if code == sqlite3.SQLITE_READONLY:
        return _read_only(file, path if path.exists() else path.parent)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return _cannot_open(error, file)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailable(
            f'the store {path} is locked by another program ({error}); end whatever holds a long transaction '
            'on it (an open database browser, a backup), and try again'
        )
    if code == sqlite3.SQLITE_NOTADB:
        return StoreUnavailable(
            f'{path} is not an SQLite database; it is left as it is. Name another file for the store'
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreUnavailable(
            f'the store {path} is damaged ({error}); stop all engines, keep a copy of it and of its -wal '
            'file, and restore a backup or save what is left with `sqlite3 FILE .recover`'
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailable(
            f'the disk failed under the store {path} ({error}, {_name(error)}); '
            'look into the system log for the disk and its mount, and try again'
        )
    if isinstance(error, sqlite3.ProgrammingError):
        return StoreUnavailable(f'the connection to the store {path} is unusable ({error}); open another')
    return StoreUnavailable(f'the store {path} refused an operation: {error} ({_name(error)})')


def _cannot_open(error: sqlite3.Error, file: StoreFile) -> StoreError:
    path = file.path
    if not path.parent.is_dir():
        return StoreUnavailable(
            f'the folder {path.parent} of the store {path} does not exist; make it, or name another store'
        )
    if path.is_dir():
        return StoreUnavailable(f'{path} is a folder; add the name of a file for the store')
    if path.exists() and not os.access(path, os.R_OK):
        return StoreUnavailable(
            f'the store {path} may not be read by this user; change its permissions, or name another store'
        )
    for item in (path, path.parent):
        if item.exists() and not os.access(item, os.W_OK):
            return _read_only(file, item)
    if _is_full(path.parent):
        return StoreFull(f'the disk of the store {path} is full; free some space there and try again')
    if not path.exists():
        return StoreUnavailable(f'there is no store at {path} and none could be made ({error})')
    return StoreUnavailable(
        f'the store {path} cannot be opened ({error}); check the permissions of the file and its folder'
    )


def _read_only(file: StoreFile, item: Path) -> StoreReadOnly:
    what = 'the folder' if item != file.path else 'the file'
    return StoreReadOnly(
        f'the store {file.path} cannot be written: {what} {item} is read-only here; make it and its '
        f'folder writable, or use another store ({STORE_VARIABLE}=sqlite:////path/of/a/store.db)'
    )


def _lacks_shared_memory(error: sqlite3.Error, file: StoreFile) -> bool:
    return _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and (
        os.access(file.path, os.R_OK) and not os.access(file.path.parent, os.W_OK)
    )


def _log(file: StoreFile) -> Path:
    return file.path.with_name(f'{file.path.name}-wal')


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_full(folder: Path) -> bool:
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    # Some file systems count no inodes at all, and say zero of zero.
    return room.f_bavail * room.f_frsize < _SCARCE or (room.f_files > 0 and room.f_favail == 0)


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code; None for what Python's own module found wrong."""
    code = getattr(error, 'sqlite_errorcode', None)
    return code & 0xFF if isinstance(code, int) else None


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, 'sqlite_errorname', type(error).__name__))


def _dotted(version: tuple[int, ...]) -> str:
    return '.'.join(map(str, version))
