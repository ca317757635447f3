"""Engines that share a store and a broker: hints, broadcasts, RPCs to pids that others run."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from communication import amqp, hosts
from treadle.engine import BrokerRefused, BrokerUnavailable, Engine, ProcessLauncher, RemoteException
from treadle.engine.communication import final_answer
from treadle.engine.communication.messages import Intent, intent_body
from treadle.engine.core import Core
from treadle.threads import Forked

PATIENCE, GATES, Heard = hosts.PATIENCE, hosts.GATES, hosts.Heard


def ask(engine, pid, intent, message=None):
    return final_answer(engine.communicator.rpc_send(pid, intent_body(Intent(intent), message))).result(PATIENCE)


class TestBroadcasts:
    def test_another_engine_hears_each_change_after_the_commit(self, broker, make_engine):
        first, second = make_engine(broker=broker), make_engine(broker=broker)
        heard = Heard()
        second.communicator.add_broadcast_subscriber(
            lambda _, body, sender, subject, correlation_id: heard.tell(
                sender, subject, second.load(sender).is_terminated
            )
        )
        node = first.run_get_node(hosts.Echo, x=1)[1]
        told = heard.until((node.pid, 'state_changed.running.finished', True))
        assert [subject for _, subject, _ in told] == [
            'state_changed.None.created',
            'state_changed.created.running',
            'state_changed.running.finished',
        ]

    @pytest.mark.parametrize(
        ('broadcasts', 'subjects'), [('terminal', ['state_changed.running.finished']), ('none', [])]
    )
    def test_fewer_of_them(self, broker, make_engine, broadcasts, subjects):
        engine = make_engine(broker=broker, broadcasts=broadcasts)
        heard = Heard()
        engine.communicator.add_broadcast_subscriber(lambda _, body, sender, subject, cid: heard.tell(subject))
        engine.run(hosts.Echo, x=1)
        assert [heard.next()[0] for _ in subjects] == subjects
        engine.communicator.broadcast_send(None, subject='end')
        assert heard.next() == ('end',)

    def test_what_makes_no_sense(self, store):
        with pytest.raises(ValueError, match="broadcasts must be 'all', 'terminal' or 'none', not 'some'"):
            Engine(store, broadcasts='some')


class TestHints:
    """With the looks at the store switched off, only a hint can tell."""

    @pytest.fixture(autouse=True)
    def nobody_looks(self, monkeypatch):
        monkeypatch.setattr('treadle.engine.store.sqlite.database.SqliteDatabase.changed_elsewhere', lambda self: False)
        monkeypatch.setattr('treadle.engine.claims.SWEEP', 3600.0)

    @pytest.mark.parametrize('broadcasts', ['all', 'none'])
    def test_the_end_of_what_another_engine_runs(self, broker, make_engine, broadcasts):
        first = make_engine(broker=broker, broadcasts=broadcasts)
        second = make_engine(broker=broker, broadcasts=broadcasts)
        gate = f'end {broadcasts}'
        node = first.submit(hosts.Echo, x=1, gate=gate)
        GATES.wait_entered(gate)
        ended = second.future(node.pid)
        GATES.open(gate)
        assert ended.result(PATIENCE).outputs.y == 1

    def test_work_that_its_submitter_cannot_do(self, broker, make_engine):
        first = make_engine(broker=broker)
        make_engine(broker=broker, claims='all')
        first.core.claims.admits = lambda record: False
        node = first.submit(hosts.Echo, x=1)
        assert first.wait(node, PATIENCE).outputs.y == 1

    def test_a_kill_of_what_another_engine_runs(self, broker, make_engine):
        first, second = make_engine(broker=broker), make_engine(broker=broker)
        killed = threading.Event()
        hosts.KILLED['by another'] = killed
        node = first.submit(hosts.UntilKilled, name='by another')
        GATES.wait_entered('by another')
        second.kill(node.pid, 'enough')
        assert killed.wait(PATIENCE)
        GATES.open('by another')
        assert first.wait(node, PATIENCE).is_killed


def until_connected(*engines):
    for engine in engines:
        communicator = engine.communicator
        communicator.link.thread.bridge.submit(communicator.link.lifeline.session, None).result(PATIENCE)


class TestOutage:
    @pytest.fixture
    def rabbitmq(self, make_rabbitmq):
        return make_rabbitmq()

    def test_it_is_killed_and_started_again(self, rabbitmq, make_engine, monkeypatch, caplog):
        """Everything goes on by looking at the store, and is as quick as before when the broker is back."""
        caplog.set_level(logging.INFO, logger='treadle')
        first = make_engine(broker=rabbitmq.url())
        second = make_engine(broker=rabbitmq.url(), claims='all')
        first.core.claims.admits = lambda record: False
        rabbitmq.kill()
        for number in range(5):
            node = first.submit(hosts.Echo, x=number)
            assert first.wait(node, PATIENCE).outputs.y == number
        assert second.kill(first.submit(hosts.Echo, x=1, gate='away')) is True
        GATES.open('away')
        assert caplog.text.count('is away') == 2, 'each of the two says so once'
        rabbitmq.start()
        until_connected(first, second)
        monkeypatch.setattr('treadle.engine.store.sqlite.database.SqliteDatabase.changed_elsewhere', lambda self: False)
        monkeypatch.setattr('treadle.engine.claims.SWEEP', 3600.0)
        node = first.submit(hosts.Echo, x=7)
        assert first.wait(node, PATIENCE).outputs.y == 7
        assert [record.levelname for record in caplog.records if record.message.endswith('is back')] == [
            *['WARNING'] * 2, *['INFO'] * 2,
        ]  # fmt: skip

    def test_it_takes_nothing(self, rabbitmq, make_engine):
        """It is out of memory, say: it confirms nothing, and says nothing of it to those who publish."""
        engine = make_engine(broker=rabbitmq.url())
        rabbitmq.evaluate('vm_memory_monitor:set_vm_memory_high_watermark(0.0001)')
        for number in range(50):
            assert engine.run(hosts.Echo, x=number) == {'y': number}
        rabbitmq.evaluate('vm_memory_monitor:set_vm_memory_high_watermark(0.8)')
        assert ask(engine, engine.submit(hosts.Echo, x=1, gate='full').pid, 'kill') is True
        GATES.open('full')

    def test_stopping_does_not_wait_for_it(self, rabbitmq, make_engine):
        engine = make_engine(broker=rabbitmq.url())
        rabbitmq.kill()
        engine.run(hosts.Echo, x=1)
        began = time.monotonic()
        engine.stop(100)
        assert time.monotonic() - began < 50


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_forked_child_has_an_engine_of_its_own(broker, make_engine, store):
    engine = make_engine(broker=broker)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(Forked):
                engine.communicator.broadcast_send(None)
                raise AssertionError('it was not refused')
            own = Engine(store, broker).start()
            assert own.run(hosts.Echo, x=2) == {'y': 2}
            own.stop()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.run(hosts.Echo, x=1) == {'y': 1}
    assert ask(engine, engine.submit(hosts.Echo, x=1, gate='forked').pid, 'kill') is True
    GATES.open('forked')


class TestRpc:
    def test_any_engine_answers_for_any_pid(self, broker, make_engine):
        first, second, third = (make_engine(broker=broker) for _ in range(3))
        node = first.submit(hosts.Echo, x=1, gate='asked')
        GATES.wait_entered('asked')
        assert ask(third, node.pid, 'status')['state'] == 'ProcessState.RUNNING'
        assert ask(second, node.pid, 'pause', 'wait') is True
        assert first.load(node.pid).paused
        assert ask(third, node.pid, 'play') is True
        assert ask(second, node.pid, 'kill', 'enough') is True
        GATES.open('asked')
        assert first.wait(node, PATIENCE).is_killed
        with pytest.raises(RemoteException, match='there is no process 987654'):
            ask(second, 987654, 'status')

    def test_all_of_them(self, broker, make_engine):
        first, second = make_engine(broker=broker), make_engine(broker=broker)
        nodes = [first.submit(hosts.Echo, x=number, gate='all') for number in range(3)]
        second.communicator.broadcast_send({'intent': 'kill', 'message': 'all of you'}, subject='kill')
        for node in nodes:
            assert first.wait(node, PATIENCE).is_killed
        GATES.open('all')


class TestRollingRestart:
    """An engine that takes no calls leaves the RPCs to those that do."""

    @pytest.fixture
    def consumers(self, broker):
        raw = amqp.Amqp(broker)

        def until(count, queue='treadle.pids'):
            waited = threading.Event()
            while raw.consumers(queue) != count:
                waited.wait(0.02)

        return until

    def test_one_is_held_in_its_drain(self, broker, make_engine, consumers):
        first, second = make_engine(broker=broker), make_engine(broker=broker)
        node = first.submit(hosts.Echo, x=1, gate='drain')
        GATES.wait_entered('drain')
        for engine in (first, second):
            engine.communicator.add_task_subscriber(ProcessLauncher(engine))
        consumers(2)
        consumers(2, amqp.TASKS)
        stopping = threading.Thread(target=first.stop)
        stopping.start()
        consumers(1)
        consumers(1, amqp.TASKS)
        assert first.core.state == 'stopping'
        assert [ask(second, node.pid, 'pause') for _ in range(20)] == [True] * 20
        GATES.open('drain')
        stopping.join(PATIENCE)
        assert first.core.state == 'stopped'

    def test_one_that_is_dealt_some_all_the_same(self, broker, make_engine, consumers):
        first, second = make_engine(broker=broker), make_engine(broker=broker)
        node = second.submit(hosts.Echo, x=1, gate='crashed')
        first.core.crash = RuntimeError('a worker is no more')
        consumers(2)
        assert [ask(second, node.pid, 'status')['paused'] for _ in range(20)] == [False] * 20
        GATES.open('crashed')

    def test_one_that_is_alone_says_why_it_cannot(self, broker, make_engine):
        engine = make_engine(broker=broker)
        node = engine.submit(hosts.Echo, x=1, gate='alone')
        GATES.open('alone')
        engine.wait(node, PATIENCE)
        engine.core.crash = RuntimeError('a worker is no more')
        with pytest.raises(RemoteException, match=r'EngineStopped: engine .* has crashed'):
            ask(engine, node.pid, 'status')

    def test_one_that_starts_takes_calls_first(self, broker, make_engine, monkeypatch):
        answered = []
        begin = Core.begin

        def begins(core):
            answered.append(core.communicator._wanted().pids)
            begin(core)

        monkeypatch.setattr(Core, 'begin', begins)
        engine = make_engine(broker=broker)
        assert answered == [False]
        assert engine.communicator._wanted().pids


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.fixture
def answering_port() -> Iterator[Callable[[bytes], int]]:
    """Makes a port on which whoever connects is told one thing, or nothing, and then left alone."""
    servers: list[socket.socket] = []
    held: list[socket.socket] = []

    def answer(listener: socket.socket, what: bytes) -> None:
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                client, _ = listener.accept()
                held.append(client)
                if what:
                    client.sendall(what)
                    client.shutdown(socket.SHUT_WR)

    def make(what: bytes) -> int:
        listener = socket.create_server(('127.0.0.1', 0))
        servers.append(listener)
        thread = threading.Thread(target=answer, args=(listener, what))
        thread.start()
        threads.append(thread)
        return listener.getsockname()[1]

    threads: list[threading.Thread] = []
    yield make
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join(PATIENCE)
    for client in held:
        client.close()


class TestStart:
    def test_nobody_listens(self, store, unused_port):
        with pytest.raises(BrokerUnavailable, match=f'nothing listens on 127.0.0.1 port {unused_port}') as caught:
            Engine(store, broker=f'amqp://me:geheim@127.0.0.1:{unused_port}').start()
        assert '(broker)' in str(caught.value) and 'geheim' not in repr(caught.value)

    def test_from_the_environment(self, store, unused_port, monkeypatch):
        monkeypatch.setenv('TREADLE_BROKER', f'amqp://127.0.0.1:{unused_port}')
        with pytest.raises(BrokerUnavailable, match='TREADLE_BROKER'):
            Engine(store).start()
        Engine(store, broker='').start().stop()

    def test_one_that_says_nothing(self, store, answering_port):
        port = answering_port(b'')
        with pytest.raises(BrokerUnavailable, match='did not answer within 1 s'):
            Engine(store, broker=f'amqp://127.0.0.1:{port}/?connection_timeout=1').start()

    def test_one_that_is_no_broker(self, store, answering_port):
        port = answering_port(b'HTTP/1.1 400 Bad Request')
        with pytest.raises(BrokerUnavailable, match='does not speak AMQP'):
            Engine(store, broker=f'amqp://127.0.0.1:{port}').start()

    def test_a_wrong_password(self, store, broker):
        with pytest.raises(BrokerRefused, match="refuses the user 'guest' or its password") as caught:
            Engine(store, broker=broker.replace('guest:guest', 'guest:geheim')).start()
        assert 'geheim' not in str(caught.value)

    def test_what_waiting_cannot_mend(self, store, broker):
        with pytest.raises(BrokerRefused, match="refuses the user 'guest' or its password"):
            Engine(store, broker=broker.replace('guest:guest', 'guest:geheim')).start(needs_broker=False)

    def test_a_virtual_host_that_is_not_there(self, store, broker):
        with pytest.raises(BrokerRefused, match="onto the virtual host 'nowhere'"):
            Engine(store, broker=f'{broker.rpartition("/")[0]}/nowhere').start()

    def test_the_virtual_host_of_another_store(self, broker, store, make_engine):
        make_engine(broker=broker)
        with pytest.raises(BrokerRefused, match='belongs to another store; use one virtual host for each store'):
            Engine(f'{store}-other', broker=broker).start()
        make_engine(broker=broker)

    def test_it_is_waited_for(self, store, unused_port):
        engine = Engine(store, broker=f'amqp://127.0.0.1:{unused_port}').start(needs_broker=False)
        assert engine.run(hosts.Echo, x=1) == {'y': 1}
        engine.stop()
