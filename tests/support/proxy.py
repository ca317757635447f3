"""A TCP proxy that does to connections what networks do: nothing flows, resets, late bytes, few bytes, lost replies."""

from __future__ import annotations

import dataclasses
import selectors
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

#: Bytes that a direction holds at most before it reads no more from its source.
ROOM = 1 << 18
CHUNK = 1 << 16


@dataclasses.dataclass(eq=False)
class _Flow:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    chunks: deque[tuple[float, memoryview]] = dataclasses.field(default_factory=deque)
    held: int = 0
    may_send: float = 0.0
    at_end: bool = False
    closed: bool = False


@dataclasses.dataclass(eq=False)
class _Link:
    """A client's connection and the one to the target that goes with it."""

    client: socket.socket
    server: socket.socket
    requests: _Flow = dataclasses.field(init=False)
    replies: _Flow = dataclasses.field(init=False)
    #: Set when the next reply is to be lost, and whether it is with a reset, and not an end, that it is.
    losing: threading.Event | None = None
    resets: bool = True

    def __post_init__(self) -> None:
        self.requests = _Flow(self.client, self.server)
        self.replies = _Flow(self.server, self.client)

    @property
    def flows(self) -> tuple[_Flow, _Flow]:
        return self.requests, self.replies


class Proxy:
    """Forwards connections to ``target`` until it is told to do worse; from any thread.

    :param target: host and port.
    :ivar port: where it listens, on 127.0.0.1.
    :ivar accepted: how many connections there have been.

    One thread moves all bytes, under a lock that each method takes: when a method has returned, not a byte flows that
    it forbids.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._links: list[_Link] = []
        self._is_cut = self._is_refusing = self._is_closed = False
        self._delay, self._rate = 0.0, float('inf')
        self._losses: list[tuple[bytes, threading.Event, bool]] = []
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f'proxy-{self.port}', daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, url: str) -> Self:
        """A proxy of the service at this URL, which names a port."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError('the URL names no host or no port')
        return cls((parts.hostname, parts.port))

    def through(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition('@')
        return urlunsplit(parts._replace(netloc=f'{credentials}{at}127.0.0.1:{self.port}'))

    # -- what networks do ----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing flows, in no direction, and nobody is told: no end, no reset. Who connects now hears nothing."""
        self._change(is_cut=True)

    def heal(self) -> None:
        """All flows again, what was on its way first; new connections are taken again."""
        self._change(is_cut=False, is_refusing=False, delay=0.0, rate=float('inf'))

    def reset(self) -> int:
        """Reset all connections there are, on both sides; new ones are taken. How many those were."""
        with self._lock:
            count = len(self._links)
            for link in list(self._links):
                self._abort(link)
        self._nudge()
        return count

    def refuse(self) -> None:
        """Reset all connections, and each new one as soon as it is made."""
        self._change(is_refusing=True)
        self.reset()

    def delay(self, seconds: float) -> None:
        """From now on each byte arrives so much later, in either direction."""
        self._change(delay=seconds)

    def throttle(self, rate: float) -> None:
        """From now on at most so many bytes a second in each direction of each connection."""
        self._change(rate=rate)

    def lose_reply(self, to: bytes, *, resets: bool = True) -> threading.Event:
        """Lose one reply: the next request with these bytes in it reaches the target, whose answer reaches nobody.

        The connection is reset when the answer has come, so the target has done what it was asked.

        :param to: nothing for any request, as there is nothing to be read where all is encrypted.
        :param resets: or else the connection ends as if the target had closed it.
        :returns: set when it has happened.
        """
        lost = threading.Event()
        with self._lock:
            self._losses.append((to, lost, resets))
        return lost

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        with self._lock:
            return len(self._links)

    def close(self) -> None:
        """End all, at once."""
        self._change(is_closed=True)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _change(self, **changes: bool | float) -> None:
        with self._lock:
            for name, value in changes.items():
                setattr(self, f'_{name}', value)
        self._nudge()

    def _nudge(self) -> None:
        try:
            self._wake.send(b'.')
        except OSError:
            return  # closed, or so full of nudges that it wakes anyway

    # -- on the proxy's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._is_closed:
                    break
                interest, timeout = self._interest()
            # A selector of each round's own: few connections, and nothing to keep in step.
            with selectors.DefaultSelector() as selector:
                for sock, events in interest.items():
                    selector.register(sock, events)
                ready = {key.fileobj: events for key, events in selector.select(timeout)}
            if self._woken in ready:
                self._woken.recv(CHUNK)
            with self._lock:
                self._move(ready)
        with self._lock:
            for link in list(self._links):
                self._abort(link)
            for sock in (self._listener, self._woken, self._wake):
                sock.close()

    def _interest(self) -> tuple[dict[socket.socket, int], float | None]:
        """What to wait for, and how long at most."""
        interest = {self._woken: selectors.EVENT_READ}
        if self._is_cut:
            return interest, None
        interest[self._listener] = selectors.EVENT_READ
        now, due = time.monotonic(), float('inf')
        for link in self._links:
            for flow in link.flows:
                if not flow.at_end and flow.held < ROOM:
                    interest[flow.source] = interest.get(flow.source, 0) | selectors.EVENT_READ
                if flow.chunks:
                    at = max(flow.chunks[0][0], flow.may_send)
                    if at <= now:
                        interest[flow.sink] = interest.get(flow.sink, 0) | selectors.EVENT_WRITE
                    else:
                        due = min(due, at)
        return interest, None if due == float('inf') else due - now

    def _move(self, ready: dict[object, int]) -> None:
        if self._is_cut:
            return
        for link in list(self._links):
            try:
                for flow in link.flows:
                    if ready.get(flow.source, 0) & selectors.EVENT_READ:
                        self._read(link, flow)
                    if ready.get(flow.sink, 0) & selectors.EVENT_WRITE:
                        self._write(flow)
                    if flow.at_end and not flow.chunks and not flow.closed:
                        flow.closed = True
                        flow.sink.shutdown(socket.SHUT_WR)
            except ConnectionAbortedError:
                self._drop(link)
                continue
            except OSError:
                self._abort(link)
                continue
            if all(flow.closed for flow in link.flows):
                self._drop(link)
        if self._listener in ready:
            self._accept()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it has gone away again
        if self._is_refusing:
            _reset(client)
            return
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            _reset(client)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        self._links.append(_Link(client, server))

    def _read(self, link: _Link, flow: _Flow) -> None:
        if flow.at_end:
            return
        try:
            data = flow.source.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            flow.at_end = True
            return
        if flow is link.requests and link.losing is None:
            for loss in self._losses:
                if loss[0] in data:
                    self._losses.remove(loss)
                    _, link.losing, link.resets = loss
                    break
        elif flow is link.replies and link.losing is not None:
            link.losing.set()
            raise ConnectionResetError if link.resets else ConnectionAbortedError
        flow.chunks.append((time.monotonic() + self._delay, memoryview(data)))
        flow.held += len(data)

    def _write(self, flow: _Flow) -> None:
        now = time.monotonic()
        while flow.chunks and flow.chunks[0][0] <= now and flow.may_send <= now:
            due, data = flow.chunks[0]
            most = len(data) if self._rate == float('inf') else max(1, int(self._rate / 20))
            try:
                sent = flow.sink.send(data[:most])
            except BlockingIOError:
                return
            flow.held -= sent
            flow.may_send = now + sent / self._rate
            if sent == len(data):
                flow.chunks.popleft()
            else:
                flow.chunks[0] = (due, data[sent:])

    def _abort(self, link: _Link) -> None:
        self._links.remove(link)
        _reset(link.client)
        _reset(link.server)

    def _drop(self, link: _Link) -> None:
        self._links.remove(link)
        link.client.close()
        link.server.close()


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()
