"""The proxy does what is asked of it, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from support.proxy import Proxy


class Echo:
    """A server that sends back what it gets, and notes it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.got = bytearray()
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.got += data
                    connection.sendall(data)
            except ConnectionError:
                return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.listener.getsockname()) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(('127.0.0.1', proxy.port), timeout=10) as client:
        yield client


def receive(client: socket.socket, count: int) -> bytes:
    data = b''
    while len(data) < count:
        data += client.recv(count - len(data))
    return data


def says_nothing(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        client.recv(1)
        return False
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)


def test_bytes_pass_unchanged_in_both_directions(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 8192
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(client, len(data)) == data
    sender.join()
    assert (proxy.connections, proxy.accepted) == (1, 1)


def test_the_end_of_one_side_reaches_the_other(proxy: Proxy, client: socket.socket) -> None:
    client.sendall(b'last')
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 4) == b'last'
    assert client.recv(1) == b''


def test_a_cut_lets_nothing_through_and_what_was_on_its_way_comes_after_it(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    client.sendall(b'one')
    assert receive(client, 3) == b'one'
    proxy.cut()
    client.sendall(b'two')
    with socket.create_connection(('127.0.0.1', proxy.port), timeout=10) as late:
        late.sendall(b'three')
        assert says_nothing(client) and says_nothing(late)
        assert echo.got == b'one'
        proxy.heal()
        assert receive(client, 3) == b'two'
        assert receive(late, 5) == b'three'


def test_a_reset_is_felt_at_once_and_new_connections_are_taken(proxy: Proxy, client: socket.socket) -> None:
    client.sendall(b'one')
    receive(client, 3)
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(('127.0.0.1', proxy.port), timeout=10) as again:
        again.sendall(b'two')
        assert receive(again, 3) == b'two'


def test_who_is_refused_is_reset_until_it_heals(proxy: Proxy) -> None:
    proxy.refuse()
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(('127.0.0.1', proxy.port), timeout=10) as client,
    ):
        client.recv(1)
    proxy.heal()
    with socket.create_connection(('127.0.0.1', proxy.port), timeout=10) as client:
        client.sendall(b'one')
        assert receive(client, 3) == b'one'


def test_late_bytes(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.1)
    began = time.monotonic()
    client.sendall(b'one')
    assert receive(client, 3) == b'one'
    assert time.monotonic() - began >= 0.2
    proxy.heal()


def test_few_bytes(proxy: Proxy, client: socket.socket) -> None:
    proxy.throttle(100_000)
    began = time.monotonic()
    client.sendall(b'x' * 30_000)
    assert receive(client, 30_000) == b'x' * 30_000
    assert time.monotonic() - began >= 0.25


def test_a_lost_reply_is_to_something_that_was_done(proxy: Proxy, echo: Echo, client: socket.socket) -> None:
    lost = proxy.lose_reply(b'COMMIT')
    client.sendall(b'BEGIN')
    assert receive(client, 5) == b'BEGIN' and not lost.is_set()
    client.sendall(b'COMMIT')
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert lost.wait(10)
    assert echo.got == b'BEGINCOMMIT'


def test_a_target_that_is_away_resets() -> None:
    with socket.create_server(('127.0.0.1', 0)) as gone:
        target = gone.getsockname()
    with (
        Proxy(target) as proxy,
        pytest.raises(ConnectionResetError),
        socket.create_connection(('127.0.0.1', proxy.port), timeout=10) as client,
    ):
        client.recv(1)


def test_urls(echo: Echo) -> None:
    host, port = echo.listener.getsockname()
    url = f'amqp://me:secret@{host}:{port}/a%2Fb?heartbeat=5'
    with Proxy.of(url) as proxy:
        assert proxy.through(url) == f'amqp://me:secret@127.0.0.1:{proxy.port}/a%2Fb?heartbeat=5'
    with pytest.raises(ValueError, match='no port'):
        Proxy.of('postgresql://localhost/x')
