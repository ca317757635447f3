"""The side of the RabbitMQ communicator that lives on its loop: the thread, the connection, and what is on its way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from ...threads import CrossingFuture, Forked, LoopClosed, LoopThread, StopTimeout, wait
from ..errors import BrokerUnavailable, InvalidMessage, MessageNotSent, UnroutableError
from . import answers
from .address import BrokerAddress
from .hints import Hints
from .lifeline import Lifeline, publish_until
from .outbox import Outbox
from .session import Outgoing, Receivers, Session, SessionLost, TooLarge, Wanted

__all__ = ['SEND_TIMEOUT', 'Link']

LOGGER = logging.getLogger(__name__)

#: Seconds in which a task or an RPC is handed to the broker, or its sender is told that it was not.
SEND_TIMEOUT: Final = 10.0
#: Tasks, RPCs and answers that are on their way to the broker; more are refused.
MOST_SENDING: Final = 10_000
#: Seconds in which a thread ends that could not connect.
GIVING_UP: Final = 5.0


class Link:
    """Sends what it is given, from any thread, and has what comes in received.

    :param identity: what tells this communicator from others.
    :param wanted: what is to be consumed at present.
    :param on_hint: see :class:`.hints.Hints`.
    :param send_timeout: seconds in which a message is handed to the broker, or fails.
    :ivar answers_queue: where answers are to go.
    :ivar receivers: who is given what comes in; set before the start.
    :ivar store: what identifies the store that the virtual host is for; if that is another's, the broker is of no use.
        ``None`` leaves it unchecked.
    """

    receivers: Receivers

    def __init__(
        self,
        address: BrokerAddress,
        *,
        name: str,
        identity: str,
        wanted: Callable[[], Wanted],
        on_hint: Callable[[str], object] | None,
        debug: bool | None,
        slow_callback: float | None,
        send_timeout: float,
    ) -> None:
        self._address = address
        self._name = name
        self._wanted = wanted
        self._send_timeout = send_timeout
        self.answers_queue = f'treadle-answers-{identity}'
        self.store: str | None = None
        self.lifeline = Lifeline(f'the broker {address}', open_session=self._open_session, set_up=self._set_up)
        self.outbox = Outbox(self.lifeline)
        self.hints = Hints(self.lifeline, identity, on_hint)
        self._sending: set[asyncio.Task[Any]] = set()
        self._publishing: asyncio.Task[None] | None = None
        self.thread = LoopThread(
            'treadle-communicator', debug=debug, slow_callback=slow_callback, main=self._main
        )

    # -- starting and closing, from other threads ------------------------------------------------------------

    def start(self, timeout: float | None, *, is_needed: bool) -> None:
        """Start the thread, and connect; see :meth:`.RabbitCommunicator.start`."""
        self.lifeline.is_patient = not is_needed
        try:
            self.thread.start(timeout)
            self._wait_until_connected(timeout, is_needed=is_needed)
            self.hints.begin(self.thread.bridge)
        except BaseException as error:
            self.thread.request_stop()
            with contextlib.suppress(StopTimeout):
                self.thread.join(GIVING_UP)
            if isinstance(error, TimeoutError):
                raise BrokerUnavailable(
                    f'the broker {self._address} ({self._address.source}) did not answer within {timeout:g} s'
                ) from None
            raise

    def _wait_until_connected(self, timeout: float | None, *, is_needed: bool) -> None:
        try:
            wait(self.lifeline.connected, timeout, what='start()')
        except TimeoutError:
            if is_needed:
                raise
            self.lifeline.wait_no_longer()

    def drain(self, timeout: float) -> None:
        """Have all sent that was taken, and all received that has come by then; nothing is consumed after that."""
        self._run_to_end(self._drain, timeout)

    def drain_answers(self, timeout: float) -> None:
        """Have all answers sent, and all received that have come by then."""
        self._run_to_end(self._drain_answers, timeout)

    def _run_to_end(self, drain: Callable[[float], Coroutine[Any, Any, None]], timeout: float) -> None:
        try:
            wait(self.thread.bridge.submit(drain, timeout), timeout + 1.0, what='close()')
        except (LoopClosed, TimeoutError) as error:
            LOGGER.debug('%r: closing goes on without what is on its way: %s', self._name, error)

    # -- from any thread -------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self.lifeline.current is not None

    def submit(self, message: Outgoing) -> CrossingFuture[None]:
        """Send; resolves when the broker has it, to ``UnroutableError``, or to ``MessageNotSent`` if not in time."""
        return self.thread.bridge.submit(self._submit, message)

    def submit_answer(self, message: Outgoing, instead: str) -> CrossingFuture[None]:
        """:meth:`send_answer`; resolves as for :meth:`submit`."""
        return self.thread.bridge.submit(self._submit, message, instead)

    def sync(self) -> None:
        """Consume what is wanted now; returns when the broker knows, if it is there."""
        with contextlib.suppress(LoopClosed, TimeoutError):  # it closes; or it is consumed when the broker is there
            wait(self.thread.bridge.submit(self._sync), self._send_timeout, what='subscribing')

    def sync_soon(self) -> None:
        """:meth:`sync`, without waiting for it."""
        with contextlib.suppress(LoopClosed):
            self.thread.bridge.submit(self._sync)

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback on the loop."""
        with contextlib.suppress(LoopClosed, Forked):  # it closes: what was not acknowledged comes again
            self.thread.bridge.post(callback, *args)

    # -- on the loop -----------------------------------------------------------------------------------------

    async def _main(self, thread: LoopThread) -> None:
        self._publishing = asyncio.create_task(self.outbox.run(), name='broadcasts are published')
        await self.lifeline.run(thread)

    async def send(self, message: Outgoing) -> None:
        """Send, and return when the broker has confirmed.

        :raises MessageNotSent: not in time.
        :raises UnroutableError: nobody is there for it.
        """
        deadline = time.monotonic() + self._send_timeout
        await publish_until(self.lifeline, deadline, lambda session: session.publish(message))

    async def send_answer(self, message: Outgoing, instead: str = '') -> None:
        """:meth:`send`, or if the broker finds the answer too large, send an error that says so.

        :param instead: what that says besides.
        """
        try:
            await self.send(message)
        except TooLarge as error:
            failure = InvalidMessage(f'{error}; {instead}' if instead else str(error))
            await self.send(msgspec.structs.replace(message, body=answers.failed(failure)))

    def reply(self, message: Outgoing) -> None:
        """Send an answer; what cannot be sent in time is logged."""
        self._track(self._reply(message), 'an answer is sent')

    async def _reply(self, message: Outgoing) -> None:
        try:
            await self.send_answer(message)
        except (MessageNotSent, UnroutableError) as error:
            LOGGER.warning('an answer was not sent: %s', error)

    async def count_task_consumers(self) -> int:
        """How many consume the task queue."""
        session = await self.lifeline.session(time.monotonic() + self._send_timeout)
        return await session.count_task_consumers()

    async def others_answer_for_pids(self) -> bool:
        """Whether another communicator takes RPCs to pids."""
        session = await self.lifeline.session(time.monotonic() + self._send_timeout)
        return await session.others_answer_for_pids()

    def track(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        """Do something that closing waits for, as for what is on its way to the broker."""
        self._track(coroutine, name)

    async def _submit(self, message: Outgoing, instead: str | None = None) -> None:
        if len(self._sending) >= MOST_SENDING:
            raise MessageNotSent(
                f'{len(self._sending)} messages are on their way to the broker {self._address} already; send fewer at '
                f'a time, or wait for their answers'
            )
        sending = self.send(message) if instead is None else self.send_answer(message, instead)
        await self._track(sending, 'a message is sent')

    def _track(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _open_session(self) -> Session:
        return await Session.open(
            self._address,
            self.receivers,
            answers=self.answers_queue,
            store=self.store,
            name=f'treadle {self._name}',
            hints=self.hints.are_heard,
        )

    async def _set_up(self, session: Session) -> None:
        # Who subscribes meanwhile finds no session yet. So it is looked once more, until nobody has; between that look
        # and when the session is found, nothing else runs on this loop.
        known: Wanted | None = None
        while known != (wanted := self._wanted()):
            await session.sync(wanted)
            known = wanted

    async def _sync(self) -> None:
        session = self.lifeline.current
        if session is None:
            return  # the one that is set up, or the next one, begins with what is wanted
        try:
            await session.sync(self._wanted())
        except Exception as error:
            LOGGER.debug('%r: subscribing failed, and is done again with the next connection: %r', self._name, error)

    async def _drain(self, seconds: float) -> None:
        self.outbox.close()
        await self._catch_up(seconds)
        session = self.lifeline.current
        if session is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1.0):
                    await session.sync(Wanted(False, False, False, frozenset()))

    async def _drain_answers(self, seconds: float) -> None:
        await self._catch_up(seconds)
        session = self.lifeline.current
        if session is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await session.delete_answers()

    async def _catch_up(self, seconds: float) -> None:
        if self.lifeline.current is None:
            return  # nobody waits for a broker that is away
        with contextlib.suppress(TimeoutError, SessionLost):  # what is lost now comes no more
            async with asyncio.timeout(seconds):
                if self._publishing is not None and self.outbox.is_closed:
                    await asyncio.wait([self._publishing])
                while self._sending:
                    await asyncio.wait(self._sending)
                session = self.lifeline.current
                if session is not None:
                    await session.catch_up()
