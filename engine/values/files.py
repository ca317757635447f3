"""Files and folders as values: immutable, equal by content, streamed and never held in memory as a whole."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, NoReturn, final

from ..errors import CorruptValue
from .objects import CHUNK, ObjectStore
from .sources import Memory, OnDisk, Source, Stored


@final
class File:
    """A file as a value: a name and its bytes. Immutable; equal when name and bytes are equal.

    A file on disk is not copied when the value is made: it is read when the value is stored, and it is an
    :class:`OSError` (``ESTALE``) if it has changed by then.

    :param source: the path of a regular file, or the bytes themselves.
    :param name: the file's name, without a directory; by default the last part of the path.
    :raises ValueError: if the name is no plain file name, or the path no regular file.
    :raises OSError: if the path cannot be opened.
    """

    __slots__ = ('_name', '_source')
    _name: str
    _source: Source

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str | None = None) -> None:
        if isinstance(source, (bytes, bytearray, memoryview)):
            if name is None:
                raise ValueError("a File of bytes needs a name: File(b'...', name='input.txt')")
            self._fill(name, Memory(bytes(source)))
        else:
            path = Path(source).absolute()  # the working directory may change
            self._fill(path.name if name is None else name, OnDisk(path))

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], name: str | None = None) -> File:
        """Return the file at ``path``, under another name if one is given."""
        return cls(os.fspath(path), name)

    @classmethod
    def _of(cls, name: str, source: Source) -> File:
        file = object.__new__(cls)
        file._fill(name, source)
        return file

    def _fill(self, name: str, source: Source) -> None:
        if len(check_path(name)) != 1:
            raise ValueError(f'{name!r} is no file name; leave out directories')
        object.__setattr__(self, '_name', str(name))
        object.__setattr__(self, '_source', source)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f'a File cannot be changed (setting {name!r}); make a new one')

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f'a File cannot be changed (deleting {name!r}); make a new one')

    @property
    def name(self) -> str:
        """The file's name, without a directory."""
        return self._name

    @property
    def size(self) -> int:
        """The length in bytes."""
        return self._source.size

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes in hex; a file on disk is read for it once."""
        return self._source.sha256()

    def open(self, mode: str = 'rb', *, encoding: str = 'utf-8', errors: str = 'strict') -> Any:
        """Return a new stream: binary for ``'rb'``, text for ``'r'``.

        :raises ValueError: for any other mode; a value cannot be written to.
        :raises CorruptValue: if the object store has lost the contents.
        """
        if mode == 'rb':
            return self._source.open()
        if mode in ('r', 'rt'):
            return io.TextIOWrapper(self._source.open(), encoding=encoding, errors=errors)
        raise ValueError(f"a File opens in mode 'rb' or 'r', not {mode!r}; it cannot be changed")

    def read_bytes(self) -> bytes:
        """Return all bytes, checked against the hash if they come from a store."""
        with self._source.open() as stream:
            content = stream.read()
        self._check(hashlib.sha256(content).hexdigest() if isinstance(self._source, Stored) else None)
        return content

    def read_text(self, encoding: str = 'utf-8', errors: str = 'strict') -> str:
        """Return all text."""
        with io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding=encoding, errors=errors) as stream:
            return stream.read()

    def copy_to(self, path: str | os.PathLike[str]) -> Path:
        """Write the contents to ``path`` (into it, if it is a directory) in one go, and return the new path.

        A file, or a link, that is there is replaced.
        """
        target = Path(path)
        if target.is_dir():
            target = target / self.name
        draft = target.with_name(f'.{uuid.uuid4().hex}.part')
        try:
            with self._source.open() as stream, open(draft, 'xb') as copy:
                digest = hashlib.sha256()
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
            self._check(digest.hexdigest() if isinstance(self._source, Stored) else None)
            os.replace(draft, target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return target

    def _check(self, found: str | None) -> None:
        if found is not None and found != self.sha256:
            raise CorruptValue(f'the object {self.sha256} ({self.name}) is damaged; restore it from a backup')

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        if self._name != other._name or self.size != other.size:
            return False
        return self._source is other._source or self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash((self._name, self.sha256))

    def __repr__(self) -> str:
        return f'File({self._name!r}, {self.size} bytes)'


@final
class Folder(Mapping[str, File]):
    """Files by relative path (``'sub/file.txt'``), as a value. Immutable; equal when all files are equal.

    It holds files only: empty directories, permissions and times are not part of the value. A symbolic link
    counts as what it leads to, which must be inside the folder.

    :param source: the path of a directory, or a mapping of relative paths to :class:`File` or bytes.
    :raises ValueError: if a path is absolute, contains ``..`` or is a file and a directory at once, if a link
        leads outside, or something is no regular file.
    :raises OSError: if the directory cannot be read.
    """

    __slots__ = ('_files',)
    _files: dict[str, File]

    def __init__(self, source: str | os.PathLike[str] | Mapping[Any, File | bytes]) -> None:
        if isinstance(source, Mapping):
            files = {}
            for path, content in source.items():
                parts = check_path(path.as_posix() if isinstance(path, PurePath) else path)
                if isinstance(content, File):
                    file = content if content.name == parts[-1] else File._of(parts[-1], content._source)
                elif isinstance(content, bytes):
                    file = File(content, parts[-1])
                else:
                    raise ValueError(f'{path}: a Folder holds File or bytes, not {type(content)!r}')
                if '/'.join(parts) in files:
                    raise ValueError(f'{path} is in the Folder twice')
                files['/'.join(parts)] = file
        else:
            root = Path(source).resolve(strict=True)
            if not root.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, 'is no directory; use File', str(root))
            files = dict(_walk(root, root, ''))
        self._fill(files)

    @classmethod
    def _of(cls, files: dict[str, File]) -> Folder:
        folder = object.__new__(cls)
        folder._fill(files)
        return folder

    def _fill(self, files: dict[str, File]) -> None:
        for path in files:
            while '/' in path:
                path = path.rpartition('/')[0]
                if path in files:
                    raise ValueError(f'{path!r} is a file and a directory at once')
        object.__setattr__(self, '_files', dict(sorted(files.items())))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f'a Folder cannot be changed (setting {name!r}); make a new one')

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f'a Folder cannot be changed (deleting {name!r}); make a new one')

    def __getitem__(self, path: str | PurePath) -> File:
        try:
            return self._files[path.as_posix() if isinstance(path, PurePath) else path]
        except KeyError:
            raise KeyError(path) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def size(self) -> int:
        """The length of all files together, in bytes."""
        return sum(file.size for file in self._files.values())

    def copy_to(self, directory: str | os.PathLike[str]) -> Path:
        """Write all files below ``directory``, which is made if needed, and return its path.

        Files that are there under the same paths are replaced.

        :raises ValueError: if a link in the directory would lead a file outside of it.
        """
        root = Path(directory)
        root.mkdir(parents=True, exist_ok=True)
        inside = root.resolve()
        for path, file in self._files.items():
            parent = root / PurePath(path).parent
            if not parent.resolve().is_relative_to(inside):
                raise ValueError(f'{parent} leads outside of {root}; remove that link')
            parent.mkdir(parents=True, exist_ok=True)
            target = parent / file.name
            if target.is_dir() and not target.is_symlink():
                raise IsADirectoryError(errno.EISDIR, 'is a directory, but a file in the Folder', str(target))
            if target.is_symlink():
                target.unlink()
            file.copy_to(target)
        return root

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Folder):
            return NotImplemented
        return self._files == other._files

    def __hash__(self) -> int:
        return hash(tuple(self._files.items()))

    def __repr__(self) -> str:
        return f'Folder({len(self)} files, {self.size} bytes)'


def check_path(path: object) -> list[str]:
    """Return the parts of a relative path with ``/`` between them.

    :raises ValueError: if it is empty, absolute or contains ``..``, ``.``, an empty part or a NUL.
    """
    if not isinstance(path, str):
        raise ValueError(f'{path!r} is no relative path; use text')
    parts = path.split('/')
    if '\0' in path or any(part in ('', '.', '..') for part in parts):
        raise ValueError(f'{path!r} is no plain relative path; leave out "..", "." and a leading "/"')
    if os.name == 'nt' and (PureWindowsPath(path).drive or '\\' in path):
        raise ValueError(f'{path!r} is no plain relative path; use "/" and no drive')
    return parts


def _walk(
    root: Path, folder: Path, prefix: str, above: frozenset[Path] = frozenset()
) -> Iterator[tuple[str, File]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path, name = Path(entry.path), prefix + entry.name
        if entry.is_symlink():
            try:
                path = path.resolve(strict=True)
            except (OSError, RuntimeError) as exc:
                raise ValueError(f'{entry.path} is a link that leads nowhere; remove it') from exc
            if not path.is_relative_to(root):
                raise ValueError(f'{entry.path} is a link that leads out of {root}; copy what it leads to')
        if path.is_dir():
            if path in above or path in (folder, root):
                raise ValueError(f'{entry.path} is a link to a directory that holds it; remove it')
            yield from _walk(root, path, name + '/', above | {folder})
        else:
            yield name, File._of(entry.name, OnDisk(path))


def stored_file(name: str, size: int, sha256: str, objects: ObjectStore) -> File:
    """Return a file whose contents are in ``objects``; they are not touched before they are read."""
    return File._of(name, Stored(objects, sha256, size))


def stored_folder(files: dict[str, File]) -> Folder:
    """Return a folder of files whose paths were checked."""
    return Folder._of(files)


def source_of(file: File) -> Source:
    """Return where the bytes of ``file`` are."""
    return file._source
