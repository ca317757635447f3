"""The WSGI application of docs/examples, as it is shipped: called by the book, and under gunicorn."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import json
import os
import re
import signal
import sqlite3
import sys
from pathlib import Path
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import treadle.engine.default

EXAMPLES = Path(__file__).parents[2] / 'docs' / 'examples'


@pytest.fixture
def call(store, monkeypatch, no_leaked_threads):
    """Calls the application as a server does that looks closely whether both keep to PEP 3333."""
    spec = importlib.util.spec_from_file_location('wsgi_app', EXAMPLES / 'wsgi_app.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'wsgi_app', module)  # where its processes find their class
    spec.loader.exec_module(module)
    monkeypatch.setenv('TREADLE_STORE', store)
    monkeypatch.setattr(treadle.engine.default, '_engine', None)

    def call(method, path, body=b'', **environ):
        environ = {
            'REQUEST_METHOD': method,
            'PATH_INFO': path,
            'SCRIPT_NAME': '',
            'QUERY_STRING': '',
            'CONTENT_LENGTH': str(len(body)),
            'wsgi.input': io.BytesIO(body),
            **environ,
        }
        setup_testing_defaults(environ)
        said = []
        answer = validator(module.application)(environ, lambda *given: said.append(given))
        content = b''.join(answer)
        answer.close()
        status, headers = said[0][:2]
        return int(status[:3]), dict(headers), json.loads(content)

    yield call
    treadle.engine.default_engine().stop()


def test_what_it_answers(call):
    key = {'HTTP_IDEMPOTENCY_KEY': 'one'}
    status, headers, count = call('POST', '/counts', b'{"limit": 250000}', **key)
    assert status == 202
    assert headers['Location'] == f'/counts/{count["pid"]}'
    assert call('POST', '/counts', b'{"limit": 250000}', **key)[2]['pid'] == count['pid']
    treadle.engine.default_engine().wait(count['pid'])
    status, _, count = call('GET', headers['Location'])
    assert (status, count['state'], count['primes']) == (200, 'finished', 22044)
    # What is wrong with a request is said in the answer, and nothing is begun.
    for status, words, request in [
        (400, 'Idempotency-Key', ('POST', '/counts', b'{"limit": 5}')),
        (409, 'one', ('POST', '/counts', b'{"limit": 5}')),
        (400, 'must be from 2', ('POST', '/counts', b'{"limit": 1}')),
        (400, 'limit', ('POST', '/counts', b'{}')),
        (400, 'mapping', ('POST', '/counts', b'[5]')),
        (400, 'Expecting value', ('POST', '/counts', b'limit')),
        (404, 'there is no count 4711', ('GET', '/counts/4711')),
        (404, 'there is no count x', ('GET', '/counts/x')),
        (404, 'POST /counts', ('DELETE', '/counts/1')),
    ]:
        keys = {} if words == 'Idempotency-Key' else key if status == 409 else {'HTTP_IDEMPOTENCY_KEY': 'other'}
        found, _, answer = call(*request, **keys)
        assert found == status
        assert words in answer['error']
    assert len(treadle.engine.default_engine().query(process_label='CountPrimes')) == 1


def test_a_worker_is_killed_in_mid_process_and_the_client_gets_its_result(hosts, client, store):
    server = hosts.begin(
        '-m', 'gunicorn', '--bind', '127.0.0.1:0', '--workers', '2', '--chdir', EXAMPLES,
        '--config', EXAMPLES / 'wsgi_gunicorn.py', 'wsgi_app', tolerate=('unclosed <socket:ResourceWarning',),
    )  # fmt: skip
    served = client(int(re.match(r':(\d+) ', server.wait_for_log('Listening at: http://127.0.0.1'))[1]))
    key = {'Idempotency-Key': 'twenty million'}
    status, count = served.call('POST', '/counts', {'limit': 20_000_000}, headers=key)
    assert status == 202
    while not served.get(f'/counts/{count["pid"]}')['done']:
        pass
    with contextlib.closing(sqlite3.connect(store.removeprefix('sqlite:///'))) as connection:
        ((owner,),) = connection.execute(
            'SELECT os_pid FROM engine JOIN process ON process.owner = engine.id WHERE pid = ?', [count['pid']]
        )
    os.kill(owner, signal.SIGKILL)
    while count['state'] != 'finished':
        with contextlib.suppress(http.client.HTTPException, ConnectionError):  # the one that it was asking is gone
            count = served.get(f'/counts/{count["pid"]}')
    assert count['primes'] == 1_270_607
    assert served.call('POST', '/counts', {'limit': 20_000_000}, headers=key) == (202, count)
    server.process.send_signal(signal.SIGTERM)
    ended = server.end()
    assert ended.code == 0
    assert 'Traceback' not in ended.err
    (chain,) = [node for node in hosts.nodes() if node.process_label == 'CountPrimes']
    assert chain.pid == count['pid']
    chunks = [node for node in hosts.nodes() if node.process_label == 'count_primes']
    assert len(chunks) == 200  # none is counted twice
    assert 'dead' in hosts.engines_ended()
