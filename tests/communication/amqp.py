"""What a client of RabbitMQ says that is none of Treadle's: raw messages, and queues that are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiormq

T = TypeVar('T')

TASKS = 'kiwipy.tasks'
MESSAGES = 'kiwipy.messages'


class Amqp:
    """Does one thing at a time on the broker, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _run(self, action: Callable[[aiormq.abc.AbstractChannel], Awaitable[T]]) -> T:
        async def run() -> T:
            connection = await aiormq.connect(self._url)
            try:
                return await action(await connection.channel())
            finally:
                await connection.close()

        return asyncio.run(run())

    def publish(self, exchange: str, routing_key: str, *bodies: bytes, **properties: Any) -> None:
        """Publish messages with these properties, and wait until the broker has them."""

        async def publish(channel: aiormq.abc.AbstractChannel) -> None:
            for body in bodies:
                await channel.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=aiormq.spec.Basic.Properties(**properties),
                )

        self._run(publish)

    def task(self, *bodies: bytes, **properties: Any) -> None:
        """Publish to the task queue."""
        self.publish(TASKS, TASKS, *bodies, **properties)

    def make_queue(self, name: str) -> None:
        """Make a queue, such as for answers."""
        self._run(lambda channel: channel.queue_declare(name))

    def count(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return self._run(lambda channel: channel.queue_declare(queue, passive=True)).message_count

    def consumers(self, queue: str) -> int:
        """How many consume a queue."""
        return self._run(lambda channel: channel.queue_declare(queue, passive=True)).consumer_count

    def get(self, queue: str) -> tuple[bytes, str | None] | None:
        """The next message of a queue, with its correlation id; ``None`` when there is none."""

        async def get(channel: aiormq.abc.AbstractChannel) -> tuple[bytes, str | None] | None:
            message = await channel.basic_get(queue, no_ack=True)
            if isinstance(message.delivery, aiormq.spec.Basic.GetEmpty):
                return None
            return message.body, message.header.properties.correlation_id

        return self._run(get)

    def delete(self, queue: str) -> None:
        """Delete a queue, whoever consumes it."""
        self._run(lambda channel: channel.queue_delete(queue))

    def purge(self, queue: str) -> None:
        """Delete what waits in a queue."""
        self._run(lambda channel: channel.queue_purge(queue))
