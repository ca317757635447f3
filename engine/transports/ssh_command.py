"""One command on one channel of an ssh connection: what it reads, what it writes, how it ends."""

from __future__ import annotations

import contextlib
import threading
import time

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

from ..deadlines import remaining
from .sessions import Operation
from .shell import MAX_NOISE, Framed

__all__ = ['ChannelClosed', 'NeverBegan', 'NoFolder', 'SshCommand']

#: Seconds that a command's outputs are listened to after it has ended, when something that it has started keeps them
#: open.
GRACE = 2.0
#: Seconds between two looks at what it writes, while it does not take what it is to read.
LOOK = 0.05
#: Seconds between two looks at whether it has ended without closing its outputs; nothing wakes us then.
EXIT_LOOK = 1.0
#: Bytes that are taken at a time, and sent: paramiko makes a packet of at most this size.
BLOCK, PACKET = 1024 * 1024, 32 * 1024


class ChannelClosed(Exception):
    """The channel was closed before the command said how it has ended."""


class NeverBegan(Exception):
    """The login shell has not run the command; its text is what it said instead."""


class _Ready(threading.Event):
    """What paramiko sets when an output has something; it is to be set for both, and cleared for neither."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._either = event

    def set(self) -> None:
        """Wake whoever waits."""
        self._either.set()

    def clear(self) -> None:
        """Nothing: whoever waits clears the event before it looks."""


class NoFolder(Exception):
    """The folder that it was to run in is not there."""


class SshCommand:
    """Feeds a command and takes what it writes.

    :param channel: on which the command was asked for.
    :param marker: what the command prints first; see :mod:`.shell`.
    :param keep: bytes that are kept of each output.
    :param operation: tells when to break off; whoever made the channel sees to it that it is closed then.
    """

    def __init__(self, channel: paramiko.Channel, *, marker: str, keep: int, operation: Operation) -> None:
        self._channel = channel
        self._operation = operation
        self._stdout = Framed(marker, keep)
        self._stderr = Framed(marker, keep)
        self._no_folder = f'{marker}-cd\n'.encode()
        self._wake = threading.Event()
        channel.settimeout(LOOK)  # of sending: what is read is there already
        channel.in_buffer.set_event(_Ready(self._wake))
        channel.in_stderr_buffer.set_event(_Ready(self._wake))

    @property
    def stdout(self) -> bytes:
        """What was kept of its standard output."""
        return self._stdout.data

    @property
    def stderr(self) -> bytes:
        """What was kept of its standard error."""
        return self._stderr.data

    @property
    def truncated(self) -> bool:
        """Whether one of them was longer."""
        return self._stdout.truncated or self._stderr.truncated

    @property
    def noise(self) -> bytes:
        """What the login shell printed before the command began."""
        return self._stdout.noise

    # -- what it reads ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        """Have it read this, all of it; what it writes meanwhile is taken, so that it never has to wait for us.

        :raises BrokenPipeError: it reads no more.
        """
        left = memoryview(data)
        while left:
            self._operation.check()
            self._take_output()
            try:
                # Waits until the other side has room, and no longer than until the next look.
                sent = self._channel.send(left[:PACKET].tobytes())
            except TimeoutError:
                continue
            except OSError:
                sent = 0
            if not sent:
                raise BrokenPipeError(32, 'it reads no more')
            left = left[sent:]
        return len(data)

    def feed(self, data: bytes, deadline: float | None) -> bool:
        """Like :meth:`write`, but it need not want it; false if the deadline came first."""
        for start in range(0, len(data), BLOCK):
            if deadline is not None and time.monotonic() > deadline:
                return False
            try:
                self.write(data[start : start + BLOCK])
            except BrokenPipeError:
                break
        return True

    def end_input(self) -> None:
        """Let it find the end of what it reads."""
        with contextlib.suppress(OSError, EOFError):  # it reads no more, and will say how it has ended
            self._channel.shutdown_write()

    # -- what it writes --------------------------------------------------------------------------------------

    def read(self, size: int = -1) -> bytes:
        """Bytes of its standard output, as soon as there are any; none at its end. Nothing of it is kept."""
        size = BLOCK if size < 0 else size
        while True:
            self._operation.check()
            self._wake.clear()
            if self._channel.recv_stderr_ready():
                self._stderr.feed(self._channel.recv_stderr(BLOCK))
            if self._channel.recv_ready() or self._channel.closed or self._channel.eof_received:
                data = self._channel.recv(size)
                if not data:
                    return b''
                data = self._stdout.strip(data)
                if data:
                    return data
                self._refuse_noise()
            else:
                self._wake.wait()

    def _take_output(self) -> bool:
        """Take what is there; whether there was anything."""
        taken = False
        if self._channel.recv_ready():
            self._stdout.feed(self._channel.recv(BLOCK))
            taken = True
        if self._channel.recv_stderr_ready():
            self._stderr.feed(self._channel.recv_stderr(BLOCK))
            taken = True
        if taken:
            self._refuse_noise()
        return taken

    def _refuse_noise(self) -> None:
        if len(self._stdout.noise) > MAX_NOISE and not self._stdout.began:
            raise NeverBegan(self._stdout.noise[:200].decode(errors='replace'))

    # -- how it ends -----------------------------------------------------------------------------------------

    def finish(self, deadline: float | None = None) -> int | None:
        """Take what it writes until it has ended.

        :returns: its exit code; ``None`` if the deadline came first.
        :raises ChannelClosed: nobody will say how it has ended.
        :raises NeverBegan: the login shell has not run it.
        """
        while True:
            self._operation.check()
            self._wake.clear()
            if self._take_output():
                continue
            if self._channel.closed or self._channel.eof_received:
                if not (self._channel.recv_ready() or self._channel.recv_stderr_ready()):
                    break
                continue
            if self._channel.exit_status_ready():
                grace = time.monotonic() + GRACE
                deadline = grace if deadline is None else min(deadline, grace)
                if not self._wake.wait(remaining(deadline)):
                    break
            elif deadline is None:
                self._wake.wait(EXIT_LOOK)
            elif not self._wake.wait(min(remaining(deadline), EXIT_LOOK)) and not remaining(deadline):
                return None
        return self._exit_code(deadline)

    def _exit_code(self, deadline: float | None) -> int | None:
        if not self._channel.status_event.wait(remaining(deadline)):
            return None
        self._operation.check()
        code = self._channel.exit_status
        if code < 0:
            raise ChannelClosed
        if not self._stdout.began:
            if self._stdout.noise.endswith(self._no_folder):
                raise NoFolder
            raise NeverBegan(self._stdout.noise[-200:].decode(errors='replace').strip())
        return code

    def tell_to_end(self) -> None:
        """Have the computer send SIGTERM to the command and to what it has started."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self._channel.remote_chanid)
        message.add_string('signal')
        message.add_boolean(False)
        message.add_string('TERM')
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the connection is gone
            self._channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined]
