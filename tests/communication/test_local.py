"""What the communicator inside one OS process promises beyond the contract."""

from __future__ import annotations

import os
import threading

import pytest

from communication import hosts
from treadle.engine import CommunicatorClosed, LocalCommunicator
from treadle.engine.communication import final_answer
from treadle.threads import Forked, StopTimeout

PATIENCE = hosts.PATIENCE


def test_it_has_no_thread_while_nothing_is_sent():
    before = threading.active_count()
    communicator = LocalCommunicator()
    communicator.add_broadcast_subscriber(lambda *message: None)
    communicator.add_rpc_subscriber(lambda *message: None, 'me')
    assert threading.active_count() == before
    communicator.close()


def test_nobody_hears_where_nobody_has_subscribed():
    communicator = LocalCommunicator()
    assert not communicator.is_heard
    identifier = communicator.add_broadcast_subscriber(lambda *message: None)
    assert communicator.is_heard
    communicator.remove_broadcast_subscriber(identifier)
    assert not communicator.is_heard
    communicator.close()


def test_subscribers_are_called_on_threads_of_their_own_kind():
    communicator = LocalCommunicator()
    communicator.add_rpc_subscriber(lambda _, message: threading.current_thread().name, 'me')
    assert communicator.rpc_send('me', None).result(PATIENCE).startswith('treadle-subscriber-')
    communicator.close()


def test_what_its_sender_cancels_is_not_kept():
    communicator = LocalCommunicator()
    for number in range(10):
        assert communicator.task_send(number).cancel()
    assert not communicator._unassigned
    communicator.close()


def test_what_its_sender_cancels_is_not_delivered():
    communicator = LocalCommunicator()
    seen: list[str] = []
    cancelled, kept = communicator.task_send('cancelled'), communicator.task_send('kept')
    assert cancelled.cancel()
    communicator.add_task_subscriber(lambda _, task: seen.append(task))
    final_answer(kept).result(PATIENCE)
    entered, opened = threading.Event(), threading.Event()

    def answers(_, message):
        entered.set()
        assert opened.wait(PATIENCE)
        seen.append(message)

    communicator.add_rpc_subscriber(answers, 'me')
    begun, waits = communicator.rpc_send('me', 'begun'), communicator.rpc_send('me', 'waits')
    assert entered.wait(PATIENCE)
    assert waits.cancel() and not begun.cancel()
    opened.set()
    communicator.close()
    assert seen == ['kept', 'begun']


def test_one_that_does_not_return_is_named_and_what_waits_behind_it_is_refused():
    communicator = LocalCommunicator('stuck')
    entered, opened = threading.Event(), threading.Event()

    def sticks(_, message):
        entered.set()
        assert opened.wait(PATIENCE)
        return message

    communicator.add_rpc_subscriber(sticks, 'me')
    held, behind = communicator.rpc_send('me', 1), communicator.rpc_send('me', 2)
    unclaimed = communicator.task_send(3)
    assert entered.wait(PATIENCE)
    with pytest.raises(StopTimeout, match=r"1 subscriber.s. did not end within 0.05 s: 'treadle-subscriber-1' is at"):
        communicator.close(timeout=0.05)
    for future in (behind, unclaimed):
        with pytest.raises(CommunicatorClosed, match="'stuck' is closed"):
            future.result(0)
    opened.set()
    assert held.result(PATIENCE) == 1, 'what was begun is answered all the same'


def test_a_subscriber_may_close_it():
    communicator = LocalCommunicator()
    closed = hosts.Heard()

    def close(_, message):
        communicator.close(PATIENCE)
        closed.tell(communicator.is_closed())

    communicator.add_rpc_subscriber(close, 'me')
    answer = communicator.rpc_send('me', None)
    assert closed.next() == (True,)
    assert answer.result(PATIENCE) is None


def test_a_rejected_task_that_nobody_is_left_for_while_it_closes():
    from treadle.engine import TaskRejected

    communicator = LocalCommunicator()
    entered, opened = threading.Event(), threading.Event()

    def rejects(_, task):
        entered.set()
        assert opened.wait(PATIENCE)
        raise TaskRejected('not now')

    communicator.add_task_subscriber(rejects)
    answer = communicator.task_send(1)
    assert entered.wait(PATIENCE)
    closing = threading.Thread(target=communicator.close)
    closing.start()
    opened.set()
    with pytest.raises((TaskRejected, CommunicatorClosed)):
        final_answer(answer).result(PATIENCE)
    closing.join(PATIENCE)


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_forked_child_is_told_at_once():
    communicator = LocalCommunicator('parent')
    communicator.add_broadcast_subscriber(lambda *message: None)
    with communicator._lock:  # as if another thread were in the middle of sending
        child = os.fork()
        if child == 0:
            code = 1
            try:
                communicator.close()
                assert communicator.is_closed()
                for call in (
                    lambda: communicator.broadcast_send(None),
                    lambda: communicator.rpc_send(1, None),
                    lambda: communicator.task_send(None),
                    lambda: communicator.add_task_subscriber(lambda *message: None),
                ):
                    try:
                        call()
                    except Forked as error:
                        assert "communicator 'parent'" in str(error)
                    else:
                        raise AssertionError('it was not refused')
                code = 0
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert communicator.broadcast_send(None) is True
    communicator.close()
