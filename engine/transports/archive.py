"""Many files as one stream: tar, packed here and unpacked there, and the other way round."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol, cast

from .safe_folder import SafeFolder
from .transport import Progress

__all__ = ['CHUNK', 'chunks', 'copy_tree', 'pack', 'reporting', 'unpack']

#: Bytes that are read, and passed on, at a time.
CHUNK = 1024 * 1024
#: Bytes of a stream that are read in advance; tarfile copies what is left of them with each entry.
BUFFER = 64 * 1024


class Readable(Protocol):
    """What :func:`unpack` reads from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


class Writable(Protocol):
    """What :func:`pack` writes to."""

    def write(self, data: bytes, /) -> object:
        """Take all of it."""
        ...


def chunks(file: Readable, check: Callable[[], object]) -> Iterator[bytes]:
    """The contents of a file, piece by piece; ``check`` is called before each and may raise."""
    while True:
        check()
        data = file.read(CHUNK)
        if not data:
            return
        yield data


def reporting(
    content: Iterable[bytes], total: int, progress: Progress | None, done: int = 0
) -> Iterator[bytes]:
    """Pass contents on, and tell of them.

    :param done: how many bytes of ``total`` were there before.
    """
    if progress is not None:
        progress(done, total)
    for chunk in content:
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(done, total)


def pack(folder: str | os.PathLike[str], stream: Writable, check: Callable[[], object]) -> None:
    """Write what is in a local folder to a stream.

    :param check: called before each entry; what it raises ends the packing.
    :raises ValueError: something in it is neither file nor folder nor link.
    """
    top = Path(folder)
    if not top.is_dir():
        raise NotADirectoryError(f'{str(top)!r} is no folder, or is not there')
    with tarfile.open(
        fileobj=cast('IO[bytes]', stream),  # it is written to, and nothing else
        mode='w|',
        bufsize=BUFFER,
        format=tarfile.GNU_FORMAT,  # its names are bytes, whatever they are
        encoding='utf-8',
        errors='surrogateescape',
    ) as tar:
        for path in walk(top):
            check()
            entry = tar.gettarinfo(path, arcname=os.path.join('.', os.path.relpath(path, top)))
            if entry is None or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
                raise ValueError(
                    f'{str(path)!r} is neither a file nor a folder nor a link, and cannot be copied'
                )
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ''
            if entry.isreg():
                with open(path, 'rb') as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)


def unpack(stream: Readable, folder: SafeFolder, check: Callable[[], object]) -> None:
    """Write what comes out of a stream into a folder.

    :raises UnsafeArchive: an entry does not belong there.
    :raises tarfile.TarError: it is no tar stream, or breaks off.
    """
    with tarfile.open(
        fileobj=cast('IO[bytes]', stream),  # it is read, and nothing else
        mode='r|',
        bufsize=BUFFER,
        encoding='utf-8',
        errors='surrogateescape',
    ) as tar:
        for entry in tar:
            check()
            tar.members = []  # type: ignore[attr-defined]  # else it remembers all of them
            if entry.isdir():
                folder.folder(entry.name, mode=entry.mode)
            elif entry.issym():
                folder.link(entry.name, entry.linkname)
            elif entry.islnk():
                folder.hardlink(entry.name, entry.linkname)
            elif entry.isreg():
                file = tar.extractfile(entry)
                assert file is not None
                folder.file(
                    entry.name,
                    chunks(file, check),
                    size=entry.size,
                    mode=entry.mode,
                    modified=float(entry.mtime),
                )
            else:
                folder.refuse(entry.name, 'a device or a pipe')


def copy_tree(
    source: Path, folder: SafeFolder, *, names: list[str], follow_links: bool, check: Callable[[], object]
) -> None:
    """Copy from one local folder to another, as :func:`unpack` does from a stream."""
    for name in names:
        start = source / name
        for path in [start, *walk(start, follow_links)] if name != '.' else walk(start, follow_links):
            check()
            _copy_entry(path, os.path.relpath(path, source), folder, follow_links, check)


def _copy_entry(
    path: Path, name: str, folder: SafeFolder, follow_links: bool, check: Callable[[], object]
) -> None:
    status = path.stat() if follow_links else path.lstat()
    if stat.S_ISDIR(status.st_mode):
        folder.folder(name, mode=status.st_mode)
    elif stat.S_ISLNK(status.st_mode):
        folder.link(name, os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        file: IO[bytes]
        with open(path, 'rb') as file:
            folder.file(
                name, chunks(file, check), size=status.st_size, mode=status.st_mode, modified=status.st_mtime
            )
    else:
        folder.refuse(name, 'a device, a pipe or a socket')


def walk(top: Path, follow_links: bool = False) -> Iterator[Path]:
    """Everything below a folder, each folder before what is in it."""
    if (top.is_symlink() and not follow_links) or not top.is_dir():
        return
    for entry in sorted(os.scandir(top), key=lambda each: each.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=follow_links):
            yield from walk(Path(entry.path), follow_links)
