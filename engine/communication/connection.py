"""Getting onto the broker: a connection of ``kiwipy``'s, or an error that says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any, Final, cast

import aio_pika
import aiormq
import kiwipy.rmq
from aiormq import exceptions as amqp
from aiormq import spec
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.connection import TransportFactory

from ..errors import BrokerError, BrokerRefused, BrokerUnavailable, ConfigurationError
from .address import BrokerAddress
from .wire import decode, encode

__all__ = ['Connection', 'connect', 'delivery_of', 'tag_of', 'unless_stuck']

#: Seconds that taking leave of a broker may take that does not answer.
LEAVING = 2.0


def delivery_of(message: DeliveredMessage) -> spec.Basic.Deliver:
    """How a message has come to a consumer."""
    return cast(spec.Basic.Deliver, message.delivery)


def tag_of(message: DeliveredMessage) -> int:
    """What a message is acknowledged by."""
    return delivery_of(message).delivery_tag or 0


@contextlib.contextmanager
def unless_stuck() -> Iterator[None]:
    """Around what waits for the connection: the library ends its waits by *cancelling* them when the connection turns
    out to be stuck, which would pass for the wish of whoever runs the task.

    :raises ConnectionError: it is stuck.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError('the broker has not been heard of for too long') from None


class Connection:
    """A connection that was opened by ``kiwipy``, with the channels of AMQP itself on it."""

    def __init__(
        self, kiwi: kiwipy.rmq.RmqCommunicator, amqp_connection: aiormq.abc.AbstractConnection, transport: _Transport
    ) -> None:
        self._kiwi = kiwi
        self._amqp = amqp_connection
        self._transport = transport
        #: Resolves when it is no more; has an error if that was nobody's wish.
        self.closing: asyncio.Future[Any] = amqp_connection.closing

    async def channel(self, *, confirms: bool) -> Channel:
        """A new channel.

        :param confirms: whether the broker confirms each message, and what cannot be routed is an error.
        """
        channel = await self._amqp.channel(publisher_confirms=confirms, on_return_raises=confirms)
        return cast(Channel, channel)

    async def close(self) -> None:
        """Take leave, or let go if the broker does not answer."""
        for leave in (self._kiwi.disconnect, self._amqp.close):
            with contextlib.suppress(TimeoutError, OSError, RuntimeError, amqp.AMQPError), unless_stuck():
                async with asyncio.timeout(LEAVING):
                    await leave()
        self._transport.close()


class _Transport(TransportFactory):
    """The socket: opened before the library below is asked to use it, which logs each failure as an error; and closed
    after it, since it leaves that to the collector where the broker has ended the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams = reader, writer

    @classmethod
    async def open(cls, address: BrokerAddress) -> _Transport:
        return cls(*await asyncio.open_connection(address.host, address.port, ssl=address.tls()))

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._streams

    def close(self) -> None:
        self._streams[1].close()


class _Connection(aio_pika.Connection):
    """``aio_pika``'s, over a socket that is open, and not to be closed by the collector: it runs on any thread."""

    def __init__(self, *arguments: Any, transport: _Transport, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kwargs = {**self.kwargs, 'transport_factory': transport}

    def __del__(self) -> None:
        pass


async def connect(address: BrokerAddress, name: str) -> Connection:
    """Connect within the address's time.

    :param name: how the broker shows the connection.
    :raises BrokerUnavailable: it is not there, or does not answer.
    :raises BrokerRefused: it does not let us in.
    """
    transport: _Transport | None = None
    made: list[_Connection] = []

    def make(*arguments: Any, **options: Any) -> _Connection:
        assert transport is not None
        made.append(_Connection(*arguments, transport=transport, **options))
        return made[-1]

    try:
        async with asyncio.timeout(address.connection_timeout):
            transport = await _Transport.open(address)
            kiwi = await kiwipy.rmq.async_connect(
                {
                    'host': address.host,
                    'port': address.port,
                    'login': address.user,
                    'password': address.password,
                    'virtualhost': address.virtual_host,
                    'heartbeat': address.heartbeat,
                    'client_properties': {'connection_name': name},
                    'connection_class': make,
                },
                connection_factory=aio_pika.connect,
                encoder=encode,
                decoder=decode,
            )
        underlay = made[0].transport
        if underlay is None:
            raise ConnectionError('it was closed at once')
        return Connection(kiwi, underlay.connection, transport)
    except BaseException as error:
        if transport is not None:
            transport.close()
        if not isinstance(error, Exception) or isinstance(error, ConfigurationError):
            raise
        # Not chained: what the libraries' errors hold may be shown by whoever prints the chain.
        raise _explained(error, address) from None


#: What the library says when the other end hangs up, or says something that is no frame of AMQP.
_CUT_SHORT: Final = ('unexpectedly closed', 'Connection reset')


def _explained(error: BaseException, address: BrokerAddress) -> BrokerError:
    where = f'the broker {address} ({address.source})'
    # The broker's own words may be in the frame that it closed the connection with.
    words = [getattr(each, 'reply_text', None) or str(each) for each in (*error.args, error.__cause__) if each]
    text = ' '.join(' '.join(words).split())
    if isinstance(error, ssl.SSLError) or 'CERTIFICATE' in text.upper():
        return BrokerRefused(
            f'{where}: TLS fails: {getattr(error, "reason", None) or text}. The certificate must be for '
            f'{address.host!r} and of an authority that the system, or cafile=... in the URL, knows'
        )
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(
            f'{where} did not answer within {address.connection_timeout:g} s; is it well, and is nothing in between?'
        )
    if isinstance(error, (amqp.AuthenticationError, amqp.ProbableAuthenticationError)):
        return BrokerRefused(f'{where} refuses the user {address.user!r} or its password; set them right in the URL')
    was_cut_short = any(each in text for each in _CUT_SHORT)
    if was_cut_short or isinstance(error, (amqp.IncompatibleProtocolError, EOFError)):
        return BrokerUnavailable(  # it may just be starting, or ending
            f'{where} hangs up, or does not speak AMQP; is the port right, and does it want TLS (amqps://)?'
        )
    if 'vhost' in text or 'NOT_ALLOWED' in text:
        return BrokerRefused(
            f'{where} does not let {address.user!r} onto the virtual host {address.virtual_host!r}; it must exist '
            f'(rabbitmqctl add_vhost) and be granted (rabbitmqctl set_permissions)'
        )
    if isinstance(error, ConnectionRefusedError):
        return BrokerUnavailable(
            f'{where}: nothing listens on {address.host} port {address.port}; is it running, and is the URL right?'
        )
    reason = (error.strerror if isinstance(error, OSError) else None) or text or type(error).__name__
    return BrokerUnavailable(f'{where} cannot be reached: {reason}')
