"""Small things done to files over ssh: sessions of sftp, kept for the next one, and errors that name the file."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
from paramiko import SFTPAttributes
from paramiko.sftp import CMD_CLOSE, CMD_OPENDIR, CMD_READDIR

from ..errors import TransportUnusable
from .shell import MAX_NOISE, operand

__all__ = ['Sftp', 'SftpSessions']

#: The first packet of an sftp server: its length, which is small, "version", and the version.
_FIRST_PACKET = re.compile(rb'\0\0[\0-\x3f][\0-\xff]\x02\0\0\0\x03', re.DOTALL)


class _Quiet:
    """A channel whose first bytes are those of the sftp server, whatever the login shell has printed before."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def recv(self, size: int) -> bytes:
        """As of a channel."""
        if self._head is None:
            self._head = self._first()
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._channel.recv(size)

    def _first(self) -> bytes:
        data = b''
        while True:
            found = _FIRST_PACKET.search(data)
            if found is not None:
                return data[found.start() :]
            more = self._channel.recv(MAX_NOISE)
            data += more
            if not more or len(data) > MAX_NOISE:
                raise TransportUnusable(
                    f'no sftp server answers, but: {data[:200].decode(errors="replace")!r}; is the subsystem sftp '
                    f'configured there, and does the login shell run it?'
                )


class Sftp(paramiko.SFTPClient):
    """paramiko's, with names that are not UTF-8: texts with surrogate escapes here, the bytes themselves there."""

    def _adjust_cwd(self, path: str) -> bytes:
        # All of paramiko's methods ask this what to send for a path.
        operand(path)
        return os.fsencode(path)

    def names(self, path: str) -> list[str]:
        """The names in a folder, with surrogate escapes where they are not UTF-8."""
        _, answer = self._ask(CMD_OPENDIR, self._adjust_cwd(path))
        handle = answer.get_binary()
        found: list[str] = []
        try:
            while True:
                _, answer = self._ask(CMD_READDIR, handle)
                for _ in range(answer.get_int()):
                    name = answer.get_binary()
                    answer.get_binary()  # the line of `ls -l`
                    SFTPAttributes._from_msg(answer)  # type: ignore[attr-defined]
                    if name not in (b'.', b'..'):
                        found.append(os.fsdecode(name))
        except EOFError:  # the server's word for the end
            return found
        finally:
            self._ask(CMD_CLOSE, handle)

    def _ask(self, kind: int, *arguments: bytes) -> tuple[int, paramiko.Message]:
        answer: tuple[int, paramiko.Message] = self._request(kind, *arguments)  # type: ignore[attr-defined]
        return answer


class SftpSessions:
    """Sessions of sftp on one connection.

    :param keep: how many are kept when nobody uses them.
    """

    def __init__(self, *, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._idle: list[Sftp] = []

    @contextlib.contextmanager
    def session(self, open_channel: Callable[[], paramiko.Channel]) -> Iterator[Sftp]:
        """A session of one's own. After an error that is not the server's answer it is not used again.

        :param open_channel: opens a channel, if there has to be another one.
        """
        client = self._take() or _open(open_channel())
        try:
            yield client
        except OSError:
            self._take_back(client)
            raise
        except BaseException:
            client.close()
            raise
        else:
            self._take_back(client)

    def _take(self) -> Sftp | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                client = self._idle.pop()
            channel = client.get_channel()
            if channel is not None and not (channel.closed or channel.eof_received):
                return client
            client.close()

    def _take_back(self, client: Sftp) -> None:
        with self._lock:
            if len(self._idle) < self._keep and not client.get_channel().closed:  # type: ignore[union-attr]
                self._idle.append(client)
                return
        client.close()

    def close_idle(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()


def _open(channel: paramiko.Channel) -> Sftp:
    try:
        channel.invoke_subsystem('sftp')
        return Sftp(_Quiet(channel))  # type: ignore[arg-type]  # it does what is asked of a channel
    except BaseException:
        channel.close()
        raise
