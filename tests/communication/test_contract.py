"""What holds for every communicator, whatever carries its messages."""

from __future__ import annotations

import re
import threading
from concurrent.futures import Future

import pytest

from communication import hosts
from treadle.engine import (
    BroadcastFilter,
    CommunicatorClosed,
    DuplicateSubscriberIdentifier,
    RemoteException,
    TaskRejected,
    UnroutableError,
)
from treadle.engine.communication import final_answer

PATIENCE = hosts.PATIENCE


def answer(future):
    """The final answer, waited for."""
    return final_answer(future).result(PATIENCE)


class TestRpc:
    def test_the_recipient_answers(self, communicator):
        communicator.add_rpc_subscriber(lambda who, message: (who is communicator, message), 'oracle')
        assert answer(communicator.rpc_send('oracle', {'ask': 1})) == (True, {'ask': 1})

    def test_an_identifier_is_made_where_none_is_given(self, communicator):
        first = communicator.add_rpc_subscriber(lambda _, message: 'first')
        second = communicator.add_rpc_subscriber(lambda _, message: 'second')
        assert first != second
        assert [answer(communicator.rpc_send(one, None)) for one in (second, first)] == ['second', 'first']

    def test_what_it_raises_is_the_answer(self, communicator):
        def fails(_, message):
            raise KeyError(message)

        communicator.add_rpc_subscriber(fails, 'fails')
        with pytest.raises(RemoteException, match="KeyError: 'this'"):
            answer(communicator.rpc_send('fails', 'this'))
        with pytest.raises(RemoteException, match="KeyError: 'that'"):
            answer(communicator.rpc_send('fails', 'that'))

    def test_a_future_is_answered_by_a_future_and_then_by_its_result(self, communicator):
        later: Future[Future[str]] = Future()
        communicator.add_rpc_subscriber(lambda _, message: later, 'slow')
        taken = communicator.rpc_send('slow', None).result(PATIENCE)
        assert isinstance(taken, Future) and not taken.done()
        inner: Future[str] = Future()
        later.set_result(inner)
        inner.set_result('done')
        assert taken.result(PATIENCE) == 'done', 'however deep'

    def test_a_future_that_fails_or_is_cancelled(self, communicator):
        futures: dict[str, Future[None]] = {'fails': Future(), 'cancelled': Future()}
        communicator.add_rpc_subscriber(lambda _, message: futures[message], 'slow')
        sent = {what: communicator.rpc_send('slow', what) for what in futures}
        futures['fails'].set_exception(ValueError('odd'))
        futures['cancelled'].cancel()
        with pytest.raises(RemoteException, match='ValueError: odd'):
            answer(sent['fails'])
        with pytest.raises(RemoteException, match='CancelledError'):
            answer(sent['cancelled'])

    def test_nobody_is_there(self, communicator):
        for recipient in ('nobody', 12, '12'):
            with pytest.raises(UnroutableError, match=f'nobody answers to {recipient!r}'):
                communicator.rpc_send(recipient, None)

    def test_messages_to_one_recipient_keep_their_order(self, communicator):
        seen: list[int] = []
        communicator.add_rpc_subscriber(lambda _, message: seen.append(message), 'listens')
        sent = [communicator.rpc_send('listens', number) for number in range(200)]
        for each in sent:
            answer(each)
        assert seen == list(range(200))

    def test_a_recipient_that_blocks_holds_up_no_other(self, communicator):
        entered, opened = threading.Event(), threading.Event()

        def blocks(_, message):
            entered.set()
            assert opened.wait(PATIENCE)

        communicator.add_rpc_subscriber(blocks, 'blocks')
        communicator.add_rpc_subscriber(lambda _, message: message, 'quick')
        held = communicator.rpc_send('blocks', None)
        assert entered.wait(PATIENCE)
        assert answer(communicator.rpc_send('quick', 1)) == 1
        opened.set()
        answer(held)

    def test_a_subscriber_may_send_and_remove_itself(self, communicator):
        def once(_, message):
            communicator.remove_rpc_subscriber('once')
            return communicator.rpc_send('other', message)

        communicator.add_rpc_subscriber(once, 'once')
        communicator.add_rpc_subscriber(lambda _, message: message + 1, 'other')
        assert answer(communicator.rpc_send('once', 1)) == 2
        with pytest.raises(UnroutableError):
            communicator.rpc_send('once', 1)


class TestPids:
    def test_rpcs_to_pids_go_to_the_process_subscriber(self, communicator):
        identifier = communicator.add_process_subscriber(lambda _, pid, message: (pid, message))
        assert answer(communicator.rpc_send(7, 'status')) == (7, 'status')
        assert answer(communicator.rpc_send('8', 'status')) == (8, 'status'), 'on a wire a recipient is text'
        for recipient in ('seven', True, None, 1.0):
            with pytest.raises(UnroutableError):
                communicator.rpc_send(recipient, 'status')
        communicator.remove_process_subscriber(identifier)
        with pytest.raises(UnroutableError):
            communicator.rpc_send(7, 'status')

    def test_broadcasts_that_concern_all(self, communicator):
        heard, all_heard = hosts.Heard(), hosts.Heard()
        communicator.add_process_subscriber(lambda _, pid, message: heard.tell(pid, message))
        communicator.add_broadcast_subscriber(lambda _, body, sender, subject, cid: all_heard.tell(subject))
        communicator.broadcast_send({'intent': 'pause', 'message': 'why'}, subject='pause')
        communicator.broadcast_send(None, subject='other')
        communicator.broadcast_send(None, subject='play')
        assert heard.next() == (None, {'intent': 'pause', 'message': 'why'})
        assert heard.next() == (None, {'intent': 'play', 'message': None})
        assert [all_heard.next() for _ in range(3)] == [('pause',), ('other',), ('play',)]

    def test_who_subscribes_under_a_pid_comes_first(self, communicator):
        communicator.add_process_subscriber(lambda _, pid, message: 'all')
        communicator.add_rpc_subscriber(lambda _, message: 'one', 7)
        assert [answer(communicator.rpc_send(pid, None)) for pid in (7, 8)] == ['one', 'all']


class TestTasks:
    def test_a_task_is_done_once(self, communicator):
        done: list[tuple[str, int]] = []
        for name in 'ab':
            communicator.add_task_subscriber(lambda _, task, name=name: done.append((name, task)) or task, name)
        sent = [communicator.task_send(number) for number in range(100)]
        assert [answer(each) for each in sent] == list(range(100))
        assert sorted(task for _, task in done) == list(range(100))
        assert {name for name, _ in done} == {'a', 'b'}, 'they take turns'

    def test_a_task_waits_for_a_subscriber(self, communicator):
        sent = [communicator.task_send(number) for number in range(3)]
        seen: list[int] = []
        communicator.add_task_subscriber(lambda _, task: seen.append(task))
        for each in sent:
            answer(each)
        assert seen == [0, 1, 2]

    def test_a_rejected_task_is_offered_to_others(self, communicator):
        def rejects(_, task):
            raise TaskRejected('not mine')

        communicator.add_task_subscriber(rejects)
        communicator.add_task_subscriber(lambda _, task: task)
        communicator.add_task_subscriber(rejects)
        assert [answer(communicator.task_send(number)) for number in range(5)] == list(range(5))

    def test_a_task_that_all_reject_is_rejected_with_their_reasons(self, communicator):
        def reject(reason):
            def subscriber(_, task):
                raise TaskRejected(reason)

            return subscriber

        communicator.add_task_subscriber(reject('no such class'))
        communicator.add_task_subscriber(reject('no room'))
        with pytest.raises(TaskRejected) as caught:
            answer(communicator.task_send('odd'))
        assert sorted(str(caught.value).split('; ')) == ['no room', 'no such class']

    def test_what_a_subscriber_raises_is_the_answer_and_nobody_else_is_asked(self, communicator):
        asked: list[str] = []

        def fails(_, task):
            asked.append(task)
            raise ValueError(f'{task} is odd')

        communicator.add_task_subscriber(fails)
        communicator.add_task_subscriber(fails)
        with pytest.raises(RemoteException, match='ValueError: x is odd'):
            answer(communicator.task_send('x'))
        assert asked == ['x']

    def test_without_a_reply(self, communicator):
        heard = hosts.Heard()

        def fails(_, task):
            heard.tell(task)
            raise ValueError('nobody wants to know')

        identifier = communicator.add_task_subscriber(fails)
        assert communicator.task_send('x', no_reply=True) is None
        assert heard.next() == ('x',)
        communicator.remove_task_subscriber(identifier)

    def test_the_tasks_of_one_who_goes_are_left_to_others(self, communicator):
        entered, opened = threading.Event(), threading.Event()

        def blocks(_, task):
            entered.set()
            assert opened.wait(PATIENCE)
            return 'first', task

        first = communicator.add_task_subscriber(blocks)
        sent = [communicator.task_send(number) for number in range(4)]
        assert entered.wait(PATIENCE)
        communicator.remove_task_subscriber(first)
        communicator.add_task_subscriber(lambda _, task: ('second', task))
        opened.set()
        assert [answer(each) for each in sent] == [('first', 0), ('second', 1), ('second', 2), ('second', 3)]


class TestBroadcasts:
    def test_all_hear(self, communicator):
        heard = [hosts.Heard(), hosts.Heard()]
        for each in heard:
            communicator.add_broadcast_subscriber(
                lambda who, body, sender, subject, correlation_id, each=each: each.tell(
                    who is communicator, body, sender, subject, correlation_id
                )
            )
        assert communicator.broadcast_send({'a': 1}, sender=7, subject='news', correlation_id='c') is True
        for each in heard:
            assert each.next() == (True, {'a': 1}, 7, 'news', 'c')

    def test_each_hears_in_the_order_of_sending(self, communicator):
        heard = hosts.Heard()
        communicator.add_broadcast_subscriber(lambda _, body, sender, *rest: heard.tell(sender, body))

        def send(sender):
            for number in range(100):
                communicator.broadcast_send(number, sender=sender)

        senders = [threading.Thread(target=send, args=(name,)) for name in 'abcd']
        for each in senders:
            each.start()
        for each in senders:
            each.join()
        told = [heard.next() for _ in range(400)]
        for sender in 'abcd':
            assert [body for who, body in told if who == sender] == list(range(100))

    def test_filters(self, communicator):
        heard = hosts.Heard()

        def tell(_, body, sender, subject, correlation_id):
            heard.tell(body)

        by_subject = BroadcastFilter(tell, subject='state_changed.*.finished')
        by_subject.add_subject_filter(re.compile('urgent: .*'))
        communicator.add_broadcast_subscriber(by_subject)
        communicator.add_broadcast_subscriber(BroadcastFilter(tell, sender=7))
        for sender, subject in [
            (1, 'state_changed.running.finished'),
            (2, 'state_changed.running.finishedish'),
            (3, 'not.state_changed.running.finished'),
            (4, 'state_changed.running.killed'),
            (5, 'urgent: all'),
            (6, None),
            (7, None),
            (None, None),
        ]:
            communicator.broadcast_send((sender, subject), sender=sender, subject=subject)
        # Each subscriber hears in order, but not together with the other; the last broadcast is for both.
        communicator.broadcast_send('end', sender=7, subject='urgent: end')
        told = [*heard.until(('end',)), *heard.until(('end',))]
        assert sorted(body[0] for (body,) in told if body != 'end') == [1, 5, 7]

    def test_one_that_raises_harms_nobody(self, communicator, caplog):
        heard = hosts.Heard()

        def raises(*message):
            raise ValueError('odd')

        def exits(*message):
            raise SystemExit(3)

        for subscriber in (raises, exits, lambda _, body, *rest: heard.tell(body)):
            communicator.add_broadcast_subscriber(subscriber)
        for number in (1, 2):
            communicator.broadcast_send(number)
        assert [heard.next(), heard.next()] == [(1,), (2,)]
        communicator.close()
        logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
        assert logged.count(ValueError) == 2 and logged.count(SystemExit) == 2

    def test_one_that_removes_itself_hears_no_more(self, communicator):
        heard, other = hosts.Heard(), hosts.Heard()

        def once(_, body, *rest):
            communicator.remove_broadcast_subscriber('once')
            heard.tell(body)

        communicator.add_broadcast_subscriber(once, 'once')
        communicator.add_broadcast_subscriber(lambda _, body, *rest: other.tell(body))
        for number in range(3):
            communicator.broadcast_send(number)
        assert heard.next() == (0,)
        assert other.until((2,)) == [(0,), (1,), (2,)]
        communicator.close()
        assert heard.is_empty

    def test_it_knows_whether_anybody_hears(self, communicator):
        communicator.add_broadcast_subscriber(lambda *message: None, 'one')
        assert communicator.is_heard


class TestMisuse:
    KINDS = ('rpc', 'process', 'task', 'broadcast')

    @pytest.mark.parametrize('kind', KINDS)
    def test_identifiers(self, communicator, kind):
        add = getattr(communicator, f'add_{kind}_subscriber')
        remove = getattr(communicator, f'remove_{kind}_subscriber')
        assert add(print, 'me') == 'me'
        with pytest.raises(DuplicateSubscriberIdentifier, match="subscriber 'me' already"):
            add(print, 'me')
        remove('me')
        with pytest.raises(ValueError, match=r"no .* subscriber 'me'"):
            remove('me')
        assert add(print, 'me') == 'me'

    @pytest.mark.parametrize('kind', KINDS)
    def test_what_is_no_subscriber(self, communicator, kind):
        async def coroutine(*message):
            raise AssertionError

        class Callable:
            async def __call__(self, *message):
                raise AssertionError

        add = getattr(communicator, f'add_{kind}_subscriber')
        with pytest.raises(TypeError, match='is a function, not 3'):
            add(3)
        for subscriber in (coroutine, Callable()):
            with pytest.raises(TypeError, match='coroutine function'):
                add(subscriber)


class TestClosing:
    def test_nothing_is_taken_any_more(self, communicator):
        communicator.add_rpc_subscriber(lambda _, message: message, 'me')
        assert not communicator.is_closed()
        communicator.close()
        communicator.close()
        assert communicator.is_closed()
        for call in (
            lambda: communicator.rpc_send('me', 1),
            lambda: communicator.task_send(1),
            lambda: communicator.broadcast_send(1),
            lambda: communicator.add_rpc_subscriber(print),
            lambda: communicator.add_process_subscriber(print),
            lambda: communicator.add_task_subscriber(print),
            lambda: communicator.add_broadcast_subscriber(print),
            lambda: communicator.remove_rpc_subscriber('me'),
        ):
            with pytest.raises(CommunicatorClosed):
                call()

    def test_what_was_taken_is_delivered(self, communicator):
        seen: list[int] = []
        communicator.add_broadcast_subscriber(lambda _, body, *rest: seen.append(body))
        communicator.add_rpc_subscriber(lambda _, message: message, 'me')
        for number in range(100):
            communicator.broadcast_send(number)
        sent = [communicator.rpc_send('me', number) for number in range(100)]
        communicator.close()
        assert seen == list(range(100))
        assert [each.result(0) for each in sent] == list(range(100))

    def test_every_accepted_call_resolves(self, communicator):
        communicator.add_rpc_subscriber(lambda _, message: message, 'me')
        communicator.add_task_subscriber(lambda _, task: task)
        accepted: list[Future[int]] = []
        begun = threading.Event()

        def send():
            for number in range(100_000):
                try:
                    accepted.append(communicator.rpc_send('me', number))
                    accepted.append(communicator.task_send(number))
                except CommunicatorClosed:
                    return
                begun.set()

        senders = [threading.Thread(target=send) for _ in range(4)]
        for each in senders:
            each.start()
        assert begun.wait(PATIENCE)
        communicator.close()
        for each in senders:
            each.join(PATIENCE)
        for future in accepted:
            assert isinstance(future.exception(PATIENCE), (type(None), CommunicatorClosed))
