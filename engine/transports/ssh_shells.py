"""Shells over ssh that are kept for short commands: a login shell's start-up files run once, not for each of them.

Starting a shell is what a short command costs most: the files that it reads first take a tenth of a second and more
where they set up modules or environments. So one shell runs many commands, one after the other, each in a subshell, so
that nothing of it is left for the next. It is replaced after a while, so that what has changed in those files counts.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import paramiko

from .shell import MAX_NOISE, in_login_shell, new_marker

__all__ = ['Shells', 'Turn']

#: Seconds for which a shell is used.
MAX_AGE: Final = 60.0
#: Seconds within which it has read its start-up files, and within which it ends when it is told to.
START_TIMEOUT, END_TIMEOUT = 60.0, 2.0
#: Bytes that are taken from a channel in advance.
AHEAD: Final = 1024 * 1024

# Each request is a line, so many bytes of script, and so many of what the script's commands read. `head -c` is in no
# standard: where it is missing, or takes more than it is asked for, no shell can be kept. On one line, and without
# a backslash, this passes through any login shell.
_SERVE: Final = re.sub(
    r'\s+',
    ' ',
    """
    case $(printf abcd | { head -c 2 >/dev/null; cat; }) in
    cd) echo %(marker)s yes ;;
    *) echo %(marker)s no; exit 0 ;;
    esac;
    while IFS=" " read -r mark size given; do
        script=$(head -c "$size");
        if [ "$given" = 0 ]; then
            ( eval "$script" ) </dev/null;
        else
            head -c "$given" | { ( eval "$script" ); code=$?; while read -r rest; do :; done; exit "$code"; };
        fi;
        code=$?;
        echo "$mark $code";
        echo "$mark 0" >&2;
    done
    """,
).strip()


class _Output:
    """One output of a shell, up to the line that ends a command's part of it."""

    def __init__(self, mark: str) -> None:
        self.code: int | None = None
        self._mark = mark.encode() + b' '
        self._data = bytearray()
        #: How many of the bytes are the command's for certain.
        self.ready = 0

    def feed(self, data: bytes) -> None:
        self._data += data
        at = self._data.find(self._mark, max(0, self.ready - len(self._mark)))
        if at < 0:
            self.ready = len(self._data) - self._begun()
            return
        self.ready = at
        line, newline, _ = bytes(self._data[at + len(self._mark) :]).partition(b'\n')
        if newline:
            self.code = int(line)

    def _begun(self) -> int:
        """How many bytes at the end may be the beginning of the mark."""
        for length in range(min(len(self._mark) - 1, len(self._data)), 0, -1):
            if self._data.endswith(self._mark[:length]):
                return length
        return 0

    def take(self, size: int) -> bytes:
        size = min(size, self.ready)
        data = bytes(self._data[:size])
        del self._data[:size]
        self.ready -= size
        return data


class Turn:
    """One command's part of the channel of a kept shell; to its command it is a channel of its own.

    :param script: of sh, with no line's end at its own.
    :param given: bytes that the command will be sent, exactly.
    """

    def __init__(self, channel: paramiko.Channel, script: str, *, given: int) -> None:
        mark = new_marker()
        self._channel = channel
        self._out, self._err = _Output(mark), _Output(mark)
        self.exit_status = -1
        self.status_event = threading.Event()
        text = os.fsencode(script)
        channel.settimeout(None)
        channel.sendall(f'{mark} {len(text)} {given}\n'.encode() + text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    @property
    def is_over(self) -> bool:
        """Whether the shell is ready for another command."""
        self._pump()
        return self._out.code is not None and self._err.code is not None and not (self._out.ready or self._err.ready)

    def _pump(self) -> None:
        channel = self._channel
        while self._out.code is None and self._out.ready < AHEAD and channel.recv_ready():
            self._out.feed(channel.recv(AHEAD))
        while self._err.code is None and self._err.ready < AHEAD and channel.recv_stderr_ready():
            self._err.feed(channel.recv_stderr(AHEAD))
        if self._out.code is not None:
            self.exit_status = self._out.code
            self.status_event.set()
        elif channel.closed or (channel.eof_received and not channel.recv_ready()):
            self.status_event.set()

    # -- what a command asks its channel -----------------------------------------------------------------------

    @property
    def eof_received(self) -> bool:
        """Whether nothing more will come."""
        self._pump()
        return (self._out.code is not None and self._err.code is not None) or bool(self._channel.eof_received)

    def recv_ready(self) -> bool:
        """Whether there is some of its standard output."""
        self._pump()
        return self._out.ready > 0

    def recv(self, size: int) -> bytes:
        """What there is of its standard output."""
        self._pump()
        return self._out.take(size)

    def recv_stderr_ready(self) -> bool:
        """Whether there is some of its standard error."""
        self._pump()
        return self._err.ready > 0

    def recv_stderr(self, size: int) -> bytes:
        """What there is of its standard error."""
        self._pump()
        return self._err.take(size)

    def exit_status_ready(self) -> bool:
        """Whether it is known how it has ended."""
        self._pump()
        return self.status_event.is_set()

    def shutdown_write(self) -> None:
        """Nothing: the shell knows how much it reads."""


class Shells:
    """The shells of one connection that wait for a command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[paramiko.Channel, float]] = []
        self._can_be_kept = True

    def take(self, open_channel: Callable[[], paramiko.Channel]) -> tuple[paramiko.Channel, float] | None:
        """A shell of one's own, and since when it is there; ``None`` if none can be had, and one has to do without.

        :param open_channel: opens a channel, if there has to be another one.
        """
        while self._can_be_kept:
            with self._lock:
                found = self._idle.pop() if self._idle else None
            if found is None:
                return self._open(open_channel())
            channel, since = found
            if not (channel.closed or channel.eof_received) and time.monotonic() - since < MAX_AGE:
                return found
            _end(channel)
        return None

    def take_back(self, channel: paramiko.Channel, since: float) -> None:
        """It is free for another command."""
        with self._lock:
            self._idle.append((channel, since))

    def make_room(self, most: int) -> None:
        """Let no more than so many be idle."""
        while True:
            with self._lock:
                if len(self._idle) <= max(0, most):
                    return
                channel, _ = self._idle.pop(0)
            _end(channel)

    def _open(self, channel: paramiko.Channel) -> tuple[paramiko.Channel, float] | None:
        marker = new_marker()
        answer = None
        try:
            channel.settimeout(START_TIMEOUT)
            channel.exec_command(in_login_shell(_SERVE % {'marker': marker}))
            answer = _answer(channel, marker)
        except TimeoutError:
            pass
        finally:
            if answer != 'yes':
                channel.close()
        if answer == 'no':
            self._can_be_kept = False
        return (channel, time.monotonic()) if answer == 'yes' else None


def _answer(channel: paramiko.Channel, marker: str) -> str | None:
    """What it says after it has read its start-up files; ``None`` if it has ended instead."""
    data, found = b'', b''
    while not found and len(data) < MAX_NOISE:
        more = channel.recv(MAX_NOISE)
        if not more:
            return None
        data += more
        _, _, after = data.partition(f'{marker} '.encode())
        found, newline, _ = after.partition(b'\n')
        found = found if newline else b''
    return found.decode(errors='replace') or None


def _end(channel: paramiko.Channel) -> None:
    """Let a shell end, and wait for it: the computer counts it until then."""
    try:
        channel.shutdown_write()
        channel.status_event.wait(END_TIMEOUT)
    except (OSError, EOFError):  # the connection is gone, and the shell with it
        return
    finally:
        channel.close()
