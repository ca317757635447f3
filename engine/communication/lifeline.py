"""Keeps a session with the broker: made anew when it is lost, with growing pauses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from typing import Final

from ...threads import LoopThread
from ..errors import BrokerError, BrokerRefused, BrokerUnavailable, MessageNotSent
from .connection import unless_stuck
from .session import Session, SessionLost

__all__ = ['Lifeline']

LOGGER = logging.getLogger(__name__)

#: Seconds before connecting is tried again, at first and at most; each pause is shortened at random by up to half.
PAUSE_FIRST: Final = 0.1
PAUSE_MOST: Final = 10.0
#: Seconds that a session lasts, if there is nothing wrong with what is done on it.
MOMENT: Final = 1.0


class Lifeline:
    """The sessions of one communicator, one after the other; all but :attr:`connected` on its loop.

    :param where: the broker, as messages name it.
    :param open_session: opens one.
    :param set_up: called with each new one, to subscribe to what is subscribed to.
    :ivar is_patient: whether to go on trying when the broker is not there at first; one that refuses us is an error.
    :ivar connected: resolves when the first session is there, or is to be waited for; to the error, if there is to be
        none.
    """

    def __init__(
        self,
        where: str,
        *,
        open_session: Callable[[], Awaitable[Session]],
        set_up: Callable[[Session], Awaitable[None]],
    ) -> None:
        self._where = where
        self._open_session = open_session
        self._set_up = set_up
        self.is_patient = False
        self._session: Session | None = None
        self._changed = asyncio.Event()
        self._is_away = False
        self._refusal: str | None = None
        self.connected: Future[None] = Future()
        #: How often the connection was lost.
        self.losses = 0

    @property
    def current(self) -> Session | None:
        """The session, while there is one."""
        session = self._session
        return None if session is None or session.lost.done() else session

    async def session(self, deadline: float | None) -> Session:
        """The session, waited for.

        :param deadline: on the monotonic clock; ``None`` waits for ever.
        :raises MessageNotSent: there is none in time.
        """
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                while (session := self.current) is None:
                    # It may be set for one that was lost a moment ago: waiting would then not let go of the loop.
                    self._changed.clear()
                    await self._changed.wait()
                return session
        except TimeoutError:
            raise MessageNotSent(f'{self._where} is away; the message was not sent in time') from None

    def wait_no_longer(self) -> None:
        """Nobody waits for the first session any more, but it is made all the same; from any thread.

        :raises BrokerError: there was to be none, it was found out a moment before.
        """
        if not self._answer(None):
            self.connected.result(0)

    async def run(self, thread: LoopThread) -> None:
        """Keep a session until the thread stops; the main function of the thread."""
        session: Session | None = None
        pause = PAUSE_FIRST
        try:
            while True:
                session = await self._begin()
                if session is None:
                    return
                began = time.monotonic()
                reason = await session.lost
                self._session = None
                self._changed.clear()
                await session.close()
                self.losses += 1
                self._gone(reason)
                if time.monotonic() - began >= MOMENT:
                    pause = PAUSE_FIRST
                else:  # what has ended it may end the next one too
                    pause = await _pause(pause)
        finally:
            self._session = None
            self._changed.clear()
            if session is not None:
                await session.close()
            self._answer(BrokerUnavailable(f'{self._where} was not waited for'))

    async def _begin(self) -> Session | None:
        """A session, however long it takes; ``None`` if there is to be none."""
        pause = PAUSE_FIRST
        while True:
            try:
                with unless_stuck():
                    session = await self._open_session()
                    try:
                        await self._set_up(session)
                    except BaseException:
                        await session.close()
                        raise
            except Exception as error:
                reason = str(error) or type(error).__name__
                if not isinstance(error, BrokerError):  # it was lost while it was set up
                    LOGGER.debug('%s: setting up failed: %r', self._where, error)
                known = error if isinstance(error, BrokerError) else BrokerUnavailable(f'{self._where}: {reason}')
                is_final = not (self.is_patient and isinstance(known, BrokerUnavailable))
                if self._answer(known if is_final else None) and is_final:
                    return None
                self._gone(reason, is_refusal=isinstance(error, BrokerRefused))
            else:
                self._there(session)
                return session
            pause = await _pause(pause)

    def _answer(self, error: BrokerError | None) -> bool:
        """Tell who waits for the first session; whether anybody still does."""
        try:
            if error is None:
                self.connected.set_result(None)
            else:
                self.connected.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def _there(self, session: Session) -> None:
        self._session = session
        self._changed.set()
        self._answer(None)
        self._refusal = None
        if self._is_away:
            self._is_away = False
            LOGGER.info('%s is back', self._where)

    def _gone(self, reason: str, *, is_refusal: bool = False) -> None:
        is_news = is_refusal and reason != self._refusal  # which waiting does not mend
        if is_refusal:
            self._refusal = reason
        if not self._is_away or is_news:
            self._is_away = True
            LOGGER.warning(
                '%s is away (%s); everything goes on by the store alone, and it is tried again until it is back',
                self._where, reason,
            )  # fmt: skip
        else:
            LOGGER.debug('%s is still away: %s', self._where, reason)


async def _pause(seconds: float) -> float:
    """Pause; returns how long to pause the next time."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
    return min(2 * seconds, PAUSE_MOST)


async def publish_until(lifeline: Lifeline, deadline: float, publish: Callable[[Session], Awaitable[None]]) -> None:
    """Publish on the session, and again on the next one if it is lost meanwhile.

    :param deadline: on the monotonic clock.
    :raises MessageNotSent: it was not confirmed in time, or is too large.
    """
    while True:
        session = await lifeline.session(deadline)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await publish(session)
                return
        except TimeoutError:
            raise MessageNotSent('the broker did not confirm the message in time; it may be overloaded') from None
        except SessionLost as error:
            LOGGER.debug('a message is sent again: %s', error)
            with contextlib.suppress(asyncio.InvalidStateError):
                await asyncio.sleep(0)
