"""A WSGI application under gunicorn: workers are forked, replaced, reloaded and killed, one store is below them all."""

from __future__ import annotations

import http.client
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

KINDS = {
    'sync': ('--workers', '3'),
    'gthread': ('--workers', '2', '--threads', '4'),
    'preload': ('--workers', '3', '--preload'),
}

#: Its listening sockets stay open until the workers' very end; and from 3.12 on Python warns of forks beside threads.
OF_GUNICORN = ('unclosed <socket:ResourceWarning', 'This process:DeprecationWarning')


@pytest.fixture
def serve(hosts, client):
    """Starts gunicorn; returns it, a client of it, and its OS process."""

    def serve(*options, application='wsgi_app:application', **environment):
        command = ('-m', 'gunicorn', '--bind', '127.0.0.1:0', *options, application)
        server = hosts.begin(*command, tolerate=OF_GUNICORN, **environment)
        port = re.search(r':(\d+) ', server.wait_for_log('Listening at: http://127.0.0.1') + ' ')
        return server, client(int(port[1]))

    return serve


@pytest.fixture
def background():
    """Makes a request in a thread of its own; returns the future of its answer.

    The first fixture that a test asks for, so that the servers have ended when its threads are waited for.
    """
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def stop(server, number=signal.SIGTERM):
    server.process.send_signal(number)
    return server.end()


def load(served, requests=60):
    """Many requests at once, and again until more than one worker has answered; returns who did."""
    servers = set()
    while len(servers) < 2:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda n: served.get('/double', n=n), range(requests)))
        assert [each['answer'] for each in answers] == [2 * n for n in range(requests)]
        servers |= {each['served_by'] for each in answers}
    return servers


@pytest.mark.parametrize('kind', KINDS)
def test_many_requests_at_once(hosts, serve, kind):
    server, served = serve(*KINDS[kind])
    load(served)
    assert served.get('/call', n=1)['answer'] == 2
    pid = served.get('/submitted', n=5)['answer']
    # Perhaps in another worker than the one that runs it.
    assert [served.get('/waited', pid=pid)['answer'] for _ in range(4)] == [10] * 4
    ended = stop(server)
    assert ended.code == 0
    processes = int(KINDS[kind][1]) + (kind == 'preload')  # then the one that forks has imported it too
    assert ended.out == 'left: []\n' * processes
    assert 'Traceback' not in ended.err
    assert 'Warning' not in ended.err
    assert all(node.is_finished_ok for node in hosts.nodes())


def test_an_engine_of_before_the_fork_is_refused_with_words_and_the_default_one_starts_anew(hosts, serve):
    server, served = serve('--workers', '2', '--preload', STARTS_WHEN_IMPORTED='explicit')
    status, refusal = served.call('GET', '/double-on-explicit-engine', n=1)
    assert status == 500
    assert "engine 'explicit' belongs to OS process" in refusal['answer']
    assert 'create and start an engine of its own in the child' in refusal['answer']
    load(served)
    ended = stop(server)
    assert (ended.code, ended.out) == (0, 'left: []\n' * 3)
    assert 'Traceback' not in ended.err


def test_a_default_engine_of_before_the_fork_goes_on_in_the_one_that_forks(hosts, serve):
    server, served = serve('--workers', '2', '--preload', STARTS_WHEN_IMPORTED='default')
    assert server.process.pid not in load(served)
    ended = stop(server)
    assert (ended.code, ended.out) == (0, 'left: []\n' * 3)
    assert 'Traceback' not in ended.err
    assert all(node.is_finished_ok for node in hosts.nodes())


def ask_again(served, gate):
    """The client has no answer, asks again and gets it, from whoever has taken the process over."""
    assert served.get('/gate', gate=gate.folder)['answer'] == 1
    assert gate.effects == ['begin', 'wait', 'wait', 'end']


def test_a_worker_that_is_killed_is_succeeded_by_another(background, hosts, serve, gate):
    server, served = serve('--workers', '2')
    load(served)  # so that both have an engine
    unanswered = background(served.get, '/gate', gate=gate.folder)
    os.kill(gate.wait_until_entered(), signal.SIGKILL)
    with pytest.raises((http.client.HTTPException, OSError)):
        unanswered.result()
    gate.open_for_others()
    ask_again(served, gate)
    ended = stop(server)
    assert ended.code == 0
    (node,) = [node for node in hosts.nodes() if node.process_label == 'Waits']
    assert node.is_finished_ok


def test_a_worker_that_is_aborted_for_taking_too_long_leaves_its_process_to_go_on(background, hosts, serve, gate):
    server, served = serve('--workers', '1', EXIT_PATIENCE='0.5')
    unanswered = background(served.call, 'GET', '/gate', gate=gate.folder)
    worker = gate.wait_until_entered()
    os.kill(worker, signal.SIGABRT)  # as gunicorn does after its --timeout
    check_is_broken_off(unanswered)
    while os.path.exists(f'/proc/{worker}'):  # whose step may not have come to the gate yet
        time.sleep(0.02)
    gate.open_for_others()
    ask_again(served, gate)
    ended = stop(server)
    assert ended.code == 0


def check_is_broken_off(unanswered):
    """A worker that is told to end answers with an error, unless it is told again while it does."""
    try:
        assert unanswered.result()[0] == 500
    except (http.client.HTTPException, OSError):
        return


def test_a_reload_lets_the_request_in_progress_end(background, hosts, serve, gate):
    server, served = serve('--workers', '1')
    answer = background(served.get, '/gate', gate=gate.folder)
    before = gate.wait_until_entered()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log('Hang up: Master')
    after = served.get('/double', n=1)['served_by']  # the old one serves nobody else
    assert after != before
    gate.open()
    assert answer.result() == {'answer': 1, 'served_by': before}
    assert gate.effects == ['begin', 'wait', 'end']
    ended = stop(server)
    assert (ended.code, ended.out) == (0, 'left: []\n' * 2)
    assert 'Traceback' not in ended.err


def test_ctrl_c_leaves_the_process_for_the_next_start(background, hosts, serve, gate):
    server, served = serve('--workers', '1', EXIT_PATIENCE='0.5')
    unanswered = background(served.call, 'GET', '/gate', gate=gate.folder)
    gate.wait_until_entered()
    server.interrupt()
    ended = server.end()
    check_is_broken_off(unanswered)
    assert ended.code == 0
    (node,) = hosts.nodes()
    assert not node.is_terminated
    gate.open_for_others()
    server, served = serve('--workers', '1')
    ask_again(served, gate)
    assert stop(server).code == 0
