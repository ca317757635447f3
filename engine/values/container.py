"""The adapter to disk-objectstore, and the only module that imports it (and SQLAlchemy's ORM with it).

What was checked in disk-objectstore 1.5:

* A loose object is written to ``sandbox/``, fsynced and renamed to ``loose/ab/cdef...``; then ``loose/`` is
  fsynced, but not ``loose/ab/``, where the new name is. Nor is anything fsynced when the object exists
  already, though the thread that writes it may not have come that far. So both directories are fsynced here.
* A container's SQLAlchemy session belongs to one thread, and only packed objects need it. Writing loose
  objects uses none, so one container serves all writers; a read of a packed object opens one of its own.
* ``init_container`` is neither atomic nor safe against another OS process. Here it runs in a directory beside
  the final one, which is then renamed; who comes second finds one that is not empty, and uses that.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from disk_objectstore import Container
from disk_objectstore.exceptions import NotExistent, NotInitialised
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreError, StoreFull, StoreReadOnly, StoreUnavailable
from .objects import missing

_REMEMBERED = 10_000
"""How many hashes are remembered as durable before they are forgotten, in number of hashes."""


class DiskContainer:
    """One disk-objectstore container at ``path``, made when it is not there.

    :raises StoreError: if the directory holds something else.
    :raises StoreFull, StoreReadOnly, StoreUnavailable: if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _as_store_errors(path):
            if not Container(path).is_initialised:
                _create(path)
            self._writer = Container(path)
            if self._writer.hash_type != 'sha256':
                raise StoreError(f'{path} is an object store that does not use sha256; use another directory')
            self._prefix = self._writer.loose_prefix_len
        self._loose = path / 'loose'
        self._lock = threading.Lock()
        self._durable: set[str] = set()
        self._durable_folders: set[Path] = set()

    def put(self, source: bytes | BinaryIO) -> str:
        """Store ``source`` durably; see :class:`~.objects.ObjectStore`."""
        if isinstance(source, bytes):
            known = hashlib.sha256(source).hexdigest()
            if self._loose_size(known) == len(source):
                self._make_durable(known)
                return known
            source = io.BytesIO(source)
        stream = _Source(source)
        with _as_store_errors(self._path, but=stream):
            sha256: str = self._writer.add_streamed_object(cast(BinaryIO, stream))
        self._make_durable(sha256, written=True)
        return sha256

    def open(self, sha256: str) -> BinaryIO:
        """Return a stream of the object; see :class:`~.objects.ObjectStore`."""
        with _as_store_errors(self._path):
            try:
                return open(self._loose_path(sha256), 'rb')
            except FileNotFoundError:
                return self._open_packed(sha256)

    def has(self, sha256: str) -> bool:
        """Return whether the object is there, durably; see :class:`~.objects.ObjectStore`."""
        if self._loose_size(sha256) is not None:
            self._make_durable(sha256)
            return True
        with _as_store_errors(self._path), Container(self._path) as container:
            return bool(container.has_object(sha256))

    def hashes(self) -> list[str]:
        """Return the hashes of all objects; see :class:`~.objects.ObjectStore`."""
        with _as_store_errors(self._path), Container(self._path) as container:
            return list(container.list_all_objects())

    def _open_packed(self, sha256: str) -> BinaryIO:
        with ExitStack() as stack:
            container = stack.enter_context(Container(self._path))
            try:
                stream = stack.enter_context(container.get_object_stream(sha256))
            except NotExistent:
                raise missing(sha256, self._path) from None
            return cast(BinaryIO, io.BufferedReader(_Packed(stream, stack.pop_all())))

    def _loose_path(self, sha256: str) -> Path:
        return self._loose / sha256[: self._prefix] / sha256[self._prefix :]

    def _loose_size(self, sha256: str) -> int | None:
        with _as_store_errors(self._path):
            try:
                return os.stat(self._loose_path(sha256)).st_size
            except FileNotFoundError:
                return None

    def _make_durable(self, sha256: str, *, written: bool = False) -> None:
        if sha256 in self._durable and not written:
            return
        folder = self._loose_path(sha256).parent
        with _as_store_errors(self._path):
            _fsync(folder)
            if folder not in self._durable_folders:
                _fsync(self._loose)
        with self._lock:
            self._durable_folders.add(folder)
            if len(self._durable) >= _REMEMBERED:
                self._durable.clear()
            self._durable.add(sha256)


class _Source:
    """The stream to be stored; it remembers its own error, to tell it from one of the store."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as exc:
            self.error = exc
            raise


class _Packed(io.RawIOBase):
    """A packed object as a raw stream that holds what it needs open."""

    def __init__(self, stream: Any, resources: ExitStack) -> None:
        self._stream = stream
        self._resources = resources

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._resources.close()


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f'{path} is no object store; choose an empty or a new directory')
    # Made by mkdir and not by tempfile, which would leave it private whatever the umask.
    draft = path.parent / f'.{path.name}-{uuid.uuid4().hex}'
    draft.mkdir()
    try:
        with Container(draft) as container:
            container.init_container()
        for folder, _, names in os.walk(draft, topdown=False):
            for name in names:
                _fsync(Path(folder, name))
            _fsync(Path(folder))
        try:
            os.rename(draft, path)  # takes the place of nothing, or of an empty directory
        except OSError as exc:
            # Another OS process was first. Windows says so by PermissionError (FileExistsError).
            if not Container(path).is_initialised:
                raise exc
        _fsync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fsync(path: Path) -> None:
    if os.name != 'posix' and path.is_dir():
        return  # Windows has no handles of directories to flush
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _as_store_errors(path: Path, *, but: _Source | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if but is not None and exc is but.error:
            raise
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f'no room left for objects in {path}; free some space ({exc})') from exc
        if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnly(f'cannot write objects in {path}; check its permissions ({exc})') from exc
        raise StoreUnavailable(f'the object store {path} does not work ({exc})') from exc
    except (NotInitialised, SQLAlchemyError) as exc:
        raise StoreUnavailable(f'the object store {path} does not work ({exc})') from exc
