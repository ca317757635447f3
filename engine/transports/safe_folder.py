"""A folder that is filled by somebody who is not trusted: nothing is written outside of it, nothing leads out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ..errors import FileTooLarge, UnsafeArchive

__all__ = ['SafeFolder']


class SafeFolder:
    """Takes files, folders and links by their names, which come from elsewhere.

    Every folder on the way to a name is a real one, and symbolic links are made when all else is there
    (:meth:`finish`), so nothing is ever written through a link. A link may lead upwards first, as far as the top, and
    then downwards; so what it leads to is inside whatever other links there are.

    :param path: the folder; it is made if it is not there.
    :param source: what errors call the place where the names come from.
    :param max_bytes: of all contents together.
    :param any_links: links may lead anywhere: they are the user's own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source: str,
        max_bytes: int | None = None,
        any_links: bool = False,
    ) -> None:
        self._any_links = any_links
        self._root = Path(os.path.realpath(path))
        self._root.mkdir(parents=True, exist_ok=True)
        self._source = source
        self._max_bytes = max_bytes
        self._bytes = 0
        self._folders: set[tuple[str, ...]] = {()}
        self._files: set[tuple[str, ...]] = set()
        self._links: list[tuple[str, str]] = []
        self._modes: dict[tuple[str, ...], int] = {}

    def folder(self, name: str, *, mode: int) -> None:
        """Make a folder."""
        parts = self._parts(name)
        self._enter(name, parts)
        self._modes[parts] = mode & 0o777 | stat.S_IRWXU

    def file(self, name: str, content: Iterable[bytes], *, size: int, mode: int, modified: float) -> None:
        """Write a file; one of that name is replaced.

        :raises FileTooLarge: it would be more than ``max_bytes`` in all.
        """
        path = self._place(name)
        self._bytes += size
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            raise FileTooLarge(
                f'{self._source} holds more than the {self._max_bytes} bytes that are wanted; '
                f'with {name!r} it would be {self._bytes}'
            )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, 'wb') as file:
            for chunk in content:
                file.write(chunk)
            os.fchmod(descriptor, mode & 0o777 | stat.S_IRUSR | stat.S_IWUSR)
        os.utime(path, (modified, modified))
        self._files.add(self._parts(name))

    def link(self, name: str, target: str) -> None:
        """Note a symbolic link.

        :raises UnsafeArchive: it would lead outside.
        """
        parts = self._parts(name)
        steps = [step for step in target.split('/') if step not in ('', '.')]
        up = next((number for number, step in enumerate(steps) if step != '..'), len(steps))
        leaves = target.startswith('/') or '..' in steps[up:] or up > len(parts) - 1
        if leaves and not self._any_links:
            raise UnsafeArchive(
                f'{self._source}: the link {name!r} leads to {target!r}, outside of what is fetched; '
                f'fetch it with follow_links=True to have what it leads to'
            )
        self._links.append((name, target))

    def hardlink(self, name: str, target: str) -> None:
        """Another name for a file that came before.

        :raises UnsafeArchive: none did.
        """
        parts = self._parts(target)
        if parts not in self._files:
            raise UnsafeArchive(
                f'{self._source}: {name!r} is a hard link to {target!r}, which did not come with it'
            )
        if self._parts(name) == parts:  # what tar says of a file that it has sent before
            return
        path = self._place(name)
        os.link(self._root.joinpath(*parts), path, follow_symlinks=False)
        self._files.add(self._parts(name))

    def refuse(self, name: str, what: str) -> None:
        """Say that something is neither file nor folder nor link."""
        raise UnsafeArchive(f'{self._source}: {name!r} is {what}, which is not fetched')

    def finish(self) -> None:
        """Make the links, and give the folders their permission bits."""
        for name, target in self._links:
            os.symlink(target, self._place(name))
        for parts, mode in self._modes.items():
            os.chmod(self._root.joinpath(*parts), mode)

    def _parts(self, name: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split('/') if part not in ('', '.'))
        if name.startswith('/') or '..' in parts or '\0' in name:
            raise UnsafeArchive(f'{self._source}: the name {name!r} leads outside of what is fetched')
        return parts

    def _place(self, name: str) -> Path:
        """Where a file of this name belongs; what is there, and is no folder, is removed."""
        parts = self._parts(name)
        if not parts:
            raise UnsafeArchive(f'{self._source}: {name!r} is no name of a file')
        self._enter(name, parts[:-1])
        path = self._root.joinpath(*parts)
        if parts in self._folders:
            raise UnsafeArchive(f'{self._source}: {name!r} is a folder and something else as well')
        path.unlink(missing_ok=True)
        return path

    def _enter(self, name: str, parts: tuple[str, ...]) -> None:
        """See to it that there is a real folder at each step."""
        for depth in range(1, len(parts) + 1):
            above = parts[:depth]
            if above in self._folders:
                continue
            path = self._root.joinpath(*above)
            try:
                path.mkdir()
            except FileExistsError:
                if not stat.S_ISDIR(path.lstat().st_mode):
                    raise UnsafeArchive(
                        f'{self._source}: {name!r} would be written through {str(path)!r}, which is no folder'
                    ) from None
            self._folders.add(above)
