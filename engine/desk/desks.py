"""All desks of an engine: which computers have one, on which worker's loop, and who wakes them."""

from __future__ import annotations

import asyncio
import logging
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from ...threads import Bridge, CrossingFuture, LoopClosed
from ..errors import EngineStopped
from ..jobs.computer import Computer
from ..store.jobs import claim_jobs
from ..transports import AsyncTransport, TransportQueue
from .desk import Desk
from .timing import Timing

if TYPE_CHECKING:
    from ..parts import EngineParts

__all__ = ['DeskRoom', 'Desks']

LOGGER = logging.getLogger(__name__)


class DeskRoom:
    """The desks on one loop, which share its transports.

    :param bridge: the way into the loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, bridge: Bridge, parts: EngineParts, timing: Timing
    ) -> None:
        self._bridge = bridge
        self._parts = parts
        self._timing = timing
        self._queue = TransportQueue(loop, connections=parts.connections)
        self._desks: dict[str, tuple[Desk, asyncio.Task[None]]] = {}
        self._closed = False

    def post_open(self, name: str) -> None:
        """Have a desk for a computer, which makes a round soon; from any thread."""
        self._bridge.post(self._open, name)

    def post_ask(self) -> None:
        """Have each desk make a round soon; from any thread."""
        if self._desks:
            self._bridge.post(self._ask)

    def _ask(self) -> None:
        for desk, _ in self._desks.values():
            desk.ask()

    def _open(self, name: str) -> None:
        if self._closed:
            return
        there = self._desks.get(name)
        if there is not None:
            there[0].ask()
            return
        desk = Desk(name, parts=self._parts, borrow=self._transport_to, timing=self._timing)
        task = asyncio.get_running_loop().create_task(desk.serve(), name=f'desk of {name}')
        self._desks[name] = desk, task
        task.add_done_callback(lambda done: self._left(name, desk, done))

    def _left(self, name: str, desk: Desk, task: asyncio.Task[None]) -> None:
        self._desks.pop(name, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            if desk.is_asked:  # in the moment in which it found that nothing was left
                self._open(name)
        elif isinstance(error, (EngineStopped, LoopClosed)):
            LOGGER.debug('the desk of %s closes: %s', name, error)
        else:
            LOGGER.critical('the desk of %s failed; another one is opened with its next job', name, exc_info=error)

    @asynccontextmanager
    async def _transport_to(self, computer: Computer) -> AsyncIterator[AsyncTransport]:
        async with self._queue.request_transport(computer) as request:
            yield await request

    def finish_kills(self) -> CrossingFuture[None]:
        """Have each desk begin nothing any more but to end jobs of killed processes; done when none may run on.

        From any thread.

        :raises LoopClosed: the loop stops.
        """
        return self._bridge.submit(self._finish_kills)

    async def _finish_kills(self) -> None:
        await asyncio.gather(*(desk.finish_kills() for desk, _ in self._desks.values()))

    async def close(self) -> None:
        """End all desks; what they are about is taken up again by whoever comes next."""
        self._closed = True
        tasks = [task for _, task in self._desks.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._queue.close()


class Desks:
    """The desks of an engine.

    :param timing: how patient they are.
    """

    def __init__(self, *, parts: EngineParts, timing: Timing) -> None:
        self._parts = parts
        self._timing = timing
        self._rooms: list[DeskRoom] = []
        self._lock = threading.Lock()
        # What was asked for before there was a room.
        self._early: set[str] = set()

    def make_room(self, loop: asyncio.AbstractEventLoop, bridge: Bridge) -> DeskRoom:
        """Have desks on a loop, too; on it."""
        room = DeskRoom(loop, bridge=bridge, parts=self._parts, timing=self._timing)
        with self._lock:
            self._rooms.append(room)
            early, self._early = self._early, set()
        self.open(early)
        return room

    def open(self, computers: Iterable[str]) -> None:
        """There are jobs for these computers; from any thread."""
        for name in computers:
            with self._lock:
                if not self._rooms:
                    self._early.add(name)
                    continue
                # The same for each name; once a worker has come, another room may be meant, which does no harm.
                room = self._rooms[zlib.crc32(name.encode()) % len(self._rooms)]
            _tolerant(partial(room.post_open, name))

    def ask(self) -> None:
        """Something was killed, paused or played: each desk makes a round soon; from any thread."""
        for room in list(self._rooms):
            _tolerant(room.post_ask)

    def finish_kills(self) -> list[CrossingFuture[None]]:
        """See :meth:`DeskRoom.finish_kills`; one future for each loop. From any thread."""
        finishing: list[CrossingFuture[None]] = []
        for room in list(self._rooms):
            try:
                finishing.append(room.finish_kills())
            except LoopClosed:
                LOGGER.debug('a worker has stopped before its desks')
        return finishing

    def look(self, origins: Collection[int] | None) -> None:
        """Take up jobs that nobody looks after; where blocking is allowed.

        :param origins: see :func:`~treadle.engine.store.jobs.claim_jobs`.
        :raises StoreError: the store does not answer.
        """
        if self._parts.source.reader.has_free_jobs():
            self.open(self._parts.store.call(lambda transaction: claim_jobs(transaction, origins)).result())


def _tolerant(act: Callable[[], None]) -> None:
    try:
        act()
    except LoopClosed:
        LOGGER.debug('a worker has stopped before its desks were told')
