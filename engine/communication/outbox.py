"""What is sent and nobody waits for: broadcasts, in a mailbox of limited size, published many at a time."""

from __future__ import annotations

import asyncio
import logging
import queue
from typing import Final

from ...threads import LoopClosed, Mailbox
from ..errors import UnroutableError
from .lifeline import Lifeline
from .session import Outgoing, Session, SessionLost, TooLarge

__all__ = ['Outbox']

LOGGER = logging.getLogger(__name__)

#: How many broadcasts wait while the broker is slow or away; more are dropped.
CAPACITY: Final = 10_000
#: How many are published and not yet confirmed.
WINDOW: Final = 1_000


class Outbox:
    """Takes broadcasts from any thread without waiting, and publishes them in order while the broker is there.

    :ivar dropped: how many found no room.
    """

    def __init__(self, lifeline: Lifeline, *, capacity: int = CAPACITY) -> None:
        self._lifeline = lifeline
        self._mailbox: Mailbox[Outgoing] = Mailbox('broadcasts', maxsize=capacity)
        self._window = asyncio.Semaphore(WINDOW)
        self._unconfirmed: set[asyncio.Task[None]] = set()
        self._told_at = -1
        self.dropped = 0

    def __len__(self) -> int:
        """How many wait to be published."""
        return len(self._mailbox)

    def put(self, message: Outgoing) -> bool:
        """Have it published soon; ``False`` when there is no room and it is dropped. From any thread.

        :raises LoopClosed: nothing more is taken.
        """
        try:
            self._mailbox.put_nowait(message)
        except queue.Full:
            self.dropped += 1
            if self._told_at != self._lifeline.losses:  # once for each time that the broker is away
                self._told_at = self._lifeline.losses
                LOGGER.warning('broadcasts are dropped, since %d of them wait for the broker already', len(self))
            return False
        return True

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._mailbox.closed

    def close(self) -> None:
        """Take nothing more; what was taken is published still, if the broker is there."""
        self._mailbox.close()

    async def run(self) -> None:
        """Publish what is put in, to the end; a task on the loop."""
        while True:
            try:
                messages = await self._mailbox.get_batch()
            except LoopClosed:
                break
            for message in messages:
                session = await self._lifeline.session(None)
                await self._window.acquire()
                task = asyncio.create_task(self._publish(session, message))
                self._unconfirmed.add(task)
                task.add_done_callback(self._confirmed)
        if self._unconfirmed:
            await asyncio.wait(self._unconfirmed)

    def _confirmed(self, task: asyncio.Task[None]) -> None:
        self._unconfirmed.discard(task)
        self._window.release()

    async def _publish(self, session: Session, message: Outgoing) -> None:
        try:
            await session.publish(message)
        except (SessionLost, UnroutableError) as error:
            LOGGER.debug('a broadcast was lost with the connection: %s', error)
        except TooLarge as error:
            LOGGER.warning('a broadcast is dropped: %s', error)
