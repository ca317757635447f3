"""What brokers do to messages: everything is delivered twice, or a message that is kept for too long is taken away."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import aio_pika

#: The header that tells a message of our own from one that is to be doubled.
MARK = 'x-doubled'
_PROPERTIES = ('content_type', 'content_encoding', 'delivery_mode', 'priority', 'correlation_id', 'reply_to',
               'expiration', 'message_id', 'type', 'app_id')  # fmt: skip


class Doubler:
    """Publishes each message a second time, as it was, to where it was published; on a thread of its own.

    It lives on RabbitMQ's firehose, which shows every message of the virtual host together with its exchange, its
    routing key and its properties.

    :param url: of the virtual host, where tracing has to be on.
    :ivar count: how many messages it has doubled.
    """

    def __init__(self, url: str) -> None:
        self.count = 0
        self._url = url
        self._came_up: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name='doubler')

    def start(self) -> None:
        """Begin; every message from here on is doubled."""
        self._thread.start()
        self._came_up.result(30)

    def stop(self) -> None:
        """Double no more."""
        loop, told = self._came_up.result(0)
        loop.call_soon_threadsafe(told.set)
        self._thread.join(30)

    def _run(self) -> None:
        try:
            asyncio.run(self._double())
        except BaseException as error:
            if not self._came_up.done():
                self._came_up.set_exception(error)
            raise

    async def _double(self) -> None:
        told = asyncio.Event()
        async with await aio_pika.connect(self._url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            self._channel = channel
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(await channel.get_exchange('amq.rabbitmq.trace', ensure=False), 'publish.#')
            await queue.consume(self._publish_again, no_ack=True)
            self._came_up.set_result((asyncio.get_running_loop(), told))
            await told.wait()

    async def _publish_again(self, traced: Any) -> None:
        given = traced.headers['properties']
        headers = given.get('headers') or {}
        if MARK in headers:
            return
        message = aio_pika.Message(
            traced.body,
            headers={**headers, MARK: 1},
            **{name: given[name] for name in _PROPERTIES if name in given},
        )
        name = traced.headers['exchange_name']
        exchange = (
            await self._channel.get_exchange(name, ensure=False) if name else self._channel.default_exchange
        )
        for key in traced.headers['routing_keys']:
            await exchange.publish(message, routing_key=key, mandatory=False)
        self.count += 1


def hold_a_message(url: str, *, most: float) -> float:
    """Take a message and keep it unacknowledged until the broker closes the channel; how many seconds that took.

    :param most: seconds after which the broker is taken to have nothing against it.
    """
    return asyncio.run(_hold(url, most))


async def _hold(url: str, most: float) -> float:
    loop = asyncio.get_running_loop()
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        closed: asyncio.Future[object] = loop.create_future()
        channel.close_callbacks.add(lambda *_: closed.done() or closed.set_result(None))
        queue = await channel.declare_queue(auto_delete=True)
        await queue.consume(_keep)
        began = loop.time()
        await channel.default_exchange.publish(aio_pika.Message(b'kept'), routing_key=queue.name)
        async with asyncio.timeout(most):
            await closed
        return loop.time() - began


async def _keep(message: Any) -> None:
    """Never acknowledged."""
