"""What comes in by the broker: decoded, handed to the subscribers of this OS process, answered and acknowledged.

A task is acknowledged as soon as its subscriber has returned, which for a launcher means that what it has asked for is
in the store; the final answer may come much later. A task that no subscriber here takes is offered to others, with
growing pauses, and rejected for good when all have rejected it. Whatever else is wrong with a message, it is answered
or rejected with a logged reason, and never comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Hashable
from concurrent.futures import CancelledError, Future
from typing import Any, Final

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from kiwipy.rmq import defaults

from ...threads import wait_on_loop
from ..errors import (
    CommunicatorClosed,
    EngineStopped,
    InvalidMessage,
    StoreError,
    TaskInvalid,
    TaskRejected,
    TreadleError,
)
from . import answers
from .connection import delivery_of, tag_of
from .deliveries import AnsweredAgain, AnsweredLater, TaskOrigin
from .link import Link
from .local import LocalCommunicator, as_pid
from .session import Outgoing
from .wire import decode

__all__ = ['Incoming']

LOGGER = logging.getLogger(__name__)

#: Bytes from which on a body is decoded on another thread, so that the loop goes on meanwhile.
LARGE: Final = 64 * 1024
#: Kinds of content that are read; ``kiwipy`` names none.
_CONTENT_TYPES: Final = frozenset(
    (None, '', 'application/json', 'application/yaml', 'application/x-yaml', 'text/yaml', 'text/x-yaml', 'text/plain')
)
_ENCODINGS: Final = frozenset((None, '', 'utf-8', 'utf8', 'identity'))

#: Who has rejected a task before, why, and how often it was offered; in its headers.
_REJECTED_BY, _REASONS, _OFFERS = 'treadle-rejected-by', 'treadle-reasons', 'treadle-offers'
#: So often a rejected task is offered again; seconds before the first time, and at most.
OFFERS: Final = 12
OFFER_FIRST, OFFER_MOST = 0.05, 5.0
#: Seconds after which a task goes back to the queue that came while the store was away: the first time, and at most.
GIVE_BACK_AFTER, GIVE_BACK_MOST = 1.0, 30.0
#: How many tasks that went back are remembered, with how often.
MOST_REMEMBERED: Final = 1000
#: The same for an RPC to a pid that another engine can answer.
LEAVE_AFTER: Final = 0.05


class Incoming:
    """Receives messages for the subscribers of one OS process.

    :param local: hands messages to the subscribers.
    :param identity: what tells this communicator from others.
    """

    def __init__(self, local: LocalCommunicator, link: Link, identity: str) -> None:
        self._local = local
        self._link = link
        self._identity = identity
        self._undone: set[Future[Any]] = set()
        self._offering: set[asyncio.Task[None]] = set()
        # How often a message went back; the last one is the one that did so last.
        self._gave_back: dict[Hashable, int] = {}

    # -- broadcasts ----------------------------------------------------------------------------------------

    async def on_broadcast(self, channel: Channel, message: DeliveredMessage) -> None:
        """Hand a broadcast to whoever hears it."""
        if message.header.properties.message_type == STATE_CHANGED and not self._local.is_heard:
            return  # the most frequent ones by far; they ask nothing of any process
        try:
            said = await _read(message)
            if not isinstance(said, dict) or 'body' not in said:
                raise InvalidMessage('a broadcast is {"body": ..., "sender": ..., "subject": ..., ...}')
            self._local.broadcast_send(
                said['body'], said.get('sender'), said.get('subject'), said.get('correlation_id')
            )
        except InvalidMessage as error:
            LOGGER.warning('a broadcast is dropped: %s', error)
        except CommunicatorClosed as error:
            LOGGER.debug('a broadcast is dropped: %s', error)

    # -- RPCs ----------------------------------------------------------------------------------------------

    async def on_pid_rpc(self, channel: Channel, message: DeliveredMessage) -> None:
        """Answer an RPC to a pid; one to a name has come here too, and is for others."""
        routing_key = delivery_of(message).routing_key or ''
        recipient = routing_key.removeprefix(f'{defaults.RPC_TOPIC}.')
        named = {str(each) for each in self._local.recipients()}
        if as_pid(recipient) is None or recipient in named:
            await channel.basic_ack(tag_of(message))
        else:
            await self._on_rpc(recipient, channel, message, has_others=True)

    async def on_named_rpc(self, name: Hashable, channel: Channel, message: DeliveredMessage) -> None:
        """Answer an RPC to a named subscriber."""
        await self._on_rpc(name, channel, message)

    async def _on_rpc(
        self, recipient: Hashable, channel: Channel, message: DeliveredMessage, *, has_others: bool = False
    ) -> None:
        try:
            said = await _read(message)
            answer = self._local.rpc_send(recipient, said)
        except TreadleError as error:
            if has_others and isinstance(error, CommunicatorClosed):
                self._link.track(self._leave_rpc_to_others(channel, message, error), 'an RPC is left to others')
                return
            if isinstance(error, InvalidMessage):
                LOGGER.warning('an RPC to %r is rejected: %s', recipient, error)
            await channel.basic_ack(tag_of(message))
            self._reply(message, answers.failed(error))
            return
        answer.add_done_callback(lambda done: self._link.soon(self._rpc_done, channel, message, has_others, done))

    def _rpc_done(
        self, channel: Channel, message: DeliveredMessage, has_others: bool, done: Future[Any]
    ) -> None:
        error = None if done.cancelled() else done.exception()
        if has_others and error is not None and _is_of_the_engine(error):
            self._link.track(self._leave_rpc_to_others(channel, message, error), 'an RPC is left to others')
            return
        # Only now: if this OS process had died, another engine would have got it.
        _in_background(channel.basic_ack(tag_of(message)))
        self._answer(message, done)

    async def _leave_rpc_to_others(
        self, channel: Channel, message: DeliveredMessage, error: BaseException
    ) -> None:
        """This engine stops or has crashed, which is no answer while there is another one to give one."""
        try:
            if await self._link.others_answer_for_pids():
                LOGGER.debug('an RPC is left to others: %s', error)
                # It may be dealt to this engine again. Unacknowledged meanwhile: others get it if this OS process dies.
                await asyncio.sleep(LEAVE_AFTER)
                await channel.basic_nack(tag_of(message), requeue=True)
                return
            await channel.basic_ack(tag_of(message))
        except Exception as failure:  # the connection is lost, and it comes again, here or elsewhere
            LOGGER.debug('an RPC goes back to the queue: %r', failure)
            return
        self._reply(message, answers.failed(error))

    def _answer(self, message: DeliveredMessage, done: Future[Any]) -> None:
        """Tell the sender what has come out, or that it will take longer."""
        try:
            result = done.result()
        except (Exception, CancelledError) as error:
            self._reply(message, answers.failed(error))
            return
        if not isinstance(result, Future):
            self._reply(message, answers.result(result))
            return
        self._reply(message, answers.pending())
        result.add_done_callback(lambda final: self._link.soon(self._answer, message, final))

    def _reply(self, message: DeliveredMessage, body: bytes) -> None:
        if message.header.properties.reply_to:
            self._link.reply(_answer_to(message, body))

    # -- tasks ---------------------------------------------------------------------------------------------

    async def on_task(self, channel: Channel, message: DeliveredMessage) -> None:
        """Have a task done by a subscriber."""
        properties = message.header.properties
        try:
            task, no_reply = _task_in(await _read(message))
        except InvalidMessage as error:
            LOGGER.warning('a task is rejected: %s', error)
            await self._reject(channel, message, False, TaskRejected(str(error)))
            return
        origin = None
        if properties.correlation_id:
            origin = TaskOrigin(
                properties.correlation_id,
                None if no_reply else properties.reply_to or None,
                is_redelivered=bool(delivery_of(message).redelivered),
            )
        try:
            answer = self._local.deliver_task(task, no_reply=no_reply, origin=origin)
        except CommunicatorClosed:
            await channel.basic_nack(tag_of(message), requeue=True)
            return
        self._undone.add(answer)
        answer.add_done_callback(lambda done: self._link.soon(self._task_done, channel, message, no_reply, done))
        if not self._local.takes_tasks:  # the last subscriber has gone a moment ago
            self.hand_back_tasks()

    def hand_back_tasks(self) -> None:
        """Put what no subscriber has begun back into the queue."""
        for answer in list(self._undone):
            answer.cancel()

    def _task_done(
        self, channel: Channel, message: DeliveredMessage, no_reply: bool, done: Future[Any]
    ) -> None:
        self._undone.discard(done)
        if channel.is_closed:
            return  # with the connection on which it came: it comes again, and is answered then
        error = CancelledError() if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(error, (CommunicatorClosed, EngineStopped)):
            _in_background(channel.basic_nack(tag_of(message), requeue=True))
        elif isinstance(error, TaskInvalid):
            self._keep(self._reject(channel, message, no_reply, error))
        elif error is not None and isinstance(error.__cause__, (StoreError, EngineStopped)):
            # That is no verdict on the task. Unacknowledged meanwhile, it comes again at once if this OS process dies.
            LOGGER.warning('a task goes back to the queue: %s', error)
            self._keep(self._give_back_later(channel, message))
        elif isinstance(error, TaskRejected):
            self._keep(self._offer_to_others(channel, message, no_reply, error))
        elif error is None and isinstance(later := done.result(), AnsweredLater):
            self._keep(self._leave_the_answer_to_others(channel, message, later))
        elif error is None and isinstance(again := done.result(), AnsweredAgain):
            self._keep(self._answer_first(channel, message, no_reply, again))
        else:
            _in_background(channel.basic_ack(tag_of(message)))
            if not no_reply:
                self._answer(message, done)

    def _keep(self, dealing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(dealing, name='a task goes back to the broker')
        self._offering.add(task)
        task.add_done_callback(self._offering.discard)

    async def _leave_the_answer_to_others(
        self, channel: Channel, message: DeliveredMessage, later: AnsweredLater
    ) -> None:
        """Tell the sender that the answer follows; only then may anybody send it, and only then is the task done."""
        try:
            if later.says_so and message.header.properties.reply_to:
                await self._link.send(_answer_to(message, answers.pending()))
            await wait_on_loop(later.put_on_record())
            await channel.basic_ack(tag_of(message))
        except Exception as error:  # it comes again, and is known by then
            LOGGER.debug('a task goes back to the queue: %r', error)
            await self._give_back_later(channel, message)

    async def _answer_first(
        self, channel: Channel, message: DeliveredMessage, no_reply: bool, answered: AnsweredAgain
    ) -> None:
        """Answer the sender, and only then have done with the task."""
        said = [answers.pending()] if answered.says_so else []
        try:
            await self._tell(message, no_reply, *said, answers.result(answered.answer))
            await channel.basic_ack(tag_of(message))
        except Exception as error:  # it comes again, and leads to the same
            LOGGER.debug('a task goes back to the queue: %r', error)
            await self._give_back_later(channel, message)

    async def _reject(self, channel: Channel, message: DeliveredMessage, no_reply: bool, error: Exception) -> None:
        """Tell the sender that nobody does the task, and only then have done with it."""
        try:
            await self._tell(message, no_reply, answers.failed(error))
            await channel.basic_reject(tag_of(message), requeue=False)
        except Exception as failure:  # it comes again, and is rejected again
            LOGGER.debug('a rejected task goes back to the queue: %r', failure)
            await self._give_back_later(channel, message)

    async def _tell(self, message: DeliveredMessage, no_reply: bool, *said: bytes) -> None:
        if message.header.properties.reply_to and not no_reply:
            await asyncio.gather(*(self._link.send_answer(_answer_to(message, body)) for body in said))

    async def on_failure(self, channel: Channel, message: DeliveredMessage) -> None:
        """Nobody knows what to do about what one of the above has raised; it may go away."""
        await self._give_back_later(channel, message)

    async def _give_back_later(self, channel: Channel, message: DeliveredMessage) -> None:
        """Put what cannot be dealt with now back into its queue, each time later: it may be in vain as often as not."""
        mark = _mark_of(message)
        times = self._gave_back.pop(mark, 0)
        self._gave_back[mark] = times + 1
        if len(self._gave_back) > MOST_REMEMBERED:
            del self._gave_back[next(iter(self._gave_back))]
        await asyncio.sleep(min(GIVE_BACK_AFTER * 2 ** min(times, 10), GIVE_BACK_MOST))
        _in_background(channel.basic_nack(tag_of(message), requeue=True))

    async def _offer_to_others(
        self, channel: Channel, message: DeliveredMessage, no_reply: bool, error: TaskRejected
    ) -> None:
        """All subscribers here have rejected a task: let others see it, unless they have rejected it as well."""
        properties = message.header.properties
        headers = dict(properties.headers or {})
        rejected_by = {*_texts(headers.get(_REJECTED_BY)), self._identity}
        reasons = list(dict.fromkeys([*_texts(headers.get(_REASONS)), str(error)]))
        offers = headers.get(_OFFERS)
        offers = offers if isinstance(offers, int) and offers >= 0 else 0
        try:
            if len(rejected_by) >= await self._link.count_task_consumers() or offers >= OFFERS:
                final = TaskRejected('; '.join(reasons))
                LOGGER.warning('nobody takes a task: %s', final)
                await self._reject(channel, message, no_reply, final)
                return
            # Unacknowledged meanwhile: if this OS process dies, the task is offered at once.
            await asyncio.sleep(min(OFFER_FIRST * 2**offers, OFFER_MOST))
            await self._link.send(
                Outgoing(
                    exchange='',
                    routing_key=defaults.TASK_QUEUE,
                    body=message.body,
                    mandatory=True,
                    persistent=True,
                    correlation_id=properties.correlation_id,
                    reply_to=properties.reply_to,
                    headers={
                        **headers,
                        _REJECTED_BY: sorted(rejected_by),
                        _REASONS: reasons,
                        _OFFERS: offers + 1,
                    },
                )
            )
            await channel.basic_ack(tag_of(message))
        except Exception as failure:
            # The connection is lost, or closes: the broker gives the task to others. Or it has not confirmed in time.
            LOGGER.debug('a rejected task goes back to the queue: %r', failure)
            await self._give_back_later(channel, message)


#: What the broadcasts of changes of state are marked with.
STATE_CHANGED: Final = 'state_changed'


async def _read(message: DeliveredMessage) -> Any:
    """What a message says.

    :raises InvalidMessage: it is refused; says why.
    """
    properties = message.header.properties
    if properties.content_type not in _CONTENT_TYPES:
        raise InvalidMessage(f'its content is {properties.content_type!r}; YAML, or JSON, is what is read')
    if properties.content_encoding not in _ENCODINGS:
        raise InvalidMessage(f'its content is encoded as {properties.content_encoding!r}; UTF-8 is what is read')
    if len(message.body) > LARGE:
        return await asyncio.to_thread(decode, message.body)
    return decode(message.body)


def _task_in(said: Any) -> tuple[Any, bool]:
    if not isinstance(said, (list, tuple)) or len(said) != 2 or not isinstance(said[1], bool):
        raise InvalidMessage('a task is sent as a pair: what is to be done, and whether no reply is wanted')
    return said[0], said[1]


def _answer_to(message: DeliveredMessage, body: bytes) -> Outgoing:
    properties = message.header.properties
    # By the exchange that knows every queue by its name.
    return Outgoing(
        exchange='', routing_key=properties.reply_to or '', body=body, correlation_id=properties.correlation_id
    )


def _mark_of(message: DeliveredMessage) -> Hashable:
    """What a message has in common with itself when it is delivered again."""
    return delivery_of(message).routing_key, message.header.properties.correlation_id, hash(message.body)


def _is_of_the_engine(error: BaseException) -> bool:
    """Whether it says that this engine takes no calls, and nothing about what was asked."""
    return any(isinstance(each, (CommunicatorClosed, EngineStopped)) for each in (error, error.__cause__))


def _texts(header: Any) -> list[str]:
    return [each for each in header if isinstance(each, str)] if isinstance(header, list) else []


_background: set[asyncio.Task[Any]] = set()


def _in_background(coroutine: Any) -> None:
    """Acknowledge, or give back; if that fails the connection is lost, and the message comes again."""

    async def run() -> None:
        try:
            await coroutine
        except Exception as error:
            LOGGER.debug('a message could not be acknowledged: %r', error)

    task = asyncio.get_running_loop().create_task(run(), name='a message is acknowledged')
    _background.add(task)
    task.add_done_callback(_background.discard)
