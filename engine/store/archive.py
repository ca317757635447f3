"""What a store holds, in one file that the store of any database can be written to and made of.

The file is a zip archive, so that ``unzip -l`` lists it and ``unzip -p FILE tables/process.jsonl`` shows what is in it:

``tables/NAME.jsonl``
    A table: a JSON object a line for each row, by column, in the order of the primary key.
``objects/SHA256``
    A large content, by the hash of its bytes.
``manifest.json``
    What it is and what has to be in it; written last. ``format`` and ``version`` say how to read it, ``revision`` is
    the schema's; ``retired`` is whether the store was closed for good before, and so whether this is all that ever was
    in it. ``tables`` has the number of rows and the sha256 of each table's text, and the last number that its database
    gave to a row; ``objects`` has how many there are, of how many bytes, and the sha256 of their names, sorted, a line
    each.

Rows and contents are written and read one after the other, never held together. The same contents give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, Self

import msgspec

from ..errors import BadArchive
from ..values.objects import CHUNK, check_sha256

__all__ = ['FORMAT', 'VERSION', 'Archive', 'ArchiveWriter', 'Manifest', 'Row', 'TableEntry']

#: What a manifest says of itself; readers refuse another format, and a version that they do not know.
FORMAT: Final = 'treadle-store'
VERSION: Final = 1

_MANIFEST: Final = 'manifest.json'
#: The oldest time that a zip archive can name: the file says when it was made, its members do not.
_NO_TIME: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o600 << 16

#: By column.
Row = dict[str, 'int | float | str | None']


class TableEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest says of a table.

    :ivar rows: how many.
    :ivar sha256: of the member's text.
    :ivar last_number: the last number that the database gave to a row by itself; 0 where it gives none.
    """

    rows: int
    sha256: str
    last_number: int = 0


class ObjectsEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest says of the large contents; ``sha256`` is that of their sorted names, a line each."""

    count: int
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What the archive is, and what has to be in it; see the module."""

    format: str
    version: int
    revision: str
    retired: bool
    tables: dict[str, TableEntry]
    objects: ObjectsEntry


class _Names:
    """Counts objects in the order of their names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._count = self._bytes = 0

    def add(self, sha256: str, size: int) -> None:
        self._digest.update(f'{sha256}\n'.encode())
        self._count += 1
        self._bytes += size

    def entry(self) -> ObjectsEntry:
        return ObjectsEntry(count=self._count, bytes=self._bytes, sha256=self._digest.hexdigest())


class ArchiveWriter:
    """Makes an archive; a context manager, at whose end the file is complete and durable, or not there at all.

    :param path: where; its folder has to exist, and the file must not.
    :param revision: the schema's.
    :ivar retired: to be set by whoever reads a store that was closed for good before.
    :raises BadArchive: the file is there, or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], *, revision: str) -> None:
        self._path = Path(path).absolute()
        self._revision = revision
        self.retired = False
        self._tables: dict[str, TableEntry] = {}
        self._objects = _Names()

    def __enter__(self) -> Self:
        if self._path.exists():
            raise BadArchive(f'{self._path} is there already; name another file, or remove it')
        with _as_archive_errors(self._path, 'written'):
            # Readable by its owner alone, as what is in it may be.
            handle, self._draft = tempfile.mkstemp(prefix=f'.{self._path.name}-', dir=self._path.parent)
            self._file = os.fdopen(handle, 'wb')
        self._zip = zipfile.ZipFile(self._file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with _as_archive_errors(self._path, 'written'):
                    self._complete()
        finally:
            with contextlib.suppress(OSError, ValueError):  # of a disk that is full: the error is on its way
                self._zip.close()
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._draft)

    def _complete(self) -> None:
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            revision=self._revision,
            retired=self.retired,
            tables=self._tables,
            objects=self._objects.entry(),
        )
        with self._member(_MANIFEST) as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(manifest)) + b'\n')
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            self._name()
        except FileExistsError:
            raise BadArchive(f'{self._path} was made by somebody else meanwhile; name another file') from None
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
                raise
        finally:
            os.close(folder)

    def _name(self) -> None:
        """Give the draft its name, and replace nothing."""
        try:
            os.link(self._draft, self._path)
        except FileExistsError:
            raise
        except OSError:
            # exFAT, FAT and some network mounts have no links. Whoever comes between meets the empty file, or we his.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            try:
                os.rename(self._draft, self._path)
            except BaseException:
                os.unlink(self._path)
                raise

    def write_table(self, name: str, rows: Iterable[Mapping[str, Any]], *, last_number: int = 0) -> int:
        """Write a table; returns the number of its rows."""
        digest, count = hashlib.sha256(), 0
        with _as_archive_errors(self._path, 'written'), self._member(_table(name)) as stream:
            for row in rows:
                # Not msgspec, which writes what is no finite number as null.
                line = json.dumps(dict(row), ensure_ascii=False, separators=(',', ':')).encode() + b'\n'
                digest.update(line)
                stream.write(line)
                count += 1
        self._tables[name] = TableEntry(rows=count, sha256=digest.hexdigest(), last_number=last_number)
        return count

    def write_object(self, sha256: str, source: BinaryIO) -> int:
        """Write a large content; returns its size in bytes. They have to come sorted by their hashes.

        :raises BadArchive: the bytes are not those of the hash: the store is damaged.
        """
        digest, size = hashlib.sha256(), 0
        name = f'objects/{check_sha256(sha256)}'
        # As it is: what is large is often compressed already.
        with _as_archive_errors(self._path, 'written'), self._member(name, zipfile.ZIP_STORED) as stream:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                stream.write(chunk)
                size += len(chunk)
        if digest.hexdigest() != sha256:
            raise BadArchive(
                f'the content {sha256} of the store is damaged: its bytes have the hash {digest.hexdigest()}; restore '
                f'it from a backup, then export again'
            )
        self._objects.add(sha256, size)
        return size

    def _member(self, name: str, compression: int = zipfile.ZIP_DEFLATED) -> IO[bytes]:
        member = zipfile.ZipInfo(name, _NO_TIME)
        member.compress_type = compression
        member.create_system = 3  # Unix, whatever this system is
        member.external_attr = _MODE
        return self._zip.open(member, 'w', force_zip64=True)


class Archive:
    """An archive that is read; a context manager.

    :raises BadArchive: there is no such file, it is none of ours or one of a newer Treadle, or members are missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with contextlib.ExitStack() as stack, _as_archive_errors(self.path, 'read'):
            self._zip = stack.enter_context(zipfile.ZipFile(self.path))
            self.manifest = self._read_manifest()
            self._sizes = self._check_members()
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def _read_manifest(self) -> Manifest:
        try:
            text = self._zip.read(_MANIFEST)
            found = msgspec.json.decode(text)
        except (KeyError, RuntimeError, msgspec.DecodeError) as error:  # none, encrypted, or something else
            raise BadArchive(
                f'{self.path} is no export of a store: it has no {_MANIFEST} that could be read'
            ) from error
        if not isinstance(found, dict) or found.get('format') != FORMAT:
            raise BadArchive(f'{self.path} is no export of a store: its {_MANIFEST} does not say {FORMAT!r}')
        if found.get('version') != VERSION:
            raise BadArchive(
                f'{self.path} has version {found.get("version")!r} of the format, and this Treadle reads version '
                f'{VERSION}; upgrade Treadle (pip install --upgrade treadle)'
            )
        try:
            return msgspec.convert(found, Manifest)
        except msgspec.ValidationError as error:
            raise _damaged(self.path, f'its {_MANIFEST} makes no sense ({error})') from error

    def _check_members(self) -> dict[str, int]:
        """The sizes of the large contents by their hashes; the tables are checked as they are read."""
        names, sizes = _Names(), {}
        there = {member.filename: member.file_size for member in self._zip.infolist()}
        for name in sorted(there):
            folder, _, sha256 = name.partition('/')
            if folder == 'objects':
                sizes[check_sha256(sha256)] = there[name]
                names.add(sha256, there[name])
        missing = [name for name in self.manifest.tables if _table(name) not in there]
        if missing or names.entry() != self.manifest.objects:
            raise _damaged(self.path, f'{_table(missing[0]) if missing else "a large content"} is missing')
        return sizes

    def rows(self, name: str) -> Iterator[Row]:
        """The rows of a table.

        :raises BadArchive: at the end: what was read is not what was written.
        """
        entry, digest, count = self.manifest.tables[name], hashlib.sha256(), 0
        with _as_archive_errors(self.path, 'read'), self._zip.open(_table(name)) as stream:
            for line in stream:
                digest.update(line)
                count += 1
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _damaged(self.path, f'line {count} of {_table(name)} is no JSON') from error
                if not isinstance(row, dict):
                    raise _damaged(self.path, f'line {count} of {_table(name)} is no row')
                yield row
        if (count, digest.hexdigest()) != (entry.rows, entry.sha256):
            raise _damaged(self.path, f'{_table(name)} has another checksum than its {_MANIFEST} says')

    def objects(self) -> Iterator[tuple[str, int]]:
        """The hashes of the large contents, and their sizes in bytes."""
        yield from self._sizes.items()

    @contextlib.contextmanager
    def open_object(self, sha256: str) -> Iterator[IO[bytes]]:
        """A stream of a large content.

        :raises BadArchive: its bytes are damaged; whoever stores them sees that their hash is another.
        """
        with _as_archive_errors(self.path, 'read'), self._zip.open(f'objects/{sha256}') as stream:
            yield stream


def _table(name: str) -> str:
    return f'tables/{name}.jsonl'


def _damaged(path: Path, what: str) -> BadArchive:
    return BadArchive(f'{path} is damaged: {what}; copy it again from where it was made, or export again')


@contextlib.contextmanager
def _as_archive_errors(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damaged(path, f'it is no zip archive, or cut off ({error})') from error
    except OSError as error:
        raise BadArchive(f'{path} cannot be {done} ({error.strerror or error}); look at its folder and disk') from error
