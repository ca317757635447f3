"""What is done with paths alike wherever the files are."""

from __future__ import annotations

import fnmatch
import posixpath
import secrets
import stat
from collections.abc import Callable, Iterable
from typing import Literal

__all__ = ['checked_names', 'glob', 'kind_of', 'partial_name', 'refuse_top', 'temporary_name']

_MAGIC = frozenset('*?[')


def partial_name(path: str) -> str:
    """Where the bytes of a file gather that is being copied to ``path``; the same one at each try."""
    folder, name = posixpath.split(path)
    # A long name has no room for more.
    return posixpath.join(folder, f'.{name[:200]}.treadle-part')


def temporary_name(path: str) -> str:
    """A name beside ``path`` that nobody else uses."""
    return posixpath.join(posixpath.dirname(path), f'.treadle-{secrets.token_hex(8)}')


def refuse_top(path: str) -> str:
    """The path, without slashes at its end, if it may be removed with all that is in it.

    Purely a matter of the text: nothing is looked at. Any ``..`` is refused, also where it leads nowhere far: whoever
    means to remove a folder can name it.

    :raises ValueError: it is nothing, the home directory or above it, a folder at the very top such as ``/etc``, or
        holds ``..``.
    """
    parts = [part for part in path.split('/') if part not in ('', '.')]
    least = 2 if path.startswith('/') else 1
    if '..' in parts or len(parts) < least:
        raise ValueError(
            f'{path!r} is not removed: name something below the home directory, or at least two levels below the '
            f'root directory, without ".." in it'
        )
    return path.rstrip('/')


def checked_names(names: Iterable[str] | None) -> list[str]:
    """Paths below a folder, as given by a caller.

    :raises ValueError: one leads out of it.
    """
    checked = []
    for name in ['.'] if names is None else names:
        normal = posixpath.normpath(name) if name else ''
        if not normal or normal.startswith('/') or normal.split('/')[0] == '..' or '\0' in name:
            raise ValueError(f'{name!r} is no path below the folder that is fetched')
        checked.append(normal)
    return checked


def kind_of(mode: int) -> Literal['file', 'folder', 'link', 'other']:
    """What a file's mode says that it is."""
    if stat.S_ISREG(mode):
        return 'file'
    if stat.S_ISDIR(mode):
        return 'folder'
    return 'link' if stat.S_ISLNK(mode) else 'other'


def glob(pattern: str, *, listdir: Callable[[str], list[str]], exists: Callable[[str], bool]) -> list[str]:
    """The paths that fit a pattern, sorted.

    :param listdir: the names in a folder; what is no folder, or cannot be read, raises an :class:`OSError`.
    :param exists: whether something is at a path.
    """
    found = ['/' if pattern.startswith('/') else '']
    for part in (part for part in pattern.split('/') if part):
        if not _MAGIC.intersection(part):
            found = [posixpath.join(each, part) for each in found]
            continue
        found = [
            posixpath.join(each, name)
            for each in found
            for name in _names(listdir, each)
            if _fits(name, part)
        ]
    return sorted(each for each in found if each and exists(each))


def _names(listdir: Callable[[str], list[str]], folder: str) -> list[str]:
    try:
        return listdir(folder or '.')
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and (not name.startswith('.') or pattern.startswith('.'))
