"""Commands for a login shell that nobody has chosen: whatever it is, and whatever it prints before it obeys.

A computer hands the command to the account's login shell, which may be a csh or a fish, and which may have run start-up
files that print a greeting. So the command is always the same small one for every shell, ``/bin/sh -c '...'``, and
what comes before a marker that it prints is not the command's.
"""

from __future__ import annotations

import base64
import math
import os
import secrets
import shlex
from collections.abc import Sequence

__all__ = ['MAX_NOISE', 'Framed', 'in_login_shell', 'new_marker', 'operand', 'script_of', 'within', 'words']

#: Bytes that a login shell may print before the command begins.
MAX_NOISE = 1024 * 1024


def new_marker() -> str:
    """A text that no greeting holds."""
    return f'treadle-{secrets.token_hex(8)}'


def operand(path: str) -> str:
    """The path in a form that no program takes for an option, and no shell for a home directory."""
    if not path or '\0' in path:
        raise ValueError(f'{path!r} is no path: it is empty or holds a NUL byte')
    return path if path.startswith('/') else f'./{path}'


def words(argv: Sequence[str | bytes]) -> str:
    """The command with each argument quoted for sh.

    :raises ValueError: there is none, or one holds a NUL byte.
    """
    arguments = [os.fsdecode(each) for each in argv]
    if not arguments:
        raise ValueError('a command needs at least the name of a program')
    if any('\0' in each for each in arguments):
        raise ValueError(f'an argument of {arguments[0]!r} holds a NUL byte, which no command can take')
    return shlex.join(arguments)


def within(seconds: float, command: str) -> str:
    """The command, told to end after so long by the computer itself, where it has the program for it.

    sshd passes no signals on to the commands of root, and none at all if the connection breaks.
    """
    # Not every `timeout` takes a fraction.
    limit = f'{seconds:.3f}' if seconds < 1 else str(math.ceil(seconds))
    return f'if command -v timeout >/dev/null; then timeout -k 1 {limit} {command}; else {command}; fi'


def script_of(command: str, *, cwd: str | None, marker: str) -> str:
    """An sh script that goes to ``cwd``, prints the marker on both outputs, and runs the command.

    If there is no such folder, the marker is followed by ``-cd``, and nothing runs. The script outlives the command,
    so that a signal that ends the command is an exit code.
    """
    change = (
        ''
        if cwd is None
        else f'cd {shlex.quote(operand(cwd))} 2>/dev/null || {{ echo {marker}-cd; exit 1; }}; '
    )
    return f'{change}echo {marker}; echo {marker} >&2; {command}; exit $?'


def in_login_shell(script: str) -> bytes:
    """What to ask the computer for, so that sh runs the script whatever the login shell is."""
    text = os.fsencode(script)
    # A backslash means something within quotes to fish, `!` and a line's end to csh; the rest is the same everywhere.
    if all(32 <= byte < 127 and byte not in b'\\!' for byte in text):
        return b'/bin/sh -c ' + os.fsencode(shlex.quote(script))
    return b'/bin/sh -c \'eval "$(echo ' + base64.b64encode(text) + b' | base64 -d)"\''


class Framed:
    """One output of a command, from the marker on; keeps the first bytes of it.

    :param keep: how many.
    :ivar began: whether the marker was seen.
    :ivar noise: what came before it.
    """

    def __init__(self, marker: str, keep: int) -> None:
        self.began = False
        self.noise = b''
        self.truncated = False
        self._marker = marker.encode() + b'\n'
        self._keep = keep
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what came."""
        data = self.strip(data)
        room = self._keep - len(self._data)
        self._data += data[:room]
        self.truncated = self.truncated or len(data) > room

    def strip(self, data: bytes) -> bytes:
        """The part of it that is the command's."""
        if self.began:
            return data
        before, found, after = (self.noise + data).partition(self._marker)
        self.began = bool(found)
        self.noise = before
        return after

    @property
    def data(self) -> bytes:
        """What was kept."""
        return bytes(self._data)
