"""One connection's life: what is declared on it, who consumes, what is published; when it is lost, all of it is.

The exchanges and the task queue are ``kiwipy``'s, with its names and properties. The consumers are our own, since those
of ``kiwipy`` acknowledge a task only when it is done, want a queue for each pid, and fall over what does not decode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, TypeAlias

import msgspec
from aiormq import exceptions as amqp
from aiormq import spec
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from kiwipy.rmq import defaults

from ..errors import BrokerRefused, MessageNotSent, UnroutableError
from .address import BrokerAddress
from .connection import Connection, connect, tag_of, unless_stuck

__all__ = [
    'Outgoing',
    'Receivers',
    'Session',
    'SessionLost',
    'TooLarge',
    'Wanted',
    'can_be_name',
    'named_rpc_key',
    'rpc_key',
]

LOGGER = logging.getLogger(__name__)

#: Marks a virtual host as one store's; see :meth:`Session._claim_virtual_host`.
STORE_EXCHANGE: Final = 'treadle.store'
#: Where engines tell each other that they have committed something.
HINT_EXCHANGE: Final = 'treadle.hints'
#: RPCs to any pid; all engines of the store consume it, and it goes with the last of them.
PID_QUEUE: Final = 'treadle.pids'
#: Tasks, or RPCs to pids, that a session takes before it has dealt with those before them.
PREFETCH: Final = 100
#: Milliseconds that answers wait for a sender whose connection was lost.
ANSWERS_EXPIRE: Final = 10 * 60 * 1000
#: Seconds between two looks whether all consumers are there; the broker ends one when its queue is deleted.
LOOK: Final = 1.0
#: The broker's words when it closes a channel on which too large a message has come.
_SIZE_LIMIT: Final = re.compile(r'larger than (?:configured )?max size (\d+)')
#: Marks what a session sends to its own queues, to know that it has got all that was there before.
_FENCE: Final = 'treadle.fence'

Receiver: TypeAlias = Callable[[Channel, DeliveredMessage], Awaitable[None]]


class SessionLost(Exception):
    """The session is over before the broker had confirmed."""


class TooLarge(MessageNotSent):
    """The broker takes no message of that size, also not on another session."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be published.

    :ivar mandatory: whether it is an error if it reaches no queue.
    """

    exchange: str
    routing_key: str
    body: bytes
    mandatory: bool = False
    persistent: bool = False
    correlation_id: str | None = None
    reply_to: str | None = None
    kind: str | None = None
    headers: dict[str, Any] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What is to be consumed.

    :ivar names: the identifiers of RPC subscribers.
    """

    broadcasts: bool
    pids: bool
    tasks: bool
    names: frozenset[Hashable]


class Receivers(msgspec.Struct, frozen=True, kw_only=True):
    """Who is given what comes in; each is called on the loop, and what it raises is logged.

    :ivar answer: answers to what was sent from here.
    :ivar pid_rpc: RPCs to pids, and others that came with them.
    :ivar named_rpc: RPCs to a named subscriber, whose identifier comes first.
    :ivar failed: what is to be acknowledged, when one of the others has raised.
    """

    answer: Receiver
    broadcast: Receiver
    pid_rpc: Receiver
    named_rpc: Callable[[Hashable, Channel, DeliveredMessage], Awaitable[None]]
    task: Receiver
    hint: Receiver
    failed: Receiver


class Session:
    """A connection with its channels and consumers.

    :param answers: the name of the queue for answers, the same from session to session.
    :ivar lost: resolves to the reason when the session is of no use any more.
    """

    def __init__(self, connection: Connection, receivers: Receivers, answers: str) -> None:
        self._connection = connection
        self._receivers = receivers
        self._answers = answers
        self._consumers: dict[Hashable, tuple[Channel, str, str]] = {}
        self._syncing = asyncio.Lock()
        self._fences: dict[str, asyncio.Future[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, address: BrokerAddress, receivers: Receivers, *, answers: str, store: str | None, name: str, hints: bool
    ) -> Session:
        """Connect and declare.

        :param store: what identifies the store that the virtual host is for.
        :param hints: whether to hear the hints of other engines.
        :raises BrokerError: it cannot be had; says why.
        """
        connection = await connect(address, name)
        try:
            async with asyncio.timeout(address.connection_timeout):
                session = cls(connection, receivers, answers)
                await session._set_up(address, store, hints)
        except BaseException:
            await connection.close()
            raise
        return session

    async def _set_up(self, address: BrokerAddress, store: str | None, hints: bool) -> None:
        self._connection.closing.add_done_callback(self._connection_over)
        if store is not None:
            await self._claim_virtual_host(address, store)
        self._out = await self._channel(confirms=True)
        self._messages = await self._channel(confirms=False)
        self._tasks = await self._channel(confirms=False)
        for channel in (self._messages, self._tasks):
            await channel.basic_qos(prefetch_count=PREFETCH)
        for exchange in (defaults.MESSAGE_EXCHANGE, defaults.TASK_EXCHANGE):
            await self._out.exchange_declare(exchange, exchange_type='topic')
        await self._out.exchange_declare(HINT_EXCHANGE, exchange_type='fanout')
        await self._out.queue_declare(
            defaults.TASK_QUEUE, durable=True, arguments={'x-message-ttl': defaults.TASK_MESSAGE_TTL}
        )
        await self._out.queue_bind(defaults.TASK_QUEUE, defaults.TASK_EXCHANGE, routing_key=defaults.TASK_QUEUE)
        # It outlives the connection, so that an answer is not lost with it.
        await self._out.queue_declare(self._answers, durable=True, arguments={'x-expires': ANSWERS_EXPIRE})
        await self._consume('answers', self._messages, self._answers, self._receivers.answer)
        if hints:
            queue = await self._private_queue('hints', {'x-max-length': 16})
            await self._messages.queue_bind(queue, HINT_EXCHANGE)
            await self._consume('hints', self._messages, queue, self._receivers.hint, no_ack=True)
        self._watch = asyncio.create_task(self._look_after_consumers(), name='consumers are looked after')

    async def _claim_virtual_host(self, address: BrokerAddress, store: str) -> None:
        """Pids are numbers of one store, so two stores on one virtual host would get each other's messages.

        The first store leaves a mark: an exchange whose arguments the broker compares with those of all who come later.
        """
        channel = await self._connection.channel(confirms=False)
        try:
            await channel.exchange_declare(
                STORE_EXCHANGE,
                exchange_type='fanout',
                durable=True,
                arguments={'alternate-exchange': f'treadle.store.{store}'},
            )
        except amqp.ChannelPreconditionFailed:
            raise BrokerRefused(
                f'the virtual host {address.virtual_host!r} of the broker {address} ({address.source}) belongs to '
                f'another store; use one virtual host for each store (rabbitmqctl add_vhost). If that store is no '
                f'more, delete the exchange {STORE_EXCHANGE!r}'
            ) from None
        except amqp.ChannelAccessRefused:
            raise BrokerRefused(
                f'the user {address.user!r} may not declare exchanges on the virtual host {address.virtual_host!r} of '
                f'the broker {address} ({address.source}); grant it: rabbitmqctl set_permissions -p '
                f'{address.virtual_host} {address.user} ".*" ".*" ".*"'
            ) from None
        await channel.close()

    async def _channel(self, *, confirms: bool) -> Channel:
        channel = await self._connection.channel(confirms=confirms)
        channel.closing.add_done_callback(self._channel_over)
        return channel

    # -- its end -------------------------------------------------------------------------------------------

    def _connection_over(self, closing: asyncio.Future[Any]) -> None:
        self._lose('the connection was lost', closing)

    def _channel_over(self, closing: asyncio.Future[Any]) -> None:
        self._lose('the broker closed a channel', closing)

    def _lose(self, what: str, closing: asyncio.Future[Any] | None = None) -> None:
        if self.lost.done():
            return
        error = None if closing is None or closing.cancelled() else closing.exception()
        text = ' '.join(str(error).split()) if error is not None else ''
        self.lost.set_result(f'{what}: {text}' if text else what)

    async def _look_after_consumers(self) -> None:
        while not self.lost.done():
            await asyncio.sleep(LOOK)
            gone = [queue for channel, tag, queue in self._consumers.values() if tag not in channel.consumers]
            if gone and not self._syncing.locked():
                self._lose(f'the broker ended the consumer of {gone[0]!r}; the queue was deleted')

    async def close(self) -> None:
        """Take leave: what is not acknowledged goes back to the queues."""
        if self._watch is not None:
            self._watch.cancel()
        self._lose('it was closed')
        await self._connection.close()

    # -- consuming -----------------------------------------------------------------------------------------

    async def sync(self, wanted: Wanted) -> None:
        """Begin and end to consume, until it is what is wanted."""
        async with self._syncing:
            with unless_stuck():
                await self._sync(wanted)

    async def _sync(self, wanted: Wanted) -> None:
        wishes: dict[Hashable, Callable[[Hashable], Awaitable[None]]] = {}
        if wanted.broadcasts:
            wishes['broadcasts'] = self._consume_broadcasts
        if wanted.pids:
            wishes['pids'] = self._consume_pids
        if wanted.tasks:
            wishes['tasks'] = self._consume_tasks
        wishes.update({('name', name): self._consume_name for name in wanted.names})
        for key in [key for key in self._consumers if key not in wishes and key not in ('answers', 'hints')]:
            await self._end(key)
        for key, begin in wishes.items():
            if key not in self._consumers:
                await begin(key)

    async def _consume_broadcasts(self, key: Hashable) -> None:
        queue = await self._private_queue('broadcast', {'x-message-ttl': defaults.MESSAGE_TTL})
        await self._messages.queue_bind(queue, defaults.MESSAGE_EXCHANGE, routing_key=defaults.BROADCAST_TOPIC)
        await self._consume(key, self._messages, queue, self._receivers.broadcast, no_ack=True)

    async def _consume_pids(self, key: Hashable) -> None:
        await self._messages.queue_declare(
            PID_QUEUE, auto_delete=True, arguments={'x-message-ttl': defaults.MESSAGE_TTL}
        )
        await self._consume(key, self._messages, PID_QUEUE, self._receivers.pid_rpc)
        # The last: what can be routed here is dealt with.
        await self._messages.queue_bind(PID_QUEUE, defaults.MESSAGE_EXCHANGE, routing_key=f'{defaults.RPC_TOPIC}.*')

    async def _consume_tasks(self, key: Hashable) -> None:
        await self._consume(key, self._tasks, defaults.TASK_QUEUE, self._receivers.task)

    async def _consume_name(self, key: Any) -> None:
        name = key[1]
        queue = await self._private_queue('rpc', {'x-message-ttl': defaults.MESSAGE_TTL})

        async def on_rpc(channel: Channel, message: DeliveredMessage) -> None:
            await self._receivers.named_rpc(name, channel, message)

        await self._consume(key, self._messages, queue, on_rpc)
        for routing_key in (rpc_key(name), named_rpc_key(name)):
            await self._messages.queue_bind(queue, defaults.MESSAGE_EXCHANGE, routing_key=routing_key)

    async def _private_queue(self, kind: str, arguments: dict[str, Any]) -> str:
        name = f'treadle-{kind}-{uuid.uuid4().hex}'
        await self._messages.queue_declare(name, exclusive=True, auto_delete=True, arguments=arguments)
        return name

    async def _consume(
        self, key: Hashable, channel: Channel, queue: str, receiver: Receiver, *, no_ack: bool = False
    ) -> None:
        async def receive(message: DeliveredMessage) -> None:
            try:
                if message.header.properties.message_type != _FENCE:
                    await receiver(channel, message)
                    return
                self._fence_came(message)
                if not no_ack:
                    await channel.basic_ack(tag_of(message))
            except (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError) as error:
                LOGGER.debug('a message of %r could not be dealt with: %r', queue, error)  # it comes again
            except Exception:
                LOGGER.exception('a message of %r could not be dealt with', queue)
                if not no_ack:
                    await self._receivers.failed(channel, message)

        tag = f'treadle-{uuid.uuid4().hex}'
        await channel.basic_consume(queue, receive, no_ack=no_ack, consumer_tag=tag)
        self._consumers[key] = channel, tag, queue

    async def _end(self, key: Hashable) -> None:
        channel, tag, queue = self._consumers.pop(key)
        if isinstance(key, tuple):  # at once, so that nothing is routed there any more
            await channel.queue_delete(queue)
            return
        await channel.basic_cancel(tag)
        if queue == PID_QUEUE:
            await self._delete_if_unused(queue)

    async def _delete_if_unused(self, queue: str) -> None:
        """The broker does so by itself, some time after the last consumer has gone; until then, RPCs would get lost."""
        channel = await self._connection.channel(confirms=False)
        with contextlib.suppress(amqp.ChannelClosed):  # others consume it; which closes this channel
            await channel.queue_delete(queue, if_unused=True)
            await channel.close()

    async def others_answer_for_pids(self) -> bool:
        """Whether another connection consumes the RPCs to pids."""
        with unless_stuck():
            channel = await self._connection.channel(confirms=False)
            try:
                declared = await channel.queue_declare(PID_QUEUE, passive=True)
            except amqp.ChannelClosed:  # there is none any more; which closes this channel
                return False
            await channel.close()
        return (declared.consumer_count or 0) > ('pids' in self._consumers)

    async def count_task_consumers(self) -> int:
        """How many consume the task queue, on all connections."""
        with unless_stuck():
            declared = await self._tasks.queue_declare(defaults.TASK_QUEUE, passive=True)
        return declared.consumer_count or 0

    async def delete_answers(self) -> None:
        """Delete the queue for answers; nobody waits for any."""
        with contextlib.suppress(amqp.AMQPError, amqp.ChannelInvalidStateError, OSError), unless_stuck():
            self._consumers.pop('answers', None)
            await self._out.queue_delete(self._answers)

    async def catch_up(self) -> None:
        """Return when all has come in that was in this session's own queues.

        :raises SessionLost: it does not come any more.
        """
        fences: list[asyncio.Future[None]] = []
        for key, (_, _, queue) in list(self._consumers.items()):
            if key in ('answers', 'broadcasts') or isinstance(key, tuple):
                mark = uuid.uuid4().hex
                fences.append(asyncio.get_running_loop().create_future())
                self._fences[mark] = fences[-1]
                await self.publish(Outgoing(exchange='', routing_key=queue, body=b'', correlation_id=mark, kind=_FENCE))
        if fences:
            all_came: asyncio.Future[Any] = asyncio.gather(*fences)
            await asyncio.wait([all_came, self.lost], return_when=asyncio.FIRST_COMPLETED)
            if not all_came.done():
                raise SessionLost(self.lost.result())

    def _fence_came(self, message: DeliveredMessage) -> None:
        fence = self._fences.pop(message.header.properties.correlation_id or '', None)
        if fence is not None and not fence.done():
            fence.set_result(None)

    # -- publishing ----------------------------------------------------------------------------------------

    async def publish(self, message: Outgoing) -> None:
        """Publish, and return when the broker has confirmed; any number at once, in the order of the calls.

        :raises UnroutableError: it is mandatory and reaches no queue.
        :raises TooLarge: the broker does not take it, and the session is over.
        :raises SessionLost: the session is over; the message may have been published or not.
        """
        properties = spec.Basic.Properties(
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            delivery_mode=2 if message.persistent else 1,
            message_type=message.kind,
            headers=message.headers,
        )
        try:
            with unless_stuck():
                await self._out.basic_publish(
                    message.body,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    properties=properties,
                    mandatory=message.mandatory,
                    wait=False,
                )
        except amqp.PublishError:
            raise UnroutableError(f'nobody is there for {message.routing_key!r}') from None
        except (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, RuntimeError) as error:
            self._lose(f'publishing failed: {error}')
            # All that is on its way fails with the channel: the largest one is to blame, and perhaps others.
            limit = _SIZE_LIMIT.search(str(error))
            if limit is not None and len(message.body) > int(limit[1]):
                raise TooLarge(
                    f'a message of {len(message.body)} bytes is too large for the broker, whose max_message_size is '
                    f'{limit[1]}; send less, or have that raised'
                ) from error
            raise SessionLost(str(error)) from error


def rpc_key(recipient: Hashable) -> str:
    """The routing key of an RPC, as ``kiwipy`` has it; both a named subscriber and the queue for pids get it."""
    return f'{defaults.RPC_TOPIC}.{recipient}'


#: Bytes that a routing key may have.
_LONGEST_KEY: Final = 255


def can_be_name(identifier: Hashable) -> bool:
    """Whether an RPC subscriber can be addressed by this on a broker."""
    key = named_rpc_key(identifier)
    try:
        return len(key.encode()) <= _LONGEST_KEY and not {'*', '#'} & set(key)
    except UnicodeEncodeError:  # half a surrogate pair, as names of files may hold
        return False


def named_rpc_key(name: Hashable) -> str:
    """The routing key of an RPC to a named subscriber alone; the broker says if there is none."""
    return f'{defaults.RPC_TOPIC}.{name}.named'
