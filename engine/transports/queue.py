"""``TransportQueue``: transports for the coroutines of one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from ...threads import WrongThread, wait_on_loop
from ..errors import TransportClosed
from .authority import ConnectionAuthority
from .connection import Lease
from .connection_spec import ConnectionSpec
from .transport import AsyncTransport

__all__ = ['HasConnection', 'TransportQueue', 'TransportRequest']


class HasConnection(Protocol):
    """A computer, as far as a queue is concerned."""

    @property
    def connection(self) -> ConnectionSpec:
        """How it is reached."""
        ...


class _Share:
    """A lease that the requests of a loop have together."""

    def __init__(self, lease: Future[Lease]) -> None:
        self.lease = lease
        self.requests = 0

    @property
    def is_of_use(self) -> bool:
        """Whether one who comes now should join: it is being opened, or open."""
        if not self.lease.done():
            return True
        if self.lease.cancelled() or self.lease.exception(0) is not None:
            return False
        return self.lease.result(0).blocking.is_alive()


class TransportQueue:
    """Gives coroutines of one loop the transports that they ask for; the interface is that of ``aiida.engine``.

    ::

        async with queue.request_transport(computer) as request:
            transport = await request
            await transport.run(['sbatch', 'job.sh'], cwd=folder)

    All who ask before the opening share one transport, and so do those who ask while it is in use. Cancelling one of
    them does not touch the others. An opening that fails reaches each of them. The last one to leave its block hands
    the transport back, to an authority that all loops of an engine share.

    :param loop: where the coroutines run; default: the loop that runs here, else one of the queue's own, :attr:`loop`,
        that whoever makes the queue runs.
    :param connections: opens the connections; by default the queue has an authority of its own, and :meth:`close`
        stops it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: ConnectionAuthority | None = None,
    ) -> None:
        if loop is None:
            loop = asyncio._get_running_loop()
        self._owns_loop = loop is None
        self._loop = asyncio.new_event_loop() if loop is None else loop
        self._owns_connections = connections is None
        self._connections = ConnectionAuthority() if connections is None else connections
        self._shares: dict[ConnectionSpec, _Share] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where its coroutines run."""
        return self._loop

    @property
    def connections(self) -> ConnectionAuthority:
        """Who opens the connections; says how they stand."""
        return self._connections

    def request_transport(self, computer: HasConnection | ConnectionSpec) -> TransportRequest:
        """A request for a transport, to be entered with ``async with`` or ``with``, and awaited inside.

        Awaiting it raises a :class:`~treadle.engine.errors.TransportError` if the computer cannot be reached. If that
        was so before, it waits until the computer can be reached again.
        """
        spec = computer if isinstance(computer, ConnectionSpec) else computer.connection
        return TransportRequest(self, spec)

    def close(self) -> None:
        """Take no more requests; closes what the queue has of its own: connections, and a loop that does not run.

        :raises StopTimeout: something on a connection of the queue's own does not end.
        """
        self._closed = True
        try:
            if self._owns_connections:
                self._connections.stop()
        finally:
            if self._owns_loop and not self._loop.is_running():
                self._loop.close()

    # -- of requests -----------------------------------------------------------------------------------------

    def _join(self, spec: ConnectionSpec) -> _Share:
        if asyncio._get_running_loop() is not self._loop:
            raise WrongThread(
                "request_transport() was entered on another loop than its queue's; give each loop a TransportQueue "
                'of its own, with the same connections'
            )
        if self._closed:
            raise TransportClosed('the transport queue was closed; create another')
        share = self._shares.get(spec)
        if share is None or not share.is_of_use:
            # An old one that has broken is handed back by the last of those who have it.
            share = self._shares[spec] = _Share(self._connections.lease(spec))
        share.requests += 1
        return share

    def _leave(self, spec: ConnectionSpec, share: _Share) -> None:
        share.requests -= 1
        if share.requests:
            return
        if self._shares.get(spec) is share:
            del self._shares[spec]
        if not share.lease.cancel():
            # Done, or about to be.
            share.lease.add_done_callback(_release)


def _release(lease: Future[Lease]) -> None:
    if not lease.cancelled() and lease.exception(0) is None:
        lease.result(0).release()


class TransportRequest:
    """One coroutine's request for a transport; see :meth:`TransportQueue.request_transport`."""

    def __init__(self, queue: TransportQueue, spec: ConnectionSpec) -> None:
        self._queue = queue
        self._spec = spec
        self._share: _Share | None = None

    def __enter__(self) -> Self:
        if self._share is not None:
            raise RuntimeError('a request for a transport is entered once; make another')
        self._share = self._queue._join(self._spec)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        share, self._share = self._share, None
        if share is not None:
            self._queue._leave(self._spec, share)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __await__(self) -> Generator[object, None, AsyncTransport]:
        return self._transport().__await__()

    async def _transport(self) -> AsyncTransport:
        if self._share is None:
            raise RuntimeError(
                'a request for a transport is awaited inside of its block: '
                '`async with queue.request_transport(computer) as request: transport = await request`'
            )
        return (await wait_on_loop(self._share.lease)).transport
