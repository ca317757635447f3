"""Large contents by their sha256: what an object store offers, and the one on disk."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ..errors import CorruptValue

if TYPE_CHECKING:
    from .container import DiskContainer

CHUNK = 1024 * 1024
"""Bytes that are read at once when contents are streamed."""

_SHA256 = re.compile('[0-9a-f]{64}')


class ObjectStore(Protocol):
    """Contents by the sha256 of their bytes. Every method may be called from any thread."""

    def put(self, source: bytes | BinaryIO) -> str:
        """Store the contents (a stream is read from where it stands) and return their sha256 in hex.

        They are durable when this returns.
        """

    def open(self, sha256: str) -> BinaryIO:
        """Return a stream of the contents, for the caller to close.

        :raises CorruptValue: if they are not there; the message names the hash.
        """

    def has(self, sha256: str) -> bool:
        """Return whether the contents are there; if so they are durable."""

    def hashes(self) -> Iterable[str]:
        """Return the hashes of all that is there, in any order."""

    def close(self) -> None:
        """Keep nothing open that is not in use; it goes on working."""


def check_sha256(sha256: object) -> str:
    """Return ``sha256`` if it is 64 lower-case hex digits.

    :raises CorruptValue: otherwise; a hash becomes part of a path, so nothing else may pass.
    """
    if type(sha256) is not str or not _SHA256.fullmatch(sha256):
        raise CorruptValue(f'stored data names an object by {sha256!r}, which is no sha256')
    return sha256


def missing(sha256: str, path: Path) -> CorruptValue:
    """Return the error for an object that is not in the store at ``path``."""
    return CorruptValue(f'the object {sha256} is not in {path}; restore the directory of the database')


class DiskObjects:
    """An :class:`ObjectStore` in a directory, kept by disk-objectstore.

    The directory is made at the first write. Threads and OS processes may share it.

    :param path: the directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.Lock()
        self._container: DiskContainer | None = None

    def __repr__(self) -> str:
        return f'DiskObjects({str(self.path)!r})'

    def put(self, source: bytes | BinaryIO) -> str:
        """Store ``source`` durably and return its sha256.

        :raises StoreFull, StoreReadOnly, StoreUnavailable: if the disk does not take it.
        """
        return self._open_container().put(source)

    def open(self, sha256: str) -> BinaryIO:
        """Return a binary stream of the object; see :meth:`ObjectStore.open`."""
        check_sha256(sha256)
        if self._is_absent():
            raise missing(sha256, self.path)
        return self._open_container().open(sha256)

    def has(self, sha256: str) -> bool:
        """Return whether the object is stored, durably."""
        check_sha256(sha256)
        return not self._is_absent() and self._open_container().has(sha256)

    def hashes(self) -> Iterable[str]:
        """Return the hashes of all objects."""
        return () if self._is_absent() else self._open_container().hashes()

    def close(self) -> None:
        """Nothing is kept open."""

    def _is_absent(self) -> bool:
        # Reading makes no directory.
        return self._container is None and not self.path.exists()

    def _open_container(self) -> DiskContainer:
        container = self._container
        if container is None:
            # Imported here: disk-objectstore brings SQLAlchemy's ORM, which costs a program that stores
            # nothing large a good part of its start-up time.
            from .container import DiskContainer  # noqa: PLC0415

            with self._lock:
                container = self._container
                if container is None:
                    container = self._container = DiskContainer(self.path)
        return container
