"""Channels of one ssh connection, for commands and for sftp: opened in turn, and what goes wrong told apart."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from functools import partial

import paramiko
from paramiko.sftp import SFTPError

from ...threads import ForkGuard, StepThreads
from ..errors import ComputerUnreachable, ConnectionLost, TransportClosed, TransportError, TransportUnusable
from .sessions import Operation, Sessions
from .sftp import Sftp, SftpSessions
from .shell import in_login_shell, new_marker, script_of
from .ssh_command import ChannelClosed, NeverBegan, NoFolder, SshCommand
from .ssh_opening import SshConnection
from .ssh_shells import Shells, Turn

__all__ = ['SshChannels', 'failure']

#: sftp sessions that are kept open at most.
KEPT_SFTP = 2
#: Seconds for which a computer that takes no further session is asked again, and between two times, first and last.
PATIENCE, FIRST_PAUSE, LAST_PAUSE = 60.0, 0.05, 1.0
#: How often in a row a session must be refused before it is taken for one too many: a computer counts one that was
#: closed for a moment more.
REFUSALS = 3
#: Seconds within which a computer answers that it opens a channel.
CHANNEL_TIMEOUT = 60.0

#: What programs say in English, and what they mean.
_COMPLAINTS = (
    ('No space left on device', errno.ENOSPC),
    ('Disk quota exceeded', errno.EDQUOT),
    ('Read-only file system', errno.EROFS),
    ('Permission denied', errno.EACCES),
    ('No such file or directory', errno.ENOENT),
    ('Is a directory', errno.EISDIR),
    ('Not a directory', errno.ENOTDIR),
    ('File exists', errno.EEXIST),
)


def failure(message: str, name: str) -> OSError:
    """The error of the operating system that a program has complained of.

    :param message: what it said.
    :param name: the file, and the computer that it is on.
    """
    for words, number in _COMPLAINTS:
        if words in message:
            return OSError(number, message, name)
    return OSError(errno.EIO, message or 'it failed without a word', name)


class SshChannels:
    """Commands and sftp sessions over one connection.

    :param max_sessions: channels that the computer lets one connection have.
    :param threads: where the operations of coroutines run.
    """

    def __init__(self, connection: SshConnection, *, max_sessions: int, threads: StepThreads) -> None:
        self.where = connection.host.where
        self._connection = connection
        self._client = connection.client
        kept = min(KEPT_SFTP, max_sessions // 3)
        self.sessions = Sessions(max_sessions - kept, threads=threads, where=self.where)
        self._sftp = SftpSessions(keep=kept)
        self._shells = Shells()
        self._closed = False
        self._fork_guard = ForkGuard(remedy='open one of its own in the child')

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return not self._closed and self._client.is_active()

    def close(self, error: TransportError) -> None:
        """Break off what runs, and close the connection; from any thread."""
        self._closed = True
        self.sessions.close(error)
        self._connection.close()

    def forget(self) -> None:
        """In a forked child, where the connection is the parent's."""
        self._closed = True
        self._connection.forget()

    def answers(self) -> bool:
        """Ask the other side for a sign of life; blocks until it comes, or the connection is closed."""
        # The answer is that it does not know what is meant.
        self._client.global_request('keepalive@openssh.com', wait=True)
        return self._client.is_active()

    @contextlib.contextmanager
    def command(self, command: str, *, cwd: str | None = None, keep: int) -> Iterator[SshCommand]:
        """Run a command of sh; in this block it is talked with, and at its end no more.

        :param keep: bytes that are kept of each output.
        :raises FileNotFoundError: there is no folder ``cwd``.
        """
        with self._operation() as operation:
            channel = self._open(operation)
            with self._closing(channel), operation.closing(channel.close):
                marker = new_marker()
                channel.exec_command(in_login_shell(script_of(command, cwd=cwd, marker=marker)))
                try:
                    yield SshCommand(channel, marker=marker, keep=keep, operation=operation)
                except NoFolder:
                    raise self._no_folder(cwd) from None

    @contextlib.contextmanager
    def quick_command(
        self, command: str, *, cwd: str | None = None, keep: int, given: int = 0
    ) -> Iterator[SshCommand]:
        """:meth:`command` in a shell that is kept, if one can be had.

        :param given: bytes that it will be sent, exactly; whether it reads them is its own business.
        """
        with self._operation() as operation:
            shell = self._shells.take(partial(self._open, operation))
            if shell is None:
                with self.command(command, cwd=cwd, keep=keep) as alone:
                    yield alone
                return
            channel, since = shell
            turn = None
            try:
                with operation.closing(channel.close):
                    marker = new_marker()
                    turn = Turn(channel, script_of(command, cwd=cwd, marker=marker), given=given)
                    yield SshCommand(turn, marker=marker, keep=keep, operation=operation)  # type: ignore[arg-type]
            except NoFolder:
                raise self._no_folder(cwd) from None
            finally:
                if turn is not None and turn.is_over and not channel.closed:
                    self._shells.take_back(channel, since)
                else:  # nobody knows what it would take for what
                    self._close(channel)

    @contextlib.contextmanager
    def sftp(self, path: str) -> Iterator[Sftp]:
        """A session of sftp; an error that the other side answers with is one of ``path``.

        What is done in this block is to read or write no local files, whose errors would be taken for those.
        """
        with self._operation() as operation, self._sftp.session(partial(self._open, operation)) as client:
            channel = client.get_channel()
            assert channel is not None
            with operation.closing(channel.close):
                try:
                    yield client
                except OSError as error:
                    if channel.closed or isinstance(error, TransportError) or error.filename is not None:
                        raise
                    text = error.strerror or str(error)
                    raise OSError(error.errno or errno.EIO, text, self.name_of(path)) from error

    def _no_folder(self, cwd: str | None) -> FileNotFoundError:
        words = 'there is no such folder to run a command in'
        return FileNotFoundError(errno.ENOENT, words, self.name_of(cwd or '.'))

    def name_of(self, path: str) -> str:
        """A path there, as errors give it."""
        return f'{self.where}:{path}'

    @contextlib.contextmanager
    def _operation(self) -> Iterator[Operation]:
        self._fork_guard.check(f'the connection to {self.where}')
        with self.sessions.operation() as operation:
            try:
                yield operation
            except TransportError:
                raise
            except NeverBegan as error:
                operation.check()
                raise TransportUnusable(
                    f'{self.where} runs no commands; its login shell says: {str(error) or "nothing"!r}'
                ) from error
            except (ChannelClosed, SFTPError, EOFError, paramiko.SSHException) as error:
                operation.check()
                raise self._lost(error) from error
            except OSError as error:
                operation.check()
                if error.filename is None and not self._client.is_active():
                    raise self._lost(error) from error
                raise

    def _lost(self, error: BaseException) -> TransportError:
        if self._closed:
            return TransportClosed(f'the connection to {self.where} was closed here')
        what = 'the connection to' if not self._client.is_active() else 'a session on'
        said = str(error)
        return ConnectionLost(f'{what} {self.where} broke{f": {said}" if said else ""}')

    def _open(self, operation: Operation) -> paramiko.Channel:
        """Open a channel; a computer that takes no more of them is asked again later, and less from then on."""
        end, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        refusals = 0
        while True:
            operation.check()
            # All others who work here have a channel at most.
            self._shells.make_room(self.sessions.limit - self.sessions.running)
            begun = time.monotonic()
            try:
                return self._client.open_session(timeout=CHANNEL_TIMEOUT)
            except paramiko.SSHException as error:
                if not self._client.is_active() or time.monotonic() - begun >= CHANNEL_TIMEOUT:
                    raise
                refused = error
            self._sftp.close_idle()
            self._shells.make_room(0)
            refusals += 1
            if refusals >= REFUSALS:
                self.sessions.narrow()
            if time.monotonic() >= end:
                raise ComputerUnreachable(
                    f'{self.where} takes no sessions on our connection ({refused}); see MaxSessions in its '
                    f'sshd_config, and give the computer a max_sessions that is not more'
                ) from refused
            operation.pause(pause)
            pause = min(2 * pause, LAST_PAUSE)

    @contextlib.contextmanager
    def _closing(self, channel: paramiko.Channel) -> Iterator[None]:
        try:
            yield
        finally:
            self._close(channel)

    def _close(self, channel: paramiko.Channel) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the connection is gone
            channel.close()
