"""``SshTransport``: commands and files over one ssh connection, many at once."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ...threads import StepThreads, run_in_child
from ..errors import CommandTimeout, FileTooLarge, TransportClosed, TransportError
from .connection_spec import ConnectionSpec
from .paths import checked_names, glob, kind_of, refuse_top, temporary_name
from .safe_folder import SafeFolder
from .sessions import Sessions
from .sftp import Sftp
from .shell import operand, within, words
from .ssh_channels import SshChannels, failure
from .ssh_copies import fetch_file, fetch_matching, fetch_tree, send_file, send_tree
from .ssh_host import look_up
from .ssh_opening import open_ssh
from .transport import MAX_OUTPUT, MAX_READ, Account, Argument, CommandResult, FileStatus, Progress

__all__ = ['SshTransport']

#: Bytes up to which a file is copied by sftp, which needs no program to be started there.
SMALL = 512 * 1024
#: Seconds that a computer has, after a time-out, to end a command and say so.
ENDING = 2.0
#: What `timeout` answers when it has ended a command: with SIGTERM, and with SIGKILL.
ENDED = (124, 137)
#: Bytes of names that one command takes.
MAX_NAMES = 50_000


class SshTransport:
    """A :class:`~.transport.Transport` over ssh.

    :param threads: where the operations of coroutines run.
    :raises TransportError: it cannot be opened.
    :raises ConfigurationError: the ssh configuration makes no sense.
    """

    def __init__(self, spec: ConnectionSpec, *, threads: StepThreads) -> None:
        host = look_up(spec)
        self._user = host.user
        self._channels = SshChannels(open_ssh(spec, host), max_sessions=spec.max_sessions, threads=threads)
        run_in_child(self._channels.forget)

    @property
    def sessions(self) -> Sessions:
        """Who may use it at the same time."""
        return self._channels.sessions

    @property
    def computer(self) -> str:
        """What errors call it: the account and the host."""
        return self._channels.where

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as is known here."""
        return self._channels.is_open

    def answers(self) -> bool:
        """Ask the other side for a sign of life; blocks until it comes, or the connection is closed."""
        return self._channels.answers()

    def close(self, error: TransportError | None = None) -> None:
        """Break off what runs, and close the connection."""
        self._channels.close(error or TransportClosed(f'the transport to {self.computer} was closed'))

    def account(self) -> Account:
        """Who we are there."""
        with self._channels.sftp('.') as sftp:
            return Account(user=self._user, home=sftp.normalize('.'))

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
        command_line = words(argv)
        if cwd is not None:
            operand(cwd)
        begun = time.monotonic()
        deadline = None
        if timeout is not None:
            command_line = within(timeout, command_line)
            deadline = begun + timeout + ENDING
        begin = (
            partial(self._channels.quick_command, given=len(stdin)) if quick else self._channels.command
        )
        with begin(command_line, cwd=cwd, keep=max_output) as command:
            code = None
            if command.feed(stdin, deadline):
                command.end_input()
                code = command.finish(deadline)
            if code is None:
                command.tell_to_end()
            if timeout is not None and (
                code is None or (code in ENDED and time.monotonic() - begun >= timeout)
            ):
                raise CommandTimeout(
                    f'{self.computer}: {os.fsdecode(argv[0])!r} did not end within {timeout:g} s and was told to; '
                    f'it may have done its work'
                )
            assert code is not None  # without a deadline it is waited for
            return CommandResult(
                exit_code=code, stdout=command.stdout, stderr=command.stderr, truncated=command.truncated
            )

    # -- files -----------------------------------------------------------------------------------------------

    def mkdir(self, path: str, *, parents: bool = False, exist_ok: bool = False) -> None:
        """See :meth:`Transport.mkdir`."""
        with self._channels.sftp(path) as sftp:
            self._mkdir(sftp, path, parents, exist_ok)

    def _mkdir(self, sftp: Sftp, path: str, parents: bool, exist_ok: bool) -> None:
        try:
            sftp.mkdir(path)
        except FileNotFoundError:
            above = posixpath.dirname(path.rstrip('/'))
            if not parents or above in ('', path):
                raise
            self._mkdir(sftp, above, True, True)
            self._mkdir(sftp, path, False, exist_ok)
        except OSError:  # the server does not say what is wrong
            there = _status(sftp, path, follow_links=True)
            if there is None:
                raise
            if not exist_ok or there.kind != 'folder':
                raise FileExistsError(
                    errno.EEXIST, 'it is there already', self._channels.name_of(path)
                ) from None

    def write_bytes(self, path: str, data: bytes, *, exclusive: bool = False, mode: int = 0o600) -> None:
        """See :meth:`Transport.write_bytes`."""
        hidden = temporary_name(path)
        with self._channels.sftp(path) as sftp:
            try:
                with sftp.open(hidden, 'wb') as file:
                    file.chmod(mode)
                    file.set_pipelined(True)
                    file.write(data)
                if exclusive:
                    sftp.rename(hidden, path)  # to sftp's first draft, a name that is taken is an error
                else:
                    sftp.posix_rename(hidden, path)
            except BaseException as error:
                with contextlib.suppress(Exception):
                    sftp.remove(hidden)
                if isinstance(error, OSError) and error.errno is None:
                    raise self._why_not_written(sftp, path, exclusive, error) from error
                raise

    def _why_not_written(self, sftp: Sftp, path: str, exclusive: bool, error: OSError) -> OSError:
        """sftp's word for most of what can be wrong is "Failure"."""
        there = _status(sftp, path, follow_links=False)
        if exclusive and there is not None:
            return FileExistsError(errno.EEXIST, 'it is there already', self._channels.name_of(path))
        if there is not None and there.kind == 'folder':
            return IsADirectoryError(errno.EISDIR, 'it is a folder', self._channels.name_of(path))
        return OSError(errno.EIO, f'{error}; is the disk full, or the quota?', self._channels.name_of(path))

    def read_bytes(self, path: str, *, max_bytes: int = MAX_READ) -> bytes:
        """See :meth:`Transport.read_bytes`."""
        with self._channels.sftp(path) as sftp, sftp.open(path, 'rb') as file:
            size = file.stat().st_size or 0
            if size > max_bytes:
                raise self._too_large(path, size, max_bytes)
            file.prefetch(size)
            data = file.read(max_bytes + 1)
            if len(data) > max_bytes:  # it grows, or has no size, as those of /proc
                raise self._too_large(path, len(data), max_bytes)
            return data

    def put_file(
        self, source: str | os.PathLike[str], target: str, *, progress: Progress | None = None
    ) -> None:
        """See :meth:`Transport.put_file`."""
        local = Path(source)
        status = local.stat()
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, 'it is no file', str(local))
        with self.sessions.operation() as operation:
            if status.st_size > SMALL:
                send_file(self._channels, local, target, progress, operation.check)
                return
            self.write_bytes(target, local.read_bytes(), mode=stat.S_IMODE(status.st_mode))
            if progress is not None:
                progress(status.st_size, status.st_size)

    def get_file(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """See :meth:`Transport.get_file`."""
        with self.sessions.operation() as operation:
            with self._channels.sftp(source) as sftp:
                there = _status(sftp, source, follow_links=True)
            if there is None:
                raise FileNotFoundError(errno.ENOENT, 'No such file', self._channels.name_of(source))
            if there.kind != 'file':
                raise IsADirectoryError(errno.EISDIR, 'it is no file', self._channels.name_of(source))
            if max_bytes is not None and there.size > max_bytes:
                raise self._too_large(source, there.size, max_bytes)
            fetch_file(
                self._channels, source, Path(target), there.size, there.mode, progress, operation.check
            )

    def put_tree(self, source: str | os.PathLike[str], target: str) -> None:
        """See :meth:`Transport.put_tree`."""
        operand(target)
        with self.sessions.operation() as operation:
            send_tree(self._channels, Path(source), target, operation.check)

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
        operand(source)
        checked = checked_names(names)
        with self.sessions.operation() as operation:
            folder = SafeFolder(target, source=self._channels.name_of(source), max_bytes=max_bytes)
            for some in _portions(checked):
                fetch_tree(self._channels, source, folder, some, follow_links, operation.check)
            folder.finish()

    def get_matching(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        patterns: Iterable[str],
        max_bytes: int | None = None,
    ) -> list[str]:
        """See :meth:`Transport.get_matching`."""
        operand(source)
        with self.sessions.operation() as operation:
            folder = SafeFolder(target, source=self._channels.name_of(source), max_bytes=max_bytes)
            matches = fetch_matching(self._channels, source, folder, patterns, operation.check)
            if matches.names and not matches.is_packed:
                for some in _portions(matches.names):
                    fetch_tree(self._channels, source, folder, some, True, operation.check)
            folder.finish()
        return matches.missing

    def stat(self, path: str) -> FileStatus | None:
        """See :meth:`Transport.stat`."""
        with self._channels.sftp(path) as sftp:
            return _status(sftp, path, follow_links=False)

    def listdir(self, path: str) -> list[str]:
        """See :meth:`Transport.listdir`."""
        with self._channels.sftp(path) as sftp:
            return sorted(sftp.names(path))

    def glob(self, pattern: str) -> list[str]:
        """See :meth:`Transport.glob`."""
        with self._channels.sftp(pattern) as sftp:
            return glob(
                pattern,
                listdir=lambda path: sftp.names(path),
                exists=lambda path: _status(sftp, path, follow_links=False) is not None,
            )

    def rename(self, source: str, target: str) -> None:
        """See :meth:`Transport.rename`."""
        with self._channels.sftp(source) as sftp:
            sftp.posix_rename(source, target)

    def remove_tree(self, path: str) -> None:
        """See :meth:`Transport.remove_tree`."""
        result = self.run(['env', 'LC_ALL=C', 'rm', '-rf', operand(refuse_top(path))], quick=True)
        if result.exit_code != 0:
            raise failure(result.message, self._channels.name_of(path))

    def _too_large(self, path: str, size: int, limit: int) -> FileTooLarge:
        return FileTooLarge(
            f'{self._channels.name_of(path)} has {size} bytes, and not more than {limit} are wanted'
        )


def _status(sftp: Sftp, path: str, *, follow_links: bool) -> FileStatus | None:
    try:
        status = sftp.stat(path) if follow_links else sftp.lstat(path)
    except FileNotFoundError:
        return None
    mode = status.st_mode or 0
    return FileStatus(
        kind=kind_of(mode),
        size=status.st_size or 0,
        modified=float(status.st_mtime or 0),
        mode=stat.S_IMODE(mode),
    )


def _portions(names: list[str]) -> Iterable[list[str]]:
    """The names in lists that each fit into one command."""
    some: list[str] = []
    length = 0
    for name in names:
        length += 3 * len(name) + 8
        if some and length > MAX_NAMES:
            yield some
            some, length = [], 3 * len(name) + 8
        some.append(name)
    yield some
