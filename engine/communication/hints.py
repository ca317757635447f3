"""Hints between the engines of a store: that one has committed something which may concern another.

A hint is a few letters, is sent at most once every few milliseconds however much was committed, and may get lost: each
engine looks at the store by itself, only later.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from ...threads import Bridge, Forked, LoopClosed
from ..errors import UnroutableError
from .lifeline import Lifeline
from .messages import HINT_CHANGES, HINT_WORK
from .session import HINT_EXCHANGE, Outgoing, Session, SessionLost

__all__ = ['Hints']

LOGGER = logging.getLogger(__name__)

#: Seconds between two hints of one engine.
GAP: Final = 0.004


class Hints:
    """Sends and hears hints.

    :param identity: what tells this communicator's hints from others'.
    :param on_hint: called on the loop with the letters of another engine's hint; must not block.
    """

    def __init__(self, lifeline: Lifeline, identity: str, on_hint: Callable[[str], object] | None) -> None:
        self._lifeline = lifeline
        self._identity = identity
        self._on_hint = on_hint
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._sent_at = 0.0
        self._publishing: set[asyncio.Task[None]] = set()
        self._bridge: Bridge | None = None
        self._is_scheduled = False

    @property
    def are_heard(self) -> bool:
        """Whether those of other engines are listened to."""
        return self._on_hint is not None

    def begin(self, bridge: Bridge) -> None:
        """Send from now on, and first what was hinted before.

        :param bridge: the way to the loop, which runs.
        """
        with self._lock:
            self._bridge = bridge
        self.send('')

    def send(self, letters: str) -> None:
        """Hint soon; from any thread, never waiting."""
        with self._lock:
            self._pending.update(letters)
            bridge = self._bridge
            if bridge is None or self._is_scheduled or not self._pending:
                return
            self._is_scheduled = True
        try:
            bridge.post(self._schedule)
        except (LoopClosed, Forked) as error:
            LOGGER.debug('no hint is sent: %s', error)

    def _schedule(self) -> None:
        wait = self._sent_at + GAP - time.monotonic()
        if wait <= 0:
            self._publish()
        else:
            asyncio.get_running_loop().call_later(wait, self._publish)

    def _publish(self) -> None:
        with self._lock:
            self._is_scheduled = False
            letters = ''.join(sorted(self._pending))
            self._pending.clear()
        self._sent_at = time.monotonic()
        session = self._lifeline.current
        if session is not None and letters:
            message = Outgoing(
                exchange=HINT_EXCHANGE, routing_key='', body=letters.encode('ascii'), correlation_id=self._identity
            )
            task = asyncio.get_running_loop().create_task(self._send(session, message), name='a hint is sent')
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _send(self, session: Session, message: Outgoing) -> None:
        try:
            await session.publish(message)
        except (SessionLost, UnroutableError) as error:
            LOGGER.debug('a hint was lost with the connection: %s', error)

    async def on_hint(self, channel: Channel, message: DeliveredMessage) -> None:
        """Another engine, or this one, has hinted."""
        if message.header.properties.correlation_id == self._identity or self._on_hint is None:
            return
        letters = message.body[:8].decode('ascii', 'replace')
        self._on_hint(''.join(each for each in (HINT_WORK, HINT_CHANGES) if each in letters))
