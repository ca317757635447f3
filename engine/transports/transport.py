"""What a transport does: commands and files on one computer, by calls that block.

There are two faces of the same operations. :class:`Transport` blocks and is for threads; :class:`AsyncTransport` has
coroutines of the same names for loops, and runs the blocking calls on transport threads.

Paths on the computer are texts with ``/``; a relative one begins at the home directory. Names that are not UTF-8 are
texts with surrogate escapes, as in :func:`os.fsdecode`. Local paths are what :class:`pathlib.Path` takes. No name or
argument is ever interpolated into a command: all are quoted, whatever they hold.

What can go wrong is told apart by class. The computer could not be asked, or its answer did not come: a
:class:`~treadle.engine.errors.TransportError`, whose ``transient`` says whether trying again can help. The computer
answered that a file is not there, may not be read, or does not fit on its disk: the :class:`OSError` that the same
thing would be locally, with the computer's name in its file name.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, Protocol, TypeVar

__all__ = [
    'MAX_OUTPUT',
    'MAX_READ',
    'Account',
    'AsyncTransport',
    'CommandResult',
    'FileStatus',
    'Progress',
    'Transport',
]

T = TypeVar('T')

#: Bytes that are kept of each output stream of a command, unless told otherwise.
MAX_OUTPUT = 16 * 1024 * 1024
#: Bytes that :meth:`Transport.read_bytes` reads at most, unless told otherwise.
MAX_READ = 64 * 1024 * 1024

#: Told ``(bytes there so far, bytes in all)``, now and then, in the thread that transfers.
Progress = Callable[[int, int], object]

#: An argument of a command; bytes and what :func:`os.fsdecode` makes of them mean the same.
Argument = str | bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended.

    :ivar exit_code: 128 and the signal's number if a signal ended it, as a shell has it.
    :ivar stdout: what it wrote there, the first ``max_output`` bytes of it.
    :ivar stderr: likewise.
    :ivar truncated: whether one of the two was longer.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False

    @property
    def message(self) -> str:
        """What it says of a failure: the last of its standard error, else of its standard output, as text."""
        text = self.stderr.strip() or self.stdout.strip()
        return text[-2000:].decode(errors='replace')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """What is at a path; a link is not followed.

    :ivar size: in bytes.
    :ivar modified: by the computer's clock, in seconds since the epoch.
    :ivar mode: the permission bits.
    """

    kind: Literal['file', 'folder', 'link', 'other']
    size: int
    modified: float
    mode: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom the computer takes us for.

    :ivar home: the absolute path at which relative paths begin.
    """

    user: str
    home: str


class Transport(Protocol):
    """Commands and files on one computer, by calls that block; from any thread but a loop's, many at once.

    Every call may raise a :class:`~treadle.engine.errors.TransportError`. After
    :class:`~treadle.engine.errors.ConnectionLost` nobody knows whether the computer has done what it was asked for.
    """

    @property
    def computer(self) -> str:
        """The name of the computer, as errors give it."""
        ...

    def run(
        self,
        argv: Sequence[Argument],
        *,
        cwd: str | None = None,
        stdin: bytes = b'',
        timeout: float | None = None,
        max_output: int = MAX_OUTPUT,
        quick: bool = False,
    ) -> CommandResult:
        """Run a command to its end; a program that is not there is exit code 127, as in a shell.

        :param argv: the program and its arguments, each passed on as it is.
        :param cwd: where it runs; else in the home directory.
        :param stdin: what it reads; it never sees a terminal.
        :param timeout: seconds until it is asked to end (SIGTERM) and no longer waited for.
        :param max_output: bytes that are kept of each of its two output streams; more is read and dropped.
        :param quick: it ends soon, and leaves nothing behind that would write to its outputs: so it may run in a shell
            that is kept, which saves the start-up files of a login shell.
        :raises CommandTimeout: it ran for longer; it may have done its work, or still be doing it.
        :raises FileNotFoundError: there is no folder ``cwd``; nothing ran.
        :raises ValueError: ``argv`` is empty, or an argument holds a NUL byte.
        """
        ...

    def mkdir(self, path: str, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder, as :meth:`pathlib.Path.mkdir` does.

        :raises FileExistsError: without ``exist_ok``; with it, if what is there is no folder.
        """
        ...

    def write_bytes(self, path: str, data: bytes, *, exclusive: bool = False, mode: int = 0o600) -> None:
        """Write a file: whoever looks sees it whole, or as it was before; a broken connection leaves no half of it.

        :param exclusive: never replace what is there; of many who write the same path, one wins.
        :param mode: its permission bits.
        :raises FileExistsError: with ``exclusive``, something is there.
        """
        ...

    def read_bytes(self, path: str, *, max_bytes: int = MAX_READ) -> bytes:
        """The contents of a file.

        :raises FileTooLarge: there are more than ``max_bytes``; nothing was read in vain, see :meth:`get_file`.
        """
        ...

    def put_file(
        self, source: str | os.PathLike[str], target: str, *, progress: Progress | None = None
    ) -> None:
        """Copy a local file there, with its permission bits; an interrupted copy is resumed by the next call.

        The target appears when all of it is there, and was compared: by its size, and by a checksum if the copy was
        resumed. Until then the bytes are in a hidden file beside it. For one caller per target at a time.
        """
        ...

    def get_file(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Copy a file from there; what :meth:`put_file` promises holds here too.

        :raises FileTooLarge: there are more than ``max_bytes``; nothing was copied.
        """
        ...

    def put_tree(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy what is in a local folder into the folder ``target``, as one stream; makes ``target`` if need be.

        Files keep their permission bits and times, links stay links. What breaks off is begun anew by the next call,
        which writes over what is there.
        """
        ...

    def get_tree(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        names: Iterable[str] | None = None,
        follow_links: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        """Copy what is in a folder into the local folder ``target``, as one stream; makes ``target`` if need be.

        Nothing is written outside ``target``, whatever the other side sends.

        :param names: only these files and folders, by their paths below ``source``.
        :param follow_links: copy what links lead to, instead of the links.
        :param max_bytes: of all contents together.
        :raises UnsafeArchive: an entry would lie or lead outside ``target``, or is no file, folder or link.
        :raises FileTooLarge: there is more than ``max_bytes``; what came before is in ``target``.
        :raises FileNotFoundError: there is no ``source``, or nothing of one of the ``names``.
        """
        ...

    def get_matching(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        patterns: Iterable[str],
        max_bytes: int | None = None,
    ) -> list[str]:
        """:meth:`get_tree` for what patterns stand for in a folder, and what links among it lead to.

        :param patterns: names, and patterns as the computer's shell understands them: ``*`` does not stand for a slash,
            nor for what begins with a dot.
        :returns: the patterns that stand for nothing.
        :raises FileNotFoundError: there is no ``source``.
        """
        ...

    def stat(self, path: str) -> FileStatus | None:
        """What is there; ``None`` if nothing is."""
        ...

    def listdir(self, path: str) -> list[str]:
        """The names in a folder, sorted."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """The paths that fit, sorted; ``*``, ``?`` and ``[...]`` stay within a name, and skip hidden ones."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder within one file system, in one atomic act: of many who rename ``source``, one wins.

        A file that is at ``target`` is replaced.

        :raises FileNotFoundError: there is no ``source``; perhaps another one was faster.
        """
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a file, link or folder with all that is in it; nothing there is as good. Links are not followed."""
        ...

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as is known here, without asking the other side."""
        ...

    def account(self) -> Account:
        """Who we are on the computer."""
        ...


class AsyncTransport:
    """The operations of a :class:`Transport` for coroutines: same names, same parameters, same errors.

    Cancelling a coroutine ends it at once. The operation is told to break off, and may be done or half done.

    :param blocking: does the work.
    :param call: runs a blocking function on a transport thread, and gives its result.
    """

    def __init__(self, blocking: Transport, call: Caller) -> None:
        #: The same operations for threads, such as user code in a step.
        self.blocking = blocking
        self._call = call

    def __repr__(self) -> str:
        return f'<{type(self).__name__} to {self.computer!r}>'

    @property
    def computer(self) -> str:
        """The name of the computer."""
        return self.blocking.computer

    @property
    def is_alive(self) -> bool:
        """Whether the connection stands, as far as is known here."""
        return self.blocking.is_alive()

    async def run(
        self,
        argv: Sequence[Argument],
        *,
        cwd: str | None = None,
        stdin: bytes = b'',
        timeout: float | None = None,  # noqa: ASYNC109 - the command is told to end, not the coroutine
        max_output: int = MAX_OUTPUT,
        quick: bool = False,
    ) -> CommandResult:
        """See :meth:`Transport.run`."""
        return await self._call(
            lambda: self.blocking.run(
                argv, cwd=cwd, stdin=stdin, timeout=timeout, max_output=max_output, quick=quick
            )
        )

    async def mkdir(self, path: str, *, parents: bool = False, exist_ok: bool = False) -> None:
        """See :meth:`Transport.mkdir`."""
        await self._call(lambda: self.blocking.mkdir(path, parents=parents, exist_ok=exist_ok))

    async def write_bytes(
        self, path: str, data: bytes, *, exclusive: bool = False, mode: int = 0o600
    ) -> None:
        """See :meth:`Transport.write_bytes`."""
        await self._call(lambda: self.blocking.write_bytes(path, data, exclusive=exclusive, mode=mode))

    async def read_bytes(self, path: str, *, max_bytes: int = MAX_READ) -> bytes:
        """See :meth:`Transport.read_bytes`."""
        return await self._call(lambda: self.blocking.read_bytes(path, max_bytes=max_bytes))

    async def put_file(
        self, source: str | os.PathLike[str], target: str, *, progress: Progress | None = None
    ) -> None:
        """See :meth:`Transport.put_file`."""
        await self._call(lambda: self.blocking.put_file(source, target, progress=progress))

    async def get_file(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """See :meth:`Transport.get_file`."""
        await self._call(
            lambda: self.blocking.get_file(source, target, progress=progress, max_bytes=max_bytes)
        )

    async def put_tree(self, source: str | os.PathLike[str], target: str) -> None:
        """See :meth:`Transport.put_tree`."""
        await self._call(lambda: self.blocking.put_tree(source, target))

    async def get_tree(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        names: Iterable[str] | None = None,
        follow_links: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        """See :meth:`Transport.get_tree`."""
        await self._call(
            lambda: self.blocking.get_tree(
                source, target, names=names, follow_links=follow_links, max_bytes=max_bytes
            )
        )

    async def get_matching(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        patterns: Iterable[str],
        max_bytes: int | None = None,
    ) -> list[str]:
        """See :meth:`Transport.get_matching`."""
        return await self._call(
            lambda: self.blocking.get_matching(source, target, patterns=patterns, max_bytes=max_bytes)
        )

    async def stat(self, path: str) -> FileStatus | None:
        """See :meth:`Transport.stat`."""
        return await self._call(lambda: self.blocking.stat(path))

    async def listdir(self, path: str) -> list[str]:
        """See :meth:`Transport.listdir`."""
        return await self._call(lambda: self.blocking.listdir(path))

    async def glob(self, pattern: str) -> list[str]:
        """See :meth:`Transport.glob`."""
        return await self._call(lambda: self.blocking.glob(pattern))

    async def rename(self, source: str, target: str) -> None:
        """See :meth:`Transport.rename`."""
        await self._call(lambda: self.blocking.rename(source, target))

    async def remove_tree(self, path: str) -> None:
        """See :meth:`Transport.remove_tree`."""
        await self._call(lambda: self.blocking.remove_tree(path))

    async def account(self) -> Account:
        """See :meth:`Transport.account`."""
        return await self._call(self.blocking.account)


class Caller(Protocol):
    """Runs blocking functions elsewhere."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Call it, and give what it returns."""
        ...
