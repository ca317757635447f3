"""Getting onto the broker: a connection of ``kiwipy``'s, or an error that says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast

import aio_pika
import aiormq
import kiwipy.rmq
from aiormq import exceptions as amqp
from aiormq.channel import Channel

from ..errors import BrokerError, BrokerRefused, BrokerUnavailable
from .address import BrokerAddress
from .wire import decode, encode

__all__ = ['Connection', 'connect']

#: Seconds that taking leave of a broker may take that does not answer.
LEAVING = 2.0


class Connection:
    """A connection that was opened by ``kiwipy``, with the channels of AMQP itself on it."""

    def __init__(self, kiwi: kiwipy.rmq.RmqCommunicator, amqp_connection: aiormq.abc.AbstractConnection) -> None:
        self._kiwi = kiwi
        self._amqp = amqp_connection
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
        with contextlib.suppress(TimeoutError, OSError, RuntimeError, amqp.AMQPError):
            async with asyncio.timeout(LEAVING):
                await self._kiwi.disconnect()
                return
        with contextlib.suppress(TimeoutError, OSError, RuntimeError, amqp.AMQPError):
            async with asyncio.timeout(LEAVING):
                await self._amqp.close()


class _Connection(aio_pika.Connection):
    def __del__(self) -> None:
        """Leave it alone: the collector, which may run on any thread, has no business on the loop."""


async def connect(address: BrokerAddress, name: str) -> Connection:
    """Connect within the address's time.

    :param name: how the broker shows the connection.
    :raises BrokerUnavailable: it is not there, or does not answer.
    :raises BrokerRefused: it does not let us in.
    """
    made: list[_Connection] = []

    def make(*arguments: Any, **options: Any) -> _Connection:
        made.append(_Connection(*arguments, **options))
        return made[-1]

    try:
        async with asyncio.timeout(address.connection_timeout):
            await _knock(address)
            kiwi = await kiwipy.rmq.async_connect(
                {
                    'host': address.host,
                    'port': address.port,
                    'login': address.user,
                    'password': address.password,
                    'virtualhost': address.virtual_host,
                    'ssl': address.is_secure,
                    'ssl_context': address.tls(),
                    'heartbeat': address.heartbeat,
                    'client_properties': {'connection_name': name},
                    'connection_class': make,
                },
                connection_factory=aio_pika.connect,
                encoder=encode,
                decoder=decode,
            )
    except Exception as error:
        # Not chained: what the libraries' errors hold may be shown by whoever prints the chain.
        raise _explained(error, address) from None
    transport = made[0].transport
    if transport is None:
        raise BrokerUnavailable(f'the broker {address} closed the connection at once')
    return Connection(kiwi, transport.connection)


#: What a client of AMQP 0-9-1 says first, and with what the broker's answer to it begins.
_GREETING, _METHOD_FRAME = b'AMQP\x00\x00\x09\x01', b'\x01'


class _SpeaksNoAmqp(OSError):
    pass


async def _knock(address: BrokerAddress) -> None:
    """See whether a broker is there: the library below logs each attempt that fails as an error."""
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=address.tls())
    try:
        writer.write(_GREETING)
        if await reader.read(1) != _METHOD_FRAME:
            raise _SpeaksNoAmqp
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


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
    if isinstance(error, (_SpeaksNoAmqp, amqp.IncompatibleProtocolError, EOFError)):
        return BrokerRefused(
            f'{where} is there and does not speak AMQP; is the port right, and does it want TLS (amqps://)?'
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
