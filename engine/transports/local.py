"""``LocalTransport``: commands and files on this machine."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...threads import StepThreads
from ..errors import CommandTimeout, FileTooLarge, TransportClosed, TransportError
from .archive import chunks, copy_tree, reporting
from .dialogue import Dialogue
from .matching import MOST_READ, MatchError, find_argv, parse_matches
from .paths import checked_names, glob, kind_of, refuse_top, temporary_name
from .safe_folder import SafeFolder
from .sessions import Operation, Sessions
from .shell import words
from .transport import MAX_OUTPUT, MAX_READ, Account, Argument, CommandResult, FileStatus, Progress

__all__ = ['LocalTransport']


class LocalTransport:
    """A :class:`~.transport.Transport` to this machine.

    :param threads: where the operations of coroutines run.
    :param limit: how many operations run at once.
    :param home: where relative paths begin; the user's home directory by default.
    :param computer: what errors call it.
    """

    def __init__(
        self,
        *,
        threads: StepThreads,
        limit: int = 10,
        home: str | os.PathLike[str] | None = None,
        computer: str = 'this machine',
    ) -> None:
        self.sessions = Sessions(limit, threads=threads, where=computer)
        self._computer = computer
        self._home = Path.home() if home is None else Path(os.path.realpath(home))
        self._closed = False

    @property
    def computer(self) -> str:
        """What errors call it."""
        return self._computer

    def is_alive(self) -> bool:
        """Whether it was not closed."""
        return not self._closed

    def answers(self) -> bool:
        """Whether it was not closed: this machine is always there."""
        return not self._closed

    def close(self, error: TransportError | None = None) -> None:
        """Break off what runs; take nothing more."""
        self._closed = True
        self.sessions.close(error or TransportClosed(f'the transport to {self._computer} was closed'))

    def account(self) -> Account:
        """Who we are."""
        with self.sessions.operation():
            return Account(user=getpass.getuser(), home=str(self._home))

    # -- commands --------------------------------------------------------------------------------------------

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
        """See :meth:`Transport.run`."""
        words(argv)  # what an ssh transport refuses is refused here too
        folder = self._home if cwd is None else self._path(cwd)
        if not folder.is_dir():
            raise FileNotFoundError(2, 'there is no such folder to run a command in', self._named(cwd or '.'))
        with self.sessions.operation() as operation:
            try:
                process = subprocess.Popen(
                    [os.fsencode(each) for each in argv],
                    cwd=folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except FileNotFoundError:
                return CommandResult(exit_code=127, stdout=b'', stderr=os.fsencode(argv[0]) + b': not found')
            except PermissionError:
                return CommandResult(
                    exit_code=126, stdout=b'', stderr=os.fsencode(argv[0]) + b': permission denied'
                )
            deadline = None if timeout is None else time.monotonic() + timeout
            with process, Dialogue(process, stdin, max_output) as dialogue:
                with operation.closing(dialogue.break_off):
                    ended = dialogue.hold(deadline)
                operation.check()
                if not ended:
                    raise CommandTimeout(
                        f'{self._computer}: {os.fsdecode(argv[0])!r} did not end within {timeout:g} s and was told to; '
                        f'it may have done its work'
                    )
                return dialogue.result()

    # -- files -----------------------------------------------------------------------------------------------

    def mkdir(self, path: str, *, parents: bool = False, exist_ok: bool = False) -> None:
        """See :meth:`Transport.mkdir`."""
        with self._operation(path):
            self._path(path).mkdir(parents=parents, exist_ok=exist_ok)

    def write_bytes(self, path: str, data: bytes, *, exclusive: bool = False, mode: int = 0o600) -> None:
        """See :meth:`Transport.write_bytes`."""
        with self._operation(path):
            self._appear(self._path(path), [data], mode=mode, exclusive=exclusive)

    def read_bytes(self, path: str, *, max_bytes: int = MAX_READ) -> bytes:
        """See :meth:`Transport.read_bytes`."""
        with self._operation(path), open(self._path(path), 'rb') as file:
            data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise self._too_large(path, os.fstat(file.fileno()).st_size, max_bytes)
            return data

    def put_file(
        self, source: str | os.PathLike[str], target: str, *, progress: Progress | None = None
    ) -> None:
        """See :meth:`Transport.put_file`."""
        with self._operation(target) as operation:
            self._copy(Path(source), self._path(target), operation, progress)

    def get_file(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """See :meth:`Transport.get_file`."""
        with self._operation(source) as operation:
            size = self._path(source).stat().st_size
            if max_bytes is not None and size > max_bytes:
                raise self._too_large(source, size, max_bytes)
            self._copy(self._path(source), Path(target), operation, progress)

    def put_tree(self, source: str | os.PathLike[str], target: str) -> None:
        """See :meth:`Transport.put_tree`."""
        with self._operation(target) as operation:
            folder = Path(source)
            if not folder.is_dir():
                raise NotADirectoryError(20, 'it is no folder, or is not there', str(folder))
            own = SafeFolder(self._path(target), source=str(folder), any_links=True)
            copy_tree(folder, own, names=['.'], follow_links=False, check=operation.check)
            own.finish()

    def get_tree(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        names: Iterable[str] | None = None,
        follow_links: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        """See :meth:`Transport.get_tree`."""
        checked = checked_names(names)
        with self._operation(source) as operation:
            folder = self._path(source)
            for name in checked:
                (folder / name).lstat()
            safe = SafeFolder(target, source=self._named(source), max_bytes=max_bytes)
            copy_tree(folder, safe, names=checked, follow_links=follow_links, check=operation.check)
            safe.finish()

    def get_matching(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        patterns: Iterable[str],
        max_bytes: int | None = None,
    ) -> list[str]:
        """See :meth:`Transport.get_matching`."""
        found = self.run(find_argv(patterns), cwd=source, max_output=MOST_READ)
        try:
            matches = parse_matches(found.stdout)
        except MatchError:
            raise OSError(errno.EIO, f'its files were not listed: {found.message}', self._named(source)) from None
        if matches.names:
            self.get_tree(source, target, names=matches.names, follow_links=True, max_bytes=max_bytes)
        return matches.missing

    def stat(self, path: str) -> FileStatus | None:
        """See :meth:`Transport.stat`."""
        with self._operation(path):
            try:
                status = self._path(path).lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return FileStatus(
                kind=kind_of(status.st_mode),
                size=status.st_size,
                modified=status.st_mtime,
                mode=stat.S_IMODE(status.st_mode),
            )

    def listdir(self, path: str) -> list[str]:
        """See :meth:`Transport.listdir`."""
        with self._operation(path):
            return sorted(os.listdir(self._path(path)))

    def glob(self, pattern: str) -> list[str]:
        """See :meth:`Transport.glob`."""
        with self._operation(pattern):
            return glob(pattern, listdir=self.listdir, exists=lambda path: self.stat(path) is not None)

    def rename(self, source: str, target: str) -> None:
        """See :meth:`Transport.rename`."""
        with self._operation(source):
            os.rename(self._path(source), self._path(target))

    def remove_tree(self, path: str) -> None:
        """See :meth:`Transport.remove_tree`."""
        checked = refuse_top(path)
        with self._operation(path):
            place = self._path(checked)
            try:
                if stat.S_ISDIR(place.lstat().st_mode):
                    shutil.rmtree(place)
                else:
                    place.unlink()
            except FileNotFoundError:
                return

    # -- how -------------------------------------------------------------------------------------------------

    def _path(self, path: str) -> Path:
        if not path or '\0' in path:
            raise ValueError(f'{path!r} is no path: it is empty or holds a NUL byte')
        return self._home / path

    def _named(self, path: str) -> str:
        return f'{self._computer}:{path}'

    @contextlib.contextmanager
    def _operation(self, path: str) -> Iterator[Operation]:
        """An operation whose errors name the computer; what is done to a local file has named itself."""
        with self.sessions.operation() as operation:
            try:
                yield operation
            except OSError as error:
                if isinstance(error, TransportError) or error.errno is None:
                    raise
                raise type(error)(
                    error.errno,
                    error.strerror,
                    self._named(os.fsdecode(error.filename2 or error.filename or path)),
                ) from error

    def _too_large(self, path: str, size: int, limit: int) -> FileTooLarge:
        return FileTooLarge(f'{self._named(path)} has {size} bytes, and not more than {limit} are wanted')

    def _copy(self, source: Path, target: Path, operation: Operation, progress: Progress | None) -> None:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError(21, 'it is no file', str(source))
        with open(source, 'rb') as file:
            self._appear(
                target,
                reporting(chunks(file, operation.check), status.st_size, progress),
                mode=status.st_mode & 0o777,
                exclusive=False,
            )

    def _appear(self, path: Path, content: Iterable[bytes], *, mode: int, exclusive: bool) -> None:
        """Write a file that nobody sees before it is whole."""
        hidden = Path(temporary_name(str(path)))
        try:
            descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, 'wb') as file:
                for chunk in content:
                    file.write(chunk)
                os.fchmod(descriptor, mode)
            if exclusive:
                os.link(hidden, path)
            else:
                os.replace(hidden, path)
        finally:
            hidden.unlink(missing_ok=True)
