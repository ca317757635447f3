"""Where the bytes of a :class:`~.files.File` are: in memory, in a file of the user's, in an object store."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, Protocol

from .objects import CHUNK, ObjectStore


class Source(Protocol):
    """Where the bytes of a :class:`File` are."""

    size: int

    def open(self) -> BinaryIO:
        """Return a stream of the bytes, for the caller to close."""

    def sha256(self) -> str:
        """Return the sha256 of the bytes in hex."""

    def store(self, objects: ObjectStore) -> str:
        """See to it that ``objects`` has the bytes, durably, and return their sha256."""


class Memory:
    """Bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self._sha256: str | None = None

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)

    def sha256(self) -> str:
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.content).hexdigest()
        return self._sha256

    def store(self, objects: ObjectStore) -> str:
        return objects.put(self.content)


class OnDisk:
    """A file of the user's; it must stay as it was when the value was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Opened without waiting for a writer, in case it is a FIFO; what it is shows afterwards.
        handle = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_CLOEXEC', 0))
        try:
            status = os.fstat(handle)
        finally:
            os.close(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, 'is a directory; use Folder', str(path))
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f'{path} is no regular file; pass its contents as bytes')
        self._signature = _signature(status)
        self.size = status.st_size
        self._sha256: str | None = None

    def open(self) -> BinaryIO:
        stream = open(self._path, 'rb')  # noqa: SIM115 - for the caller to close
        try:
            self._check(stream)
        except OSError:
            stream.close()
            raise
        return stream

    def sha256(self) -> str:
        if self._sha256 is None:
            with self.open() as stream:
                found = _digest(stream)
                self._check(stream)  # it may have changed while it was read
            self._sha256 = found
        return self._sha256

    def store(self, objects: ObjectStore) -> str:
        with self.open() as stream:
            if self._sha256 is not None and objects.has(self._sha256):
                return self._sha256
            found = objects.put(stream)
            self._check(stream)
        self._sha256 = found
        return found

    def _check(self, stream: BinaryIO) -> None:
        if _signature(os.fstat(stream.fileno())) != self._signature:
            raise OSError(errno.ESTALE, 'changed since the File was made; make a new one', str(self._path))


class Stored:
    """An object of an object store, opened when it is read."""

    def __init__(self, objects: ObjectStore, sha256: str, size: int) -> None:
        self._objects = objects
        self._sha256 = sha256
        self.size = size

    def open(self) -> BinaryIO:
        return self._objects.open(self._sha256)

    def sha256(self) -> str:
        return self._sha256

    def store(self, objects: ObjectStore) -> str:
        if objects is not self._objects and not objects.has(self._sha256):
            with self.open() as stream:
                return objects.put(stream)
        return self._sha256


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
