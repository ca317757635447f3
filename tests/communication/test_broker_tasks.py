"""Tasks that come by a broker: each is done once however often it is delivered, and its sender hears of the end."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import Future

import pytest
import yaml

from communication import amqp, hosts
from treadle.engine import (
    Engine,
    MessageNotSent,
    ProcessLauncher,
    RemoteException,
    StoreUnavailable,
    TaskRejected,
)
from treadle.engine.communication import final_answer
from treadle.engine.communication.messages import continue_body, create_body, launch_body
from treadle.engine.communication.wire import encode
from treadle.engine.store.control import write_once
from treadle.engine.store.intents import kill
from treadle.engine.testing import BlockAt, FaultPoint

PATIENCE, GATES = hosts.PATIENCE, hosts.GATES
ECHO = f'{hosts.HERE}:Echo'


@pytest.fixture
def raw(broker):
    raw = amqp.Amqp(broker)
    raw.make_queue('answers')
    return raw


@pytest.fixture
def make_worker(broker, make_engine):
    """Makes engines that take tasks, and run whatever they can."""

    def make(loader=None, **options) -> Engine:
        engine = make_engine(broker=broker, claims='all', **options)
        engine.communicator.add_task_subscriber(ProcessLauncher(engine, loader))
        return engine

    return make


@pytest.fixture
def sender(broker, make_engine):
    """What sends tasks, and runs nothing of what comes of them."""
    engine = make_engine(broker=broker)
    engine.core.claims.admits = lambda record: False
    return engine.communicator


def answers_of(raw, count):
    """The next answers, as correlation id and what is said."""
    told = []
    waited = threading.Event()
    while len(told) < count:
        message = raw.get('answers')
        if message is None:
            waited.wait(0.02)
        else:
            said = yaml.safe_load(message[0])
            said.pop('host')
            said.pop('treadle_kind', None)
            told.append((message[1], said))
    return told


def take_store_away(worker, monkeypatch, times):
    """Have the next processes that come of tasks be refused by the store."""
    fails = iter([StoreUnavailable('the disk is full')] * times)
    submit_once = worker.core.calls.starts.submit_once

    def submit(*arguments):
        for error in fails:
            raise error
        return submit_once(*arguments)

    monkeypatch.setattr(worker.core.calls.starts, 'submit_once', submit)


def body(task, no_reply=False):
    return encode([task, no_reply])


class TestOnce:
    @pytest.mark.parametrize('kind', ['launch', 'create'])
    def test_a_message_that_is_delivered_twice(self, raw, make_worker, kind):
        worker = make_worker()
        task = launch_body(ECHO, {'x': 1}) if kind == 'launch' else create_body(ECHO, {'x': 1})
        raw.task(body(task), body(task), correlation_id='same', reply_to='answers')
        raw.task(body(task), correlation_id='other', reply_to='answers')
        told = answers_of(raw, 5)
        pids = {said['result'] for _, said in told if 'result' in said}
        assert [said for _, said in told if 'pending' in said] == [{'pending': None}] * 2, 'once for each of them'
        assert len(pids) == 2 and sorted(node.pid for node in worker.query(process_label='Echo')) == sorted(pids)

    def test_by_two_workers_and_when_the_process_has_ended(self, raw, make_worker):
        first, second = make_worker(), make_worker()
        task = launch_body(ECHO, {'x': 1}, nowait=False)
        for _ in range(6):
            raw.task(body(task), correlation_id='same', reply_to='answers')
        told = answers_of(raw, 2)
        assert told[0] == ('same', {'pending': None})
        assert told[1] == ('same', {'result': {'y': 1}})
        (node,) = first.query(process_label='Echo')
        assert second.wait(node.pid, PATIENCE).outputs.y == 1
        assert first.query(process_label='Echo') == [node]

    def test_one_that_is_cut_off_before_it_is_acknowledged(self, raw, make_worker, broker, services):
        with BlockAt(FaultPoint.SUBMIT_POSTED) as block:
            worker = make_worker(faults=block)
            raw.task(body(launch_body(ECHO, {'x': 1}, nowait=False)), correlation_id='cut', reply_to='answers')
            block.wait_reached()
            services.shared('rabbitmq').close_connections(broker.rpartition('/')[2])
            waited = threading.Event()
            while not worker.communicator.link.lifeline.losses:
                waited.wait(0.01)
            block.release()
        assert answers_of(raw, 2)[-1] == ('cut', {'result': {'y': 1}})
        assert len(worker.query(process_label='Echo')) == 1
        assert raw.count(amqp.TASKS) == 0

    @pytest.mark.parametrize('kind', ['launch', 'continue'])
    def test_the_sender_of_a_task_that_is_done_at_once_is_told_before_it_is_acknowledged(
        self, raw, make_worker, monkeypatch, kind
    ):
        """As when the worker dies in between: what is not acknowledged comes again."""
        worker = make_worker()
        node = worker.submit(hosts.Echo, x=1)
        link, failures = worker.communicator.link, iter([MessageNotSent('it is overloaded')])
        send_answer = link.send_answer

        async def send(message, instead=''):
            if b'result' in message.body and (failure := next(failures, None)) is not None:
                raise failure
            await send_answer(message, instead)

        monkeypatch.setattr(link, 'send_answer', send)
        monkeypatch.setattr('treadle.engine.communication.incoming.GIVE_BACK_AFTER', 0.05)
        task = launch_body(ECHO, {'x': 1}) if kind == 'launch' else continue_body(node.pid, nowait=True)
        raw.task(body(task), correlation_id='told', reply_to='answers')
        while 'result' not in (told := answers_of(raw, 1)[0][1]):
            """That it was taken."""
        assert next(failures, None) is None and told['result'] >= node.pid
        assert len(worker.query(process_label='Echo')) == (2 if kind == 'launch' else 1)

    def test_a_key_of_the_users_own_goes_on_working(self, raw, make_worker):
        worker = make_worker()
        task = launch_body(ECHO, {'x': 1, 'metadata': {'key': 'mine'}}, nowait=False)
        for name in ('one', 'two'):
            raw.task(body(task), correlation_id=name, reply_to='answers')
        answered = set()
        while answered != {'one', 'two'}:  # an answer may come twice
            ((name, said),) = answers_of(raw, 1)
            if 'pending' not in said:
                assert said == {'result': {'y': 1}}
                answered.add(name)
        assert len(worker.query(process_label='Echo')) == 1

    def test_without_a_correlation_id_and_without_a_reply(self, raw, make_worker):
        worker = make_worker()
        raw.task(body(launch_body(ECHO, {'x': 1}), True), body(launch_body(ECHO, {'x': 1}, nowait=False)))
        waited = threading.Event()
        while len(worker.query(process_label='Echo')) < 2:
            waited.wait(0.01)

    def test_it_is_acknowledged_while_the_process_runs(self, raw, make_worker, sender):
        worker = make_worker()
        sent = sender.task_send(launch_body(ECHO, {'x': 1, 'gate': 'runs'}, nowait=False))
        pending = sent.result(PATIENCE)
        GATES.wait_entered('runs')
        waited = threading.Event()
        while worker.communicator._incoming._offering:  # what is being put on record, to be acknowledged then
            waited.wait(0.01)
        worker.communicator.close()
        assert raw.count(amqp.TASKS) == 0, 'nothing goes back to the queue'
        GATES.open('runs')
        assert not pending.done()


class TestWhoAnswers:
    def test_another_engine_than_the_one_that_took_it(self, make_worker, sender):
        first = make_worker()
        sent = sender.task_send(launch_body(f'{hosts.HERE}:Outputs', {'gate': 'moves'}, nowait=False))
        pending = sent.result(PATIENCE)
        GATES.wait_entered('moves')
        (node,) = first.query(process_label='Outputs')
        first.pause(node)
        GATES.open('moves')
        first.stop()
        second = make_worker()
        second.play(node.pid)
        assert final_answer(pending).result(PATIENCE)['a'] == [3]

    def test_an_end_that_was_committed_without_a_broker(self, make_worker, sender, monkeypatch):
        monkeypatch.setattr('treadle.engine.task_replies.COURTESY', 0.0)
        monkeypatch.setattr('treadle.engine.task_replies.SWEEP', 0.1)
        worker = make_worker()
        sent = sender.task_send(launch_body(ECHO, {'x': 1, 'gate': 'command'}, nowait=False))
        GATES.wait_entered('command')
        (node,) = worker.query(process_label='Echo')
        write_once(worker.location, lambda transaction: kill(transaction, [node.pid], 'by command'))
        with pytest.raises(RemoteException, match=r'KilledError: .*by command'):
            final_answer(sent).result(PATIENCE)
        GATES.open('command')

    def test_an_answer_whose_sending_is_cancelled(self, make_worker, raw, monkeypatch):
        monkeypatch.setattr('treadle.engine.task_replies.COURTESY', 0.0)
        monkeypatch.setattr('treadle.engine.task_replies.SWEEP', 0.1)
        worker, cancelled = make_worker(), Future()
        cancelled.cancel()
        firsts, send_answer = iter([cancelled]), worker.communicator.send_answer

        def send(*arguments, **options):
            return next(firsts, None) or send_answer(*arguments, **options)

        monkeypatch.setattr(worker.communicator, 'send_answer', send)
        raw.task(body(launch_body(ECHO, {'x': 1}, nowait=False)), correlation_id='again', reply_to='answers')
        assert answers_of(raw, 2)[-1] == ('again', {'result': {'y': 1}})
        assert next(firsts, None) is None

    def test_to_go_on_with_one_that_has_ended(self, make_worker, sender):
        worker = make_worker()
        pid = worker.run_get_pid(hosts.Echo, x=3).pid
        assert final_answer(sender.task_send(continue_body(pid))).result(PATIENCE) == {'y': 3}
        assert final_answer(sender.task_send(continue_body(pid, nowait=True))).result(PATIENCE) == pid

    def test_what_the_process_raises(self, make_worker, sender):
        make_worker()
        with pytest.raises(RemoteException, match='ValueError: it is odd'):
            final_answer(sender.task_send(launch_body(f'{hosts.HERE}:Fails', nowait=False))).result(PATIENCE)

    def test_outputs_that_are_no_data_for_the_wire(self, make_worker, sender):
        make_worker()
        task = launch_body(f'{hosts.HERE}:GivesFile', nowait=False)
        with pytest.raises(RemoteException, match='this cannot be sent, since it is more than plain data'):
            final_answer(sender.task_send(task)).result(PATIENCE)


class TestLargeAnswers:
    TASK = staticmethod(lambda length: launch_body(f'{hosts.HERE}:GivesText', {'length': length}, nowait=False))

    def test_more_than_is_read_of_a_message(self, make_worker, sender, monkeypatch):
        worker = make_worker()
        monkeypatch.setattr('treadle.engine.communication.wire.LARGEST', 10_000)
        with pytest.raises(RemoteException, match='more than 10000 are not read') as caught:
            final_answer(sender.task_send(self.TASK(20_000))).result(PATIENCE)
        (node,) = worker.query(process_label='GivesText')
        assert f'what process {node.pid} has put out is in the store' in str(caught.value)
        assert len(node.outputs.text) == 20_000

    def test_more_than_the_broker_takes(self, make_engine, make_rabbitmq):
        url = make_rabbitmq(settings={'max_message_size': '50000'}).url()
        worker, sender = make_engine(broker=url, claims='all'), make_engine(broker=url)
        worker.communicator.add_task_subscriber(ProcessLauncher(worker))
        with pytest.raises(RemoteException, match=r'too large for the broker, .* is 50000; .* is in the store'):
            final_answer(sender.communicator.task_send(self.TASK(60_000))).result(PATIENCE)
        assert worker.communicator.link.lifeline.losses <= 2, 'it is not sent again and again'
        answer = final_answer(sender.communicator.task_send(self.TASK(10))).result(PATIENCE)
        assert answer == {'text': 10 * 'x'}
        worker.stop()
        sender.stop()


class TestRejections:
    class Blind:
        def load_object(self, identifier):
            raise ValueError(f'{identifier} is not here')

    def test_a_class_that_only_another_worker_can_import(self, make_worker, sender):
        make_worker(self.Blind())
        seeing = make_worker()
        for number in range(5):
            answer = final_answer(sender.task_send(launch_body(ECHO, {'x': number}, nowait=False)))
            assert answer.result(PATIENCE) == {'y': number}
        assert len(seeing.query(process_label='Echo')) == 5

    def test_a_class_that_nobody_can_import(self, make_worker, sender, raw, caplog):
        for _ in range(2):
            make_worker(self.Blind())
        with pytest.raises(TaskRejected, match='is not here'):
            final_answer(sender.task_send(launch_body(ECHO, {'x': 1}))).result(PATIENCE)
        assert 'nobody takes a task: ' in caplog.text
        assert raw.count(amqp.TASKS) == 0

    def test_what_is_wrong_in_itself_is_asked_of_nobody_else(self, make_worker, sender, caplog):
        for _ in range(2):
            make_worker()
        for task, why in (
            (launch_body(ECHO), 'inputs.x: required'),
            (continue_body(98765), 'there is no process 98765'),
            ({'task': 'dance', 'args': {}}, "'dance' is no task"),
        ):
            caplog.clear()
            with pytest.raises(TaskRejected, match=why):
                final_answer(sender.task_send(task)).result(PATIENCE)
            assert caplog.text.count('a task is rejected') == 1

    @pytest.mark.parametrize(
        ('task', 'properties', 'why'),
        [
            (continue_body(2**63), {}, r'Expected `int` <= 9223372036854775807 - at `\$.pid`'),
            (launch_body(ECHO, {'x': 1}), {'correlation_id': 'a\0b'}, r"the correlation_id 'a\\x00b' of the"),
            (launch_body(ECHO, {'x': 1}, nowait=False), {'reply_to': 'a\0b'}, r"the reply_to 'a\\x00b' of the"),
            (continue_body(1), {'reply_to': 'a\0b'}, r"the reply_to 'a\\x00b' of the"),
        ],
        ids=['pid', 'correlation id', 'reply of a launch', 'reply of a continue'],
    )
    def test_what_no_store_can_keep(self, store_url, make_worker, raw, caplog, task, properties, why):
        worker = make_worker(url=store_url)
        worker.run(hosts.Echo, x=1)
        raw.task(body(task), **{'correlation_id': 'c', 'reply_to': 'answers', **properties})
        waited = threading.Event()
        while not re.search(rf'a task is rejected: .*{why}', caplog.text):
            assert 'goes back to the queue' not in caplog.text
            waited.wait(0.01)
        if 'reply_to' not in properties:
            assert re.search(why, answers_of(raw, 1)[0][1]['exception'])
        assert raw.count(amqp.TASKS) == 0 and len(worker.query()) == 1

    def test_each_time_it_goes_back_later(self, make_worker, raw, monkeypatch):
        worker = make_worker()
        monkeypatch.setattr('treadle.engine.communication.incoming.GIVE_BACK_AFTER', 0.001)
        monkeypatch.setattr('treadle.engine.communication.incoming.GIVE_BACK_MOST', 0.01)
        pauses, sleep = [], asyncio.sleep

        async def pause(seconds):
            pauses.append(seconds)
            await sleep(seconds)

        take_store_away(worker, monkeypatch, times=6)
        monkeypatch.setattr('treadle.engine.communication.incoming.asyncio.sleep', pause)
        raw.task(body(launch_body(ECHO, {'x': 1})), correlation_id='c', reply_to='answers')
        answers_of(raw, 2)
        assert [each for each in pauses if 0.001 <= each <= 0.01] == [0.001, 0.002, 0.004, 0.008, 0.01, 0.01]

    def test_a_store_that_is_away_is_no_verdict(self, make_worker, sender, monkeypatch):
        worker = make_worker()
        monkeypatch.setattr('treadle.engine.communication.incoming.GIVE_BACK_AFTER', 0.05)
        take_store_away(worker, monkeypatch, times=3)
        answer = final_answer(sender.task_send(launch_body(ECHO, {'x': 1}, nowait=False)))
        assert answer.result(PATIENCE) == {'y': 1}
        assert len(worker.query(process_label='Echo')) == 1
