"""Connections to the file, and real disks that are full, read-only or not there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from treadle.engine.errors import StoreError, StoreFull, StoreReadOnly, StoreUnavailable
from treadle.engine.store.lockfile import EngineLock
from treadle.engine.store.sqlite.connection import (
    check_version,
    connect_reader,
    connect_writer,
    is_busy,
    open_database,
    translate_error,
    use_write_ahead_log,
)
from treadle.engine.store.sqlite.file import StoreFile, parse_url
from treadle.engine.store.sqlite.revision import check_schema, ensure_schema

LOG = "INSERT INTO log (pid, at, level, logger, message) VALUES (1, 0.0, 20, 'test', ?)"


@pytest.fixture
def location(tmp_path: Path) -> StoreFile:
    return parse_url(f'sqlite:///{tmp_path}/my%20store%3F.db')


@pytest.fixture
def store(location: StoreFile) -> StoreFile:
    ensure_schema(location)
    return location


def count(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute('SELECT count(*) FROM log').fetchone()
    return int(number)


def mount(*arguments: str) -> None:
    """Run mount(8); skips the test where that is not allowed."""
    if os.geteuid() != 0 or shutil.which('mount') is None:
        pytest.skip('a disk of its own for this test needs root and mount(8)')
    done = subprocess.run(['mount', *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f'mount does not work here: {done.stderr.strip()}')


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes and at most 64 files, empty."""
    point = tmp_path / 'disk'
    point.mkdir()
    mount('-t', 'tmpfs', '-o', 'size=2m,nr_inodes=64', 'tmpfs', str(point))
    try:
        yield point
    finally:
        subprocess.run(['umount', '--lazy', str(point)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Fill the disk up to ``leave`` bytes."""
    filler = disk / 'filler'
    room = os.statvfs(disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - leave))
    return filler


# --- connections


def test_a_writer_is_durable_and_explicit(store: StoreFile) -> None:
    with contextlib.closing(connect_writer(store)) as writer:
        settings = {
            name: writer.execute(f'PRAGMA {name}').fetchone()[0]
            for name in ('journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout')
        }
        assert settings == {'journal_mode': 'wal', 'synchronous': 2, 'foreign_keys': 0, 'busy_timeout': 10000}
        writer.execute(LOG, ('x',))
        assert not writer.in_transaction


def test_a_writer_makes_no_database(location: StoreFile) -> None:
    with pytest.raises(StoreUnavailable, match='there is no store at'):
        connect_writer(location)
    assert not location.path.exists()


def test_a_reader_works_while_no_engine_runs_and_while_one_does(store: StoreFile) -> None:
    with contextlib.closing(connect_reader(store)) as reader:
        check_schema(reader, store)
        assert count(reader) == 0
        with contextlib.closing(connect_writer(store)) as writer:
            writer.execute('BEGIN IMMEDIATE')
            writer.execute(LOG, ('x',))
            assert count(reader) == 0
            writer.execute('COMMIT')
            assert count(reader) == 1
        assert count(reader) == 1


def test_a_reader_cannot_write(store: StoreFile) -> None:
    with contextlib.closing(connect_reader(store)) as reader:
        with pytest.raises(sqlite3.OperationalError) as caught:
            reader.execute(LOG, ('x',))
        error = translate_error(caught.value, store)
    assert isinstance(error, StoreReadOnly)


def test_a_reader_may_change_threads(store: StoreFile) -> None:
    found: list[int] = []
    with contextlib.closing(connect_reader(store)) as reader:
        thread = threading.Thread(target=lambda: found.append(count(reader)))
        thread.start()
        thread.join()
    assert found == [0]


def test_a_reader_of_nothing_makes_nothing(location: StoreFile) -> None:
    with pytest.raises(StoreUnavailable, match=r'no store at .*made when an engine first runs'):
        connect_reader(location)
    assert not location.path.exists()


def test_commits_of_a_killed_engine_are_read(store: StoreFile) -> None:
    program = (
        'import os, signal, sys\n'
        'from treadle.engine.store.sqlite.file import parse_url\n'
        'from treadle.engine.store.sqlite.connection import connect_writer\n'
        'writer = connect_writer(parse_url(sys.argv[1]))\n'
        f'writer.execute({LOG!r}, ("x",))\n'
        'os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    subprocess.run([sys.executable, '-c', program, store.url], check=False, timeout=50)
    assert store.path.with_name(f'{store.path.name}-wal').stat().st_size > 0
    with contextlib.closing(connect_reader(store)) as reader:
        assert count(reader) == 1


def test_the_log_is_switched_on_though_others_read(location: StoreFile) -> None:
    """The switch needs the database for itself for a moment and waits for it."""
    with contextlib.closing(sqlite3.connect(location.path, isolation_level=None)) as other:
        other.execute('CREATE TABLE t (x)')
        other.execute('BEGIN')
        other.execute('SELECT * FROM t').fetchall()
        with contextlib.closing(open_database(location, 'rw', busy_timeout=0)) as connection:
            with pytest.raises(sqlite3.OperationalError) as caught:
                use_write_ahead_log(connection, patience=0.02)
            assert is_busy(caught.value)
            other.execute('COMMIT')
            use_write_ahead_log(connection)
            assert connection.execute('PRAGMA journal_mode').fetchone() == ('wal',)


# --- what can be wrong


def test_an_old_sqlite_is_named() -> None:
    check_version((3, 35, 0))
    with pytest.raises(StoreUnavailable, match=r'version 3\.34\.1; a store needs 3\.35\.0 or newer\. Upgrade'):
        check_version((3, 34, 1))


def test_a_locked_database_says_what_to_look_for(store: StoreFile) -> None:
    with contextlib.closing(connect_writer(store)) as first, contextlib.closing(
        connect_writer(store, busy_timeout=0)
    ) as second:
        first.execute('BEGIN IMMEDIATE')
        with pytest.raises(sqlite3.OperationalError) as caught:
            second.execute('BEGIN IMMEDIATE')
    assert is_busy(caught.value)
    error = translate_error(caught.value, store)
    assert isinstance(error, StoreUnavailable)
    assert re.search(r'is locked by another program .*long transaction', str(error))


def test_a_damaged_database_says_how_to_save_it(store: StoreFile) -> None:
    with open(store.path, 'r+b') as file:
        file.seek(4096)
        file.write(b'\xff' * 8192)
    with contextlib.closing(connect_reader(store)) as reader, pytest.raises(sqlite3.DatabaseError) as caught:
        reader.execute('SELECT * FROM alembic_version').fetchall()
        reader.execute('SELECT * FROM process').fetchall()
    error = translate_error(caught.value, store)
    assert isinstance(error, StoreUnavailable)
    assert re.search(r'is damaged .*\.recover', str(error))


def test_a_file_that_is_no_database(location: StoreFile) -> None:
    location.path.write_bytes(b'Dear diary, ' * 500)
    for connect in (connect_writer, connect_reader):
        with pytest.raises(StoreUnavailable, match='is not an SQLite database'):
            connect(location)


def test_a_closed_connection_is_translated(store: StoreFile) -> None:
    writer = connect_writer(store)
    writer.close()
    with pytest.raises(sqlite3.ProgrammingError) as caught:
        writer.execute('SELECT 1')
    assert 'is unusable' in str(translate_error(caught.value, store))


# --- full disks


@pytest.mark.parametrize('room', [0, 4096, 16384, 40960])
def test_a_full_disk_leaves_no_half_made_store(disk: Path, room: int) -> None:
    location = parse_url(f'sqlite:///{disk}/store.db')
    filler = fill(disk, leave=room)
    with pytest.raises(StoreFull, match=f'disk of the store {location.path} is full.*free some space'):
        ensure_schema(location)
    if location.path.exists():
        with contextlib.closing(sqlite3.connect(location.path)) as connection:
            assert connection.execute('SELECT count(*) FROM sqlite_master').fetchone() == (0,)
    filler.unlink()
    ensure_schema(location)
    connect_writer(location).close()


def test_a_disk_that_fills_up_loses_nothing_that_was_committed(disk: Path) -> None:
    location = parse_url(f'sqlite:///{disk}/store.db')
    ensure_schema(location)
    committed = 0
    with contextlib.closing(connect_writer(location)) as writer:
        with pytest.raises(sqlite3.Error) as caught:
            while True:
                writer.execute('BEGIN IMMEDIATE')
                writer.execute(LOG, ('x' * 50_000,))
                writer.execute('COMMIT')
                committed += 1
        error = translate_error(caught.value, location)
        assert isinstance(error, StoreFull)
        assert 'nothing of the failed write was kept' in str(error)
        if writer.in_transaction:
            writer.execute('ROLLBACK')
        assert committed > 0
        assert count(writer) == committed
    with contextlib.closing(connect_reader(location)) as reader:
        assert count(reader) == committed


def test_a_full_disk_and_an_engines_lock(disk: Path) -> None:
    folder = disk / 'store.db.engines'
    folder.mkdir()
    # An empty file takes no block, but an inode.
    for number in range(os.statvfs(disk).f_favail):
        (folder / f'filler-{number}').touch()
    with pytest.raises(StoreFull, match='no room on the disk for the lock file'):
        EngineLock(folder / 'engine.lock').acquire()


# --- read-only disks and folders


def test_a_read_only_disk(disk: Path) -> None:
    location = parse_url(f'sqlite:///{disk}/store.db')
    ensure_schema(location)
    with contextlib.closing(connect_writer(location)) as writer:
        writer.execute(LOG, ('x',))
    mount('-o', 'remount,ro', str(disk))
    with pytest.raises(StoreReadOnly, match=f'{location.path} cannot be written: the file .*is read-only'):
        connect_writer(location)
    with contextlib.closing(connect_reader(location)) as reader:
        check_schema(reader, location)
        assert count(reader) == 1
    new = parse_url(f'sqlite:///{disk}/new.db')
    with pytest.raises(StoreReadOnly, match=f'the folder {disk} is read-only .*TREADLE_STORE='):
        ensure_schema(new)
    with pytest.raises(StoreReadOnly, match='make its folder writable'):
        EngineLock(location.engines / 'engine-1').acquire()


def test_a_read_only_disk_with_a_killed_engines_log(disk: Path) -> None:
    location = parse_url(f'sqlite:///{disk}/store.db')
    ensure_schema(location)
    copy = disk / 'copy'
    copy.mkdir()
    with contextlib.closing(connect_writer(location)) as writer:
        writer.execute(LOG, ('x',))
        for suffix in ('', '-wal'):
            shutil.copy(f'{location.path}{suffix}', copy)
    left = parse_url(f'sqlite:///{copy}/store.db')
    mount('-o', 'remount,ro', str(disk))
    with pytest.raises(StoreReadOnly, match=r'holds commits in store\.db-wal.*copy the database and its -wal'):
        connect_reader(left)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix='treadle-') as name:
        folder = Path(os.path.realpath(name))
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def unprivileged(attempt: Callable[[], object]) -> object:
    """What ``attempt`` returns or which store error it raises, as a user whom permissions bind."""

    def child(connection: Connection) -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            result: object = attempt()
        except StoreError as error:
            result = error
        connection.send(result)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context('fork').Process(target=child, args=(sender,))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()
        receiver.close()


def read(location: StoreFile) -> int:
    with contextlib.closing(connect_reader(location)) as reader:
        return count(reader)


def test_a_folder_without_write_permission(shared: Path) -> None:
    location = parse_url(f'sqlite:///{shared}/store.db')
    ensure_schema(location)
    location.path.chmod(0o666)
    shared.chmod(0o555)
    refused = unprivileged(lambda: connect_writer(location))
    assert isinstance(refused, StoreReadOnly)
    assert f'the folder {shared} is read-only' in str(refused)
    assert unprivileged(lambda: read(location)) == 0
    refused = unprivileged(lambda: ensure_schema(parse_url(f'sqlite:///{shared}/new.db')))
    assert isinstance(refused, StoreReadOnly)


def test_a_file_without_write_permission(shared: Path) -> None:
    location = parse_url(f'sqlite:///{shared}/store.db')
    ensure_schema(location)
    location.path.chmod(0o444)
    shared.chmod(0o777)
    refused = unprivileged(lambda: connect_writer(location))
    assert isinstance(refused, StoreReadOnly)
    assert f'the file {location.path} is read-only' in str(refused)
    assert unprivileged(lambda: read(location)) == 0


def test_a_file_without_read_permission(shared: Path) -> None:
    location = parse_url(f'sqlite:///{shared}/store.db')
    ensure_schema(location)
    location.path.chmod(0o000)
    for attempt in (lambda: read(location), lambda: ensure_schema(location)):
        refused = unprivileged(attempt)
        assert isinstance(refused, StoreUnavailable)
        assert 'may not be read by this user' in str(refused)


def test_another_users_running_engine_can_be_watched(shared: Path) -> None:
    """With the shared memory of a live engine there to read, no fallback is needed."""
    location = parse_url(f'sqlite:///{shared}/store.db')
    ensure_schema(location)
    shared.chmod(0o555 if os.geteuid() == 0 else 0o755)
    with contextlib.closing(connect_writer(location)) as writer:
        writer.execute(LOG, ('x',))
        assert unprivileged(lambda: read(location)) == 1
