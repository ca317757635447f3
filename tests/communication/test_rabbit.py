"""What the communicator on RabbitMQ promises beyond the contract: hostile messages, lost connections, its threads."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import threading
import uuid
from concurrent.futures import Future

import pytest
import yaml

from communication import amqp, hosts
from support.proxy import Proxy
from treadle.engine import (
    CommunicatorClosed,
    InvalidMessage,
    MessageNotSent,
    RemoteException,
    TaskRejected,
    UnroutableError,
)
from treadle.engine.communication import answers, final_answer
from treadle.engine.communication.address import address_of
from treadle.engine.communication.rabbit import RabbitCommunicator
from treadle.engine.communication.session import Session, SessionLost
from treadle.threads import Forked, LoopState, StartFailed, WrongThread

PATIENCE, Heard = hosts.PATIENCE, hosts.Heard
GONE = 'amqp://guest:guest@127.0.0.1:1/'


@pytest.fixture
def make(broker, no_leaked_threads):
    """Makes communicators on the broker, and closes them."""
    made = []

    def make(url=broker, **options):
        communicator = RabbitCommunicator(address_of(url), **options)
        made.append(communicator)
        communicator.start(is_needed=url == broker)
        return communicator

    yield make
    for communicator in made:
        communicator.close(10.0)


@pytest.fixture
def rabbit(make):
    return make()


@pytest.fixture
def raw(broker):
    return amqp.Amqp(broker)


@pytest.fixture
def cut(services, broker):
    """Closes all connections, as an administrator may."""
    return functools.partial(services.shared('rabbitmq').close_connections, broker.rpartition('/')[2])


def answer(future):
    return final_answer(future).result(PATIENCE)


def until_lost(communicator, times=1):
    waited = threading.Event()
    while communicator.link.lifeline.losses < times:
        waited.wait(0.01)


class TestHostileMessages:
    BODIES = {  # noqa: RUF012
        'empty': b'',
        'not utf-8': b'\xff\xfe\x00',
        'no yaml': b'a: b: c',
        'of the wrong shape': b'[1, 2, 3]',
        'a task that is none': b'dance',
        'fields missing': b'{"task": "launch"}',
        'deep json': b'[' * 10_000 + b']' * 10_000,
        'deep yaml': b'- ' * 10_000 + b'x',
        'an object': b'!!python/object/apply:os.system ["touch hacked"]',
        'an object with state': b'!!python/object:treadle.engine.Engine {}',
        'a module': b'!!python/module:os',
        'a name': b'!!python/name:os.system',
        'refers to itself': b'&a [*a]',
        'laughs': yaml.dump((lambda laugh: [laugh := [laugh] * 10 for _ in range(9)][-1])(['ha'])).encode(),
        'a uuid that is none': b'!!python/object:uuid.UUID {int: many}',
        'a date that is none': b'2025-13-45',
        'a timestamp that is none': b'!!timestamp x',
        'two documents': b'--- 1\n--- 2\n',
        'a huge number': b'9' * 6000,
    }

    @pytest.fixture(params=BODIES)
    def body(self, request):
        return self.BODIES[request.param]

    def test_as_a_task(self, rabbit, raw, body, caplog):
        raw.make_queue('answers')
        rabbit.add_task_subscriber(lambda _, task: task)
        raw.task(body, body, correlation_id='c', reply_to='answers')
        raw.task(body)
        assert answer(rabbit.task_send({'good': 1})) == {'good': 1}
        said, correlation_id = raw.get('answers')
        assert correlation_id == 'c' and 'exception' in yaml.safe_load(said)
        assert 'a task is rejected: ' in caplog.text
        assert raw.count(amqp.TASKS) == 0

    def test_as_an_rpc(self, rabbit, raw, body):
        raw.make_queue('answers')
        rabbit.add_process_subscriber(lambda _, pid, message: f'{pid}: {message}')
        for properties in ({'correlation_id': 'c', 'reply_to': 'answers'}, {}, {'reply_to': 'no such queue'}):
            raw.publish(amqp.MESSAGES, '[rpc].7', body, **properties)
        assert answer(rabbit.rpc_send(7, 'good')) == '7: good'
        assert raw.get('answers')[1] == 'c'

    def test_as_a_broadcast(self, rabbit, raw, body):
        heard = Heard()
        rabbit.add_broadcast_subscriber(lambda _, body, *rest: heard.tell(body))
        raw.publish(amqp.MESSAGES, '[broadcast]', body)
        rabbit.broadcast_send('good')
        assert heard.until(('good',)) == [('good',)]

    def test_as_an_answer_and_as_a_hint(self, rabbit, raw, body):
        rabbit.add_rpc_subscriber(lambda _, message: message, 'me')
        raw.publish('', rabbit.link.answers_queue, body, correlation_id='nobody')
        raw.publish('treadle.hints', '', body)
        future = rabbit._replies.expect('somebody')
        raw.publish('', rabbit.link.answers_queue, body, correlation_id='somebody')
        with pytest.raises(RemoteException, match='an answer came that'):
            answer(future)
        assert answer(rabbit.rpc_send('me', 1)) == 1

    def test_a_hundred_megabytes(self, rabbit, raw, caplog):
        raw.make_queue('answers')
        rabbit.add_task_subscriber(lambda _, task: task)
        raw.task(b'x' * 100_000_000, correlation_id='c', reply_to='answers')
        assert answer(rabbit.task_send('good')) == 'good'
        while (said := raw.get('answers')) is None:
            threading.Event().wait(0.05)
        assert 'it has 100000000 bytes; more than 16777216 are not read' in said[0].decode()

    @pytest.mark.parametrize(
        'properties', [{'content_type': 'application/x-python-serialize'}, {'content_encoding': 'gzip'}]
    )
    def test_other_content(self, rabbit, raw, caplog, properties):
        rabbit.add_task_subscriber(lambda _, task: task)
        raw.task(b'["good", false]', **properties)
        assert answer(rabbit.task_send('good')) == 'good'
        assert 'a task is rejected: its content is ' in caplog.text

    def test_what_kiwipy_sends_arrives_as_it_was(self, rabbit, raw):
        heard = Heard()
        rabbit.add_task_subscriber(lambda _, task: heard.tell(task))
        value = {'tuple': (1, ('two', None)), 'uuid': uuid.uuid4(), 'text': 'é\x85\u2028 \U0001f600', 'float': 1e300}
        raw.task(yaml.dump((value, True), encoding='utf-8'))
        assert heard.next() == (value,)
        assert rabbit.task_send(value, no_reply=True) is None
        assert heard.next() == (value,)

    def test_what_is_no_data_is_refused_where_it_is_sent(self, rabbit):
        for send in (rabbit.task_send, rabbit.broadcast_send, lambda value: rabbit.rpc_send(1, value)):
            with pytest.raises(ValueError, match='this cannot be sent, since it is more than plain data'):
                send({'a': object()})

    def test_an_answer_that_is_no_data(self, rabbit):
        rabbit.add_rpc_subscriber(lambda _, message: object(), 'me')
        with pytest.raises(RemoteException, match='more than plain data'):
            answer(rabbit.rpc_send('me', None))


class TestLargeMessages:
    def test_more_than_is_read(self, rabbit, monkeypatch):
        monkeypatch.setattr('treadle.engine.communication.wire.LARGEST', 1000)
        for value in (2000 * 'x', [(2000 * 'x',)]):
            for send in (rabbit.task_send, rabbit.broadcast_send, lambda value: rabbit.rpc_send(1, value)):
                with pytest.raises(InvalidMessage, match=r'cannot be sent, since it has .* more than 1000 are not'):
                    send(value)
        rabbit.add_rpc_subscriber(lambda _, message: 2000 * message, 'me')
        with pytest.raises(RemoteException, match='more than 1000 are not read'):
            answer(rabbit.rpc_send('me', 'x'))

    def test_an_error_with_a_long_text(self, rabbit):
        def fails(_, message):
            raise ValueError(100_000_000 * 'x')

        rabbit.add_rpc_subscriber(fails, 'me')
        with pytest.raises(RemoteException, match=r'^ValueError: x+\.\.\.$') as caught:
            answer(rabbit.rpc_send('me', 1))
        assert len(str(caught.value)) < 100_000

    def test_more_than_the_broker_takes(self, make_rabbitmq, caplog):
        rabbit = RabbitCommunicator(address_of(make_rabbitmq(settings={'max_message_size': '1000'}).url()))
        rabbit.start()
        heard = Heard()
        rabbit.add_broadcast_subscriber(lambda _, body, *rest: heard.tell(body))
        rabbit.add_rpc_subscriber(lambda _, message: message * 2000, 'me')
        rabbit.add_task_subscriber(lambda _, task: task)
        why = '2[0-9]{3} bytes is too large for the broker, whose max_message_size is 1000'
        with pytest.raises(MessageNotSent, match=why):
            answer(rabbit.task_send(2000 * 'x'))
        with pytest.raises(MessageNotSent, match=why):
            answer(rabbit.rpc_send('me', 2000 * 'x'))
        with pytest.raises(RemoteException, match=why):
            answer(rabbit.rpc_send('me', 'x'))
        rabbit.broadcast_send(2000 * 'x')
        until_lost(rabbit, 4)
        rabbit.broadcast_send('heard')
        assert heard.next() == ('heard',)
        assert re.search(f'a broadcast is dropped: .*{why}', caplog.text)
        assert answer(rabbit.task_send(1)) == 1
        assert rabbit.link.lifeline.losses == 4, 'once for each of them'
        rabbit.close()


class TestLostConnections:
    def test_what_was_subscribed_is_subscribed_again(self, rabbit, make, cut):
        heard, other = Heard(), make()
        rabbit.add_rpc_subscriber(lambda _, message: message, 'me')
        rabbit.add_process_subscriber(lambda _, pid, message: pid)
        rabbit.add_task_subscriber(lambda _, task: task)
        rabbit.add_broadcast_subscriber(lambda _, body, *rest: heard.tell(body))
        for number in range(1, 4):
            cut()
            until_lost(rabbit, number)
            until_lost(other, number)
            rabbit.link.thread.bridge.submit(rabbit.link.lifeline.session, None).result(PATIENCE)
            assert answer(other.task_send(number)) == number
            assert answer(other.rpc_send('me', number)) == number
            assert answer(other.rpc_send(number, None)) == number
            other.broadcast_send(number)
            assert heard.next() == (number,)

    def test_who_subscribes_while_the_next_session_is_set_up(self, rabbit, make, cut, monkeypatch):
        rabbit.add_rpc_subscriber(lambda _, message: message, 'goes')
        synced, go_on = threading.Event(), threading.Event()
        sync = Session.sync

        async def slow(session, wanted):
            await sync(session, wanted)
            synced.set()
            assert await asyncio.to_thread(go_on.wait, PATIENCE)

        monkeypatch.setattr(Session, 'sync', slow)
        cut()
        assert synced.wait(PATIENCE)
        rabbit.add_rpc_subscriber(lambda _, message: message, 'comes')
        rabbit.remove_rpc_subscriber('goes')
        go_on.set()
        rabbit.link.thread.bridge.submit(rabbit.link.lifeline.session, None).result(PATIENCE)
        other = make()
        assert answer(other.rpc_send('comes', 1)) == 1
        with pytest.raises(UnroutableError):
            other.rpc_send('goes', 1)

    def test_it_is_said_once_and_when_it_is_back(self, rabbit, cut, caplog):
        caplog.set_level(logging.INFO, logger='treadle')
        rabbit.add_rpc_subscriber(lambda _, message: message, 'me')
        cut()
        until_lost(rabbit)
        assert answer(rabbit.rpc_send('me', 1)) == 1, 'sending waits until it is back'
        said = [record for record in caplog.records if record.name.endswith('lifeline')]
        assert [record.levelname for record in said] == ['WARNING', 'INFO']
        assert 'is away' in said[0].message and 'is back' in said[1].message and 'guest:guest' not in caplog.text

    def test_a_task_that_was_not_acknowledged_comes_again(self, rabbit, cut):
        began, go_on = Heard(), threading.Event()

        def do(_, task):
            began.tell(task)
            assert go_on.wait(PATIENCE)
            return task

        rabbit.add_task_subscriber(do)
        sent = rabbit.task_send('twice')
        assert began.next() == ('twice',)
        cut()
        until_lost(rabbit)
        go_on.set()
        assert began.next() == ('twice',)
        assert answer(sent) == 'twice'

    def test_an_answer_that_comes_while_its_sender_is_away(self, rabbit, make, cut):
        later, entered = threading.Event(), threading.Event()

        def slow(_, message):
            entered.set()
            assert later.wait(PATIENCE)
            return message

        rabbit.add_rpc_subscriber(slow, 'slow')
        sent = make().rpc_send('slow', 1)
        assert entered.wait(PATIENCE)
        cut()
        until_lost(rabbit)
        later.set()
        assert answer(sent) == 1

    def test_a_queue_that_is_deleted(self, rabbit, raw):
        rabbit.add_task_subscriber(lambda _, task: task)
        rabbit.add_process_subscriber(lambda _, pid, message: pid)
        for queue in (amqp.TASKS, 'treadle.pids'):
            before = rabbit.link.lifeline.losses
            raw.delete(queue)
            until_lost(rabbit, before + 1)
            assert answer(rabbit.task_send(queue)) == queue
            rabbit.link.thread.bridge.submit(rabbit.link.lifeline.session, None).result(PATIENCE)
            assert answer(rabbit.rpc_send(7, None)) == 7

    def test_one_that_is_found_stuck(self, broker, make):
        """The library below then cancels whatever waits for it, as if somebody had wished so."""
        make().add_task_subscriber(lambda _, task: task)
        with Proxy.of(broker) as proxy:
            rabbit = make(proxy.through(broker))
            session = rabbit.link.thread.bridge.submit(rabbit.link.lifeline.session, None).result(PATIENCE)
            heard = Heard()
            rabbit.add_broadcast_subscriber(lambda _, body, *rest: heard.tell(body))
            proxy.cut()
            sent = [rabbit.task_send(number) for number in range(5)]
            rabbit.broadcast_send('lost')
            waited = threading.Event()
            while len(session._out.confirmations) < 6:
                waited.wait(0.01)
            rabbit.link.thread.bridge.post(session._connection._amqp._reader_task.cancel)
            until_lost(rabbit)
            proxy.heal()
            assert [answer(each) for each in sent] == list(range(5))
            rabbit.broadcast_send('heard')
            heard.until(('heard',))
            rabbit.close()

    def test_a_sending_that_is_cancelled(self, rabbit, monkeypatch):
        def submit(message):
            cancelled = Future()
            cancelled.cancel()
            return cancelled

        monkeypatch.setattr(rabbit.link, 'submit', submit)
        rabbit.add_rpc_subscriber(lambda _, message: message, 'me')
        for sent in (rabbit.task_send(1), rabbit.rpc_send('me', 1)):
            with pytest.raises(MessageNotSent, match='did not take the message'):
                answer(sent)

    def test_a_channel_that_the_broker_closes(self, rabbit):
        rabbit.add_task_subscriber(lambda _, task: task)
        session = rabbit.link.lifeline.current
        rabbit.link.thread.bridge.submit(session._tasks.basic_ack, 999).result(PATIENCE)
        until_lost(rabbit)
        assert answer(rabbit.task_send(1)) == 1

    def test_queues_that_are_purged(self, rabbit, raw):
        rabbit.add_task_subscriber(lambda _, task: task)
        for queue in (amqp.TASKS, rabbit.link.answers_queue):
            raw.purge(queue)
        assert answer(rabbit.task_send(1)) == 1


class TestHints:
    def test_what_was_hinted_before_there_was_a_loop(self, make, broker):
        heard = Heard()
        make(on_hint=heard.tell)
        hinting = RabbitCommunicator(address_of(broker))
        hinting.link.hints.send('w')
        hinting.start()
        assert heard.next() == ('w',)
        hinting.link.hints.send('c')
        assert heard.next() == ('c',)
        hinting.close()


class TestBrokerAway:
    def test_what_cannot_be_sent_in_time_fails(self, make):
        away = make(GONE, send_timeout=0.2)
        with pytest.raises(MessageNotSent, match='is away; the message was not sent in time'):
            answer(away.rpc_send(1, None))
        with pytest.raises(MessageNotSent, match='is away'):
            answer(away.task_send(1))
        assert away.task_send(1, no_reply=True) is None

    def test_broadcasts_beyond_what_is_kept_are_dropped(self, make, caplog, monkeypatch):
        monkeypatch.setattr('treadle.engine.communication.outbox.Outbox.__init__.__kwdefaults__', {'capacity': 10})
        away = make(GONE)
        sent = [away.broadcast_send(number) for number in range(100)]
        # Some were taken out already, and wait for the broker one step further.
        assert 10 <= sent.count(True) < 100
        assert away.link.outbox.dropped == sent.count(False)
        assert caplog.text.count('broadcasts are dropped') == 1

    def test_subscribers_wait_for_it(self, make, make_rabbitmq, caplog):
        rabbitmq = make_rabbitmq()
        url = rabbitmq.url()
        rabbitmq.kill()
        late = make(url)
        late.add_rpc_subscriber(lambda _, message: message, 'me')
        rabbitmq.start()
        late.link.thread.bridge.submit(late.link.lifeline.session, None).result(PATIENCE)
        assert answer(late.rpc_send('me', 1)) == 1
        late.close()

    def test_it_refuses_when_nobody_waits_for_it_any_more(self, broker, no_leaked_threads, caplog):
        refused = threading.Event()
        logger = logging.getLogger('treadle.engine.communication.lifeline')
        handler = logging.Handler()
        handler.emit = lambda record: refused.set() if 'onto the virtual host' in record.getMessage() else None
        logger.addHandler(handler)
        with Proxy.of(broker) as proxy:
            proxy.cut()
            nowhere = proxy.through(f'{broker.rpartition("/")[0]}/nowhere')
            late = RabbitCommunicator(address_of(nowhere))
            try:
                late.start(0.2, is_needed=False)
                proxy.heal()
                assert refused.wait(PATIENCE)
                assert late.link.thread.state is LoopState.RUNNING
            finally:
                logger.removeHandler(handler)
                late.close(10.0)
        assert 'is tried again until it is back' in caplog.text

    def test_it_is_killed_and_started_again(self, make, make_rabbitmq):
        rabbitmq = make_rabbitmq()
        rabbit = RabbitCommunicator(address_of(rabbitmq.url()), send_timeout=60.0)
        rabbit.start()
        rabbit.add_task_subscriber(lambda _, task: task)
        assert answer(rabbit.task_send(1)) == 1
        rabbitmq.kill()
        until_lost(rabbit)
        sent = [rabbit.task_send(number) for number in range(20)]
        rabbitmq.start()
        assert [answer(each) for each in sent] == list(range(20))
        rabbit.close()


class TestClosing:
    def test_answers_that_have_not_come(self, make):
        asked, other = make(), make()
        entered, opened = threading.Event(), threading.Event()

        def blocks(_, message):
            entered.set()
            assert opened.wait(PATIENCE)

        asked.add_rpc_subscriber(blocks, 'blocks')
        rpc, task = other.rpc_send('blocks', None), other.task_send('nobody takes it')
        assert entered.wait(PATIENCE)
        other.close()
        for future in (rpc, task):
            with pytest.raises(CommunicatorClosed, match='the answer had not come by then'):
                future.result(0)
        opened.set()

    def test_the_broker_is_away(self, rabbit, make):
        away = make(GONE)
        for number in range(100):
            away.broadcast_send(number)
        sent = away.task_send(1)
        away.close(5.0)
        with pytest.raises((CommunicatorClosed, MessageNotSent)):
            sent.result(0)

    def test_its_connection_is_lost_meanwhile(self, make, monkeypatch):
        async def lose(session):
            raise SessionLost('cut')

        communicator = make()
        monkeypatch.setattr(Session, 'catch_up', lose)
        communicator.close()
        assert communicator.is_closed()

    def test_its_queues_go_with_it(self, make, raw):
        communicator = make()
        communicator.add_process_subscriber(lambda *message: None)
        communicator.close()
        for queue in (communicator.link.answers_queue, 'treadle.pids'):
            with pytest.raises(Exception, match='NOT_FOUND'):
                raw.count(queue)


class TestThreads:
    def test_who_is_called_where(self, rabbit):
        rabbit.add_rpc_subscriber(lambda _, message: threading.current_thread().name, 'me')
        resolved = Heard()
        sent = rabbit.rpc_send('me', None)
        sent.add_done_callback(lambda done: resolved.tell(threading.current_thread().name))
        assert answer(sent).startswith('treadle-subscriber-')
        assert resolved.next()[0] != 'treadle-communicator'
        assert rabbit.link.thread.thread.name == 'treadle-communicator'

    def test_an_rpc_from_a_loop_of_treadles(self, rabbit):
        async def send():
            return rabbit.rpc_send('me', None)

        with pytest.raises(WrongThread, match=r'rpc_send\(\) called on .treadle-communicator.'):
            rabbit.link.thread.bridge.submit(send).result(PATIENCE)

    def test_a_task_that_is_said_twice_to_be_pending_has_one_final_answer(self, rabbit, raw):
        sent = rabbit.task_send('task')
        _, correlation_id = raw.get(amqp.TASKS)
        for said in (answers.pending(), answers.pending(), answers.result('done')):
            raw.publish('', rabbit.link.answers_queue, said, correlation_id=correlation_id)
        assert sent.result(PATIENCE).result(PATIENCE) == 'done'
        assert len(rabbit._replies) == 0

    def test_an_answer_that_its_sender_waits_for_no_longer(self, rabbit, raw):
        assert rabbit.task_send('nobody does it').cancel()
        assert len(rabbit._replies) == 0
        raw.purge(amqp.TASKS)
        sent = rabbit.task_send('it takes long')
        _, correlation_id = raw.get(amqp.TASKS)
        raw.publish('', rabbit.link.answers_queue, answers.pending(), correlation_id=correlation_id)
        assert sent.result(PATIENCE).cancel()
        assert len(rabbit._replies) == 0

    def test_names_that_the_broker_does_not_take(self, rabbit):
        for name in ('x' * 300, '#', 'a.*', '\ud800'):
            with pytest.raises(ValueError, match='cannot be addressed on a broker'):
                rabbit.add_rpc_subscriber(print, name)
            with pytest.raises(UnroutableError, match='nobody answers to'):
                rabbit.rpc_send(name, None)
        for name in ('a.b', 'with blanks and ä', ('a', 'tuple'), 12):
            rabbit.add_rpc_subscriber(lambda _, message: message, name)
            assert answer(rabbit.rpc_send(name, 1)) == 1

    def test_subscribing_on_a_loop_of_treadles(self, rabbit):
        async def subscribe():
            rabbit.add_rpc_subscriber(print, 'me')

        with pytest.raises(WrongThread, match='subscribing called on'):
            rabbit.link.thread.bridge.submit(subscribe).result(PATIENCE)
        assert rabbit.add_rpc_subscriber(print, 'me') == 'me', 'nothing was half done'

    def test_tasks_that_are_rejected_here_are_done_elsewhere(self, make):
        first, second, sender = make(), make(), make()

        def reject(_, task):
            raise TaskRejected('not here')

        first.add_task_subscriber(reject)
        second.add_task_subscriber(lambda _, task: task)
        assert [answer(sender.task_send(number)) for number in range(10)] == list(range(10))
        second.close()
        with pytest.raises(TaskRejected, match=r'^not here$'):
            answer(sender.task_send('nobody'))

    def test_a_rejected_task_that_cannot_be_offered_to_others(self, make, monkeypatch):
        monkeypatch.setattr('treadle.engine.communication.incoming.GIVE_BACK_AFTER', 0.01)
        first, second, sender = make(), make(), make()

        def reject(_, task):
            raise TaskRejected('not here')

        async def send(message):
            raise MessageNotSent('the broker did not confirm the message in time')

        monkeypatch.setattr(first.link, 'send', send)
        first.add_task_subscriber(reject)
        second.add_task_subscriber(lambda _, task: task)
        assert [answer(sender.task_send(number)) for number in range(4)] == list(range(4))

    @pytest.mark.parametrize('method', ['deliver_task', 'rpc_send'])
    def test_a_message_for_which_there_is_no_thread_at_the_moment(self, rabbit, monkeypatch, method, caplog):
        monkeypatch.setattr('treadle.engine.communication.incoming.GIVE_BACK_AFTER', 0.01)
        fails, deliver = iter([StartFailed('no thread could be started')] * 3), getattr(rabbit._local, method)

        def fail(*arguments, **options):
            for error in fails:
                raise error
            return deliver(*arguments, **options)

        monkeypatch.setattr(rabbit._local, method, fail)
        rabbit.add_task_subscriber(lambda _, task: task)
        rabbit.add_rpc_subscriber(lambda _, message: message, 'me')
        sent = rabbit.task_send(1) if method == 'deliver_task' else rabbit.rpc_send('me', 1)
        assert answer(sent) == 1
        assert caplog.text.count('could not be dealt with') == 3

    @pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
    def test_a_forked_child_is_told_at_once(self, rabbit):
        rabbit.add_rpc_subscriber(lambda _, message: message, 'me')
        child = os.fork()
        if child == 0:
            code = 1
            try:
                rabbit.close()
                assert rabbit.is_closed()
                for call in (
                    lambda: rabbit.broadcast_send(None),
                    lambda: rabbit.rpc_send(1, None),
                    lambda: rabbit.task_send(None),
                    lambda: rabbit.add_task_subscriber(lambda *message: None),
                ):
                    try:
                        call()
                    except Forked as error:
                        assert "communicator 'rabbit'" in str(error)
                    else:
                        raise AssertionError('it was not refused')
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert answer(rabbit.rpc_send('me', 1)) == 1
