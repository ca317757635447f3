"""A Starlette application under uvicorn."""

from __future__ import annotations

import http.client
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest


@pytest.fixture
def serve(hosts, client):
    """Starts uvicorn; returns it and a client of it."""

    def serve(*options):
        command = ('-m', 'uvicorn', '--port', '0', *options, 'asgi_app:app')
        server = hosts.begin(*command, tolerate=('unclosed <socket:ResourceWarning',))
        port = re.match(r':(\d+)', server.wait_for_log('Uvicorn running on http://127.0.0.1'))
        server.wait_for_log('Application startup complete')
        return server, client(int(port[1])).when_it_listens()  # workers do so a moment later

    return serve


@pytest.mark.parametrize(('loop', 'number'), [('asyncio', signal.SIGTERM), ('uvloop', signal.SIGINT)])
def test_many_requests_at_once_and_an_orderly_end(hosts, serve, loop, number):
    server, served = serve('--loop', loop)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: served.get('/double', n=n), range(60)))
        blocking = list(pool.map(lambda n: served.get('/double-in-a-thread', n=n), range(60)))
    assert answers == blocking == [{'n': 2 * n} for n in range(60)]
    server.process.send_signal(number)
    ended = server.end()
    # uvicorn stops in an orderly way, and then ends as if it had not handled the signal.
    assert ended.code in (0, -number)
    assert 'Traceback' not in ended.err
    assert 'Warning' not in ended.err
    assert 'Application shutdown complete' in ended.err
    assert hosts.engines_ended() == ['stopped']
    assert all(node.is_finished_ok for node in hosts.nodes())


def test_a_client_that_goes_away_cancels_the_handler_and_not_the_process(hosts, serve, gate):
    server, served = serve()
    connection = http.client.HTTPConnection('127.0.0.1', served.port)
    connection.request('GET', f'/gate?{urlencode({"gate": gate.folder})}')
    connection.getresponse()
    gate.wait_until_entered()
    connection.close()
    server.wait_for('cancelled')
    gate.open()
    assert served.get('/waited') == 1
    assert gate.effects == ['begin', 'wait', 'end']
    server.process.send_signal(signal.SIGTERM)
    assert 'Traceback' not in server.end().err
    assert hosts.engines_ended() == ['stopped']


def test_a_worker_that_is_killed_is_succeeded_by_another(hosts, serve, gate):
    server, served = serve('--workers', '2')
    connection = http.client.HTTPConnection('127.0.0.1', served.port)
    connection.request('GET', f'/gate?{urlencode({"gate": gate.folder})}')
    os.kill(gate.wait_until_entered(), signal.SIGKILL)
    gate.wait_until_entered()  # without anybody who asks for it
    connection.close()
    gate.open()
    assert served.get('/waited') == 1
    assert gate.effects == ['begin', 'wait', 'wait', 'end']
    server.process.send_signal(signal.SIGTERM)
    assert 'Traceback' not in server.end().err
