"""Broadcasts that an engine sends, and RPCs that it answers for its processes."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future

import pytest

from communication import hosts
from treadle.engine import (
    BroadcastFilter,
    CommunicatorClosed,
    Engine,
    EngineStopped,
    ProcessFuture,
    ProcessListener,
    RemoteException,
    ToContext,
    UnroutableError,
    WorkChain,
)
from treadle.engine.communication import final_answer
from treadle.engine.communication.messages import Intent, decode_subject, intent_body
from treadle.engine.testing import BlockAt, FaultPoint
from treadle.threads import Forked

PATIENCE, GATES, Heard = hosts.PATIENCE, hosts.GATES, hosts.Heard


def ask(engine, pid, intent, message=None):
    return final_answer(engine.communicator.rpc_send(pid, intent_body(intent, message))).result(PATIENCE)


def subjects(heard, pid, last):
    """The changes of one process up to a state."""
    told = []
    while not told or told[-1][1] != last:
        sender, subject = heard.next()
        if sender == pid:
            told.append(decode_subject(subject))
    return told


@pytest.fixture
def heard(engine: Engine) -> Heard:
    """The senders and subjects of what the engine broadcasts."""
    heard = Heard()
    engine.communicator.add_broadcast_subscriber(
        lambda _, body, sender, subject, correlation_id: heard.tell(sender, subject)
    )
    return heard


class TestBroadcasts:
    def test_each_change_in_order(self, engine, heard):
        node = engine.run_get_node(hosts.Outputs)[1]
        assert subjects(heard, node.pid, 'finished') == [
            ('', 'created'),
            ('created', 'running'),
            ('running', 'finished'),
        ]

    def test_other_ends(self, engine, heard):
        with pytest.raises(ValueError, match='odd'):
            engine.run(hosts.Fails, metadata={'key': 'fails'})
        (failed,) = engine.query(key='fails')
        assert subjects(heard, failed.pid, 'excepted')[-1] == ('running', 'excepted')
        killed = engine.submit(hosts.Echo, x=1, gate='killed')
        GATES.wait_entered('killed')
        engine.kill(killed)
        assert subjects(heard, killed.pid, 'killed')[-1] == ('running', 'killed')
        GATES.open('killed')

    def test_of_functions(self, engine, heard):
        node = engine.run_get_node(hosts.double, x=3)[1]
        assert subjects(heard, node.pid, 'finished')[-1] == ('running', 'finished')

        class Calls(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                hosts.double(5)

        (called,) = engine.run_get_node(Calls)[1].called
        assert subjects(heard, called.pid, 'finished') == [
            ('', 'created'),
            ('created', 'running'),
            ('running', 'finished'),
        ]

    def test_after_the_commit(self, make_engine):
        """Whoever hears of a change reads it in the store."""
        with BlockAt(FaultPoint.BATCH_WRITTEN, hit=1_000_000) as block:
            engine = make_engine(faults=block)
            heard = Heard()
            engine.communicator.add_broadcast_subscriber(
                BroadcastFilter(
                    lambda _, body, sender, *rest: heard.tell(engine.load(sender).outputs.y),
                    subject='state_changed.*.finished',
                )
            )
            for number in range(20):
                engine.submit(hosts.Echo, x=number)
            assert sorted(heard.next() for _ in range(20)) == [(number,) for number in range(20)]

    def test_a_subscriber_may_call_run(self, engine):
        heard = Heard()

        def runs(_, body, sender, subject, correlation_id):
            if engine.load(sender).process_label == 'Outputs':
                heard.tell(engine.run(hosts.Echo, x=sender))

        engine.communicator.add_broadcast_subscriber(BroadcastFilter(runs, subject='state_changed.*.finished'))
        node = engine.submit(hosts.Outputs)
        assert heard.next() == ({'y': node.pid},)

    def test_a_slow_subscriber_does_not_hold_up_the_engine(self, engine):
        entered, opened = threading.Event(), threading.Event()

        def blocks(*message):
            entered.set()
            assert opened.wait(PATIENCE)

        engine.communicator.add_broadcast_subscriber(blocks)
        first = engine.submit(hosts.Echo, x=1)
        assert entered.wait(PATIENCE)
        assert engine.wait(first, PATIENCE).is_finished_ok
        assert engine.run(hosts.Echo, x=2) == {'y': 2}
        opened.set()

    def test_nobody_subscribed_no_thread(self, make_engine):
        before = {thread.name for thread in threading.enumerate()}
        engine = make_engine()
        engine.run(hosts.Outputs)
        started = {thread.name for thread in threading.enumerate()} - before
        assert not [name for name in started if 'subscriber' in name or 'listener' in name]

    def test_two_engines_have_two_communicators(self, make_engine, tmp_path):
        heard = {}
        engines = [make_engine(f'sqlite:///{tmp_path}/{name}.db', name=name) for name in 'ab']
        for engine in engines:
            heard[engine.name] = Heard()
            engine.communicator.add_broadcast_subscriber(
                BroadcastFilter(
                    lambda _, body, sender, subject, cid, name=engine.name: heard[name].tell(name),
                    subject='*.finished',
                )
            )
        assert engines[0].communicator is not engines[1].communicator
        engines[0].run(hosts.Echo, x=1)
        assert heard['a'].next() == ('a',)
        engines[0].stop()
        assert heard['b'].is_empty
        engines[1].run(hosts.Echo, x=1)
        assert heard['b'].next() == ('b',)


class TestRpc:
    def test_status_is_that_of_plumpy(self, engine):
        node = engine.submit(hosts.Echo, x=1, gate='status')
        GATES.wait_entered('status')
        engine.pause(node)
        status = engine.communicator.rpc_send(node.pid, {'intent': 'status', 'message': None}).result(PATIENCE)
        assert status == {
            'ctime': node.created_at.timestamp(),
            'paused': True,
            'process_string': f'<Echo pid={node.pid}>',
            'state': 'ProcessState.RUNNING',
        }
        engine.play(node)
        GATES.open('status')
        engine.wait(node, PATIENCE)
        assert ask(engine, node.pid, Intent.STATUS)['state'] == 'ProcessState.FINISHED'

    def test_intents_are_answered_with_how_it_is_now(self, engine):
        node = engine.submit(hosts.Echo, x=1, gate='intents')
        GATES.wait_entered('intents')
        taken = engine.communicator.rpc_send(node.pid, intent_body(Intent.PAUSE, 'for lunch')).result(PATIENCE)
        assert isinstance(taken, Future), "plumpy's controllers wait twice"
        assert taken.result(PATIENCE) is True
        assert node.paused
        assert ask(engine, node.pid, Intent.PAUSE) is True, 'it is paused'
        assert [ask(engine, node.pid, Intent.PLAY) for _ in range(2)] == [True, True]
        assert not node.paused
        assert [ask(engine, node.pid, Intent.KILL, 'enough') for _ in range(2)] == [True, True]
        assert (node.state, node.exit_message) == ('killed', 'enough')
        assert [ask(engine, node.pid, intent) for intent in (Intent.PAUSE, Intent.PLAY)] == [False, False]
        assert 'paused: for lunch' in [entry.message for entry in node.log]
        GATES.open('intents')

    def test_what_has_finished_cannot_be_controlled(self, engine):
        node = engine.run_get_node(hosts.Echo, x=1)[1]
        assert [ask(engine, node.pid, intent) for intent in (Intent.PAUSE, Intent.PLAY, Intent.KILL)] == [False] * 3

    def test_processes_that_nothing_runs_are_reached(self, make_engine):
        first = make_engine()
        node = first.submit(hosts.Outputs, gate='left')
        GATES.wait_entered('left')
        first.pause(node)
        GATES.open('left')
        first.stop()
        second = make_engine()
        assert ask(second, node.pid, Intent.KILL) is True
        assert second.load(node.pid).is_killed

    def test_a_message_that_is_none_is_rejected_and_harms_nothing(self, engine, caplog):
        node = engine.run_get_node(hosts.Echo, x=1)[1]
        for message in (None, 'status', {'intent': 'dance'}, {'intent': 'kill', 'message': 3}):
            with pytest.raises(RemoteException, match='InvalidMessage: an RPC to a process is'):
                engine.communicator.rpc_send(node.pid, message).result(PATIENCE)
        assert caplog.text.count(f'a message to process {node.pid} is rejected') == 4
        assert ask(engine, node.pid, Intent.STATUS)['paused'] is False

    def test_unknown_pids(self, engine):
        for intent in Intent:
            with pytest.raises(RemoteException, match='ProcessNotFound: there is no process 987'):
                ask(engine, 987, intent)

    def test_only_while_the_engine_runs(self, store):
        engine = Engine(store)
        with pytest.raises(UnroutableError, match='an engine answers for the processes of its store while it runs'):
            engine.communicator.rpc_send(1, intent_body(Intent.STATUS))
        with engine:
            node = engine.run_get_node(hosts.Echo, x=1)[1]
            assert ask(engine, node.pid, Intent.STATUS)
        with pytest.raises(CommunicatorClosed):
            engine.communicator.rpc_send(node.pid, intent_body(Intent.STATUS))


class TestAll:
    """What plumpy's controllers broadcast to all processes."""

    def done(self, engine):
        """What was broadcast before is done."""
        ask(engine, engine.run_get_node(hosts.Echo, x=1)[1].pid, Intent.STATUS)

    def test_pause_play_and_kill(self, engine):
        nodes = [engine.submit(hosts.Outputs, gate=f'all {number}') for number in range(3)]
        for number in range(3):
            GATES.wait_entered(f'all {number}')
        ended = engine.run_get_node(hosts.Echo, x=1)[1]
        send = engine.communicator.broadcast_send
        send({'intent': 'pause', 'message': 'for lunch'}, subject='pause')
        self.done(engine)
        assert [node.paused for node in nodes] == [True] * 3
        assert nodes[0].log[-1].message == 'paused: for lunch'
        send(None, subject='play')
        self.done(engine)
        assert [node.paused for node in nodes] == [False] * 3
        send({'intent': 'kill', 'message': 'enough', 'force_kill': False}, subject='kill')
        self.done(engine)
        assert {(node.state, node.exit_message) for node in nodes} == {('killed', 'enough')}
        assert ended.is_finished_ok
        for number in range(3):
            GATES.open(f'all {number}')

    def test_children_come_with_their_parents(self, engine):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.call)

            def call(self):
                return ToContext(child=self.submit(hosts.Outputs, gate='child of all'))

        node = engine.submit(Parent)
        GATES.wait_entered('child of all')
        engine.communicator.broadcast_send({'intent': 'pause', 'message': None}, subject='pause')
        self.done(engine)
        (child,) = node.called
        assert (node.paused, child.paused) == (True, True)
        engine.play(node)
        assert (node.paused, child.paused) == (False, False), 'it was not paused by itself'
        GATES.open('child of all')
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_what_makes_no_sense(self, engine, caplog):
        for body in (3, {'message': 3}, {'message': {'a': 1}}):
            engine.communicator.broadcast_send(body, subject='kill')
        for subject in ('status', 'killed', None, 7, ['kill']):
            engine.communicator.broadcast_send(None, subject=subject)
        self.done(engine)
        assert caplog.text.count('a message to process any is rejected') == 3


class TestStop:
    def test_what_was_committed_is_heard(self, store):
        heard: list[str] = []
        with Engine(store) as engine:
            engine.communicator.add_broadcast_subscriber(
                BroadcastFilter(lambda _, body, sender, *rest: heard.append(sender), subject='*.finished')
            )
            nodes = [engine.submit(hosts.Echo, x=number) for number in range(50)]
            engine.wait(nodes, PATIENCE)
        assert sorted(heard) == [node.pid for node in nodes]

    def test_a_subscriber_that_waits_for_a_process_does_not_hold_it_up(self, store):
        heard = Heard()
        waiting = threading.Event()
        engine = Engine(store).start()

        def waits(_, body, sender, subject, correlation_id):
            future = engine.future(held)
            waiting.set()
            try:
                future.result(PATIENCE)
            except EngineStopped as error:
                heard.tell(str(error))

        held = engine.submit(hosts.Echo, x=1)
        engine.wait(held, PATIENCE)
        held = engine.submit(hosts.Echo, x=1)
        engine.wait(held, PATIENCE)
        held = engine.submit(hosts.Outputs, gate='never')
        GATES.wait_entered('never')
        engine.pause(held)
        GATES.open('never')
        engine.communicator.add_broadcast_subscriber(BroadcastFilter(waits, subject='*.finished'))
        engine.run(hosts.Echo, x=2)
        assert waiting.wait(PATIENCE)
        engine.stop()
        assert f'stopped before process {held.pid} ended' in heard.next()[0]

    def test_a_subscriber_may_stop_the_engine(self, store):
        engine = Engine(store).start()
        heard = Heard()

        def stops(*message):
            engine.communicator.remove_broadcast_subscriber('stops')
            engine.stop()
            heard.tell(engine.is_running)

        engine.communicator.add_broadcast_subscriber(BroadcastFilter(stops, subject='*.finished'), 'stops')
        engine.submit(hosts.Echo, x=1)
        assert heard.next() == (False,)
        engine.stop()

    def test_an_engine_that_does_not_come_up_answers_no_tasks(self, tmp_path):
        (tmp_path / 'store.db').write_text('this is no database, and not by accident')
        engine = Engine(f'sqlite:///{tmp_path}/store.db')
        task = engine.communicator.task_send({'task': 'launch'})
        with pytest.raises(Exception, match='database'):
            engine.start()
        with pytest.raises(CommunicatorClosed):
            task.result(PATIENCE)


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_forked_child_is_told_at_once_and_the_parent_goes_on(engine, heard):
    engine.run(hosts.Echo, x=1)
    listener = ProcessListener()
    engine.add_process_listener(listener)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert engine.communicator.is_closed()
            for call in (
                lambda: engine.communicator.broadcast_send(None),
                lambda: engine.communicator.rpc_send(1, intent_body(Intent.STATUS)),
                lambda: engine.add_process_listener(listener),
                lambda: engine.remove_process_listener(listener),
                lambda: ProcessFuture(1, engine, loop=asyncio.new_event_loop()),
            ):
                try:
                    call()
                except Forked:
                    continue
                raise AssertionError('it was not refused')
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    node = engine.run_get_node(hosts.Echo, x=2)[1]
    assert subjects(heard, node.pid, 'finished')[-1] == ('running', 'finished')
