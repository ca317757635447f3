"""A WSGI application under a server with a thread per request."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def background():
    """Makes a request in a thread of its own; the first fixture that a test asks for."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


@pytest.fixture
def serve(hosts, client):
    """Starts the server; returns it and a client of it."""

    def serve():
        server = hosts.begin('threaded_server.py')
        return server, client(int(server.wait_for('port')))

    return serve


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_many_requests_at_once_and_a_clean_exit(hosts, serve, number, code):
    server, served = serve()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: served.get('/double', n=n)['answer'], range(100)))
    assert answers == [2 * n for n in range(100)]
    assert served.get('/call', n=1)['answer'] == 2
    pid = served.get('/submitted', n=5)['answer']
    assert served.get('/waited', pid=pid)['answer'] == 10
    server.process.send_signal(number)
    ended = server.end()
    assert (ended.code, ended.err) == (code, '')
    assert ended.out.endswith('\nleft: []\n')
    assert all(node.is_finished_ok for node in hosts.nodes())


def test_ctrl_c_is_for_the_main_thread_and_lets_a_request_in_progress_end(background, hosts, serve, gate):
    server, served = serve()
    answer = background(served.get, '/gate', gate=gate.folder)
    gate.wait_until_entered()
    server.interrupt()
    server.wait_for('stops')
    gate.open()
    assert answer.result()['answer'] == 1
    ended = server.end()
    assert (ended.code, ended.err) == (130, '')
    assert ended.out.endswith('\nleft: []\n')
