"""Tasks that start processes, and how their senders are answered."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from communication import hosts
from treadle.engine import Engine, KilledError, ProcessLauncher, RemoteException, TaskRejected
from treadle.engine.communication import final_answer
from treadle.engine.communication.messages import continue_body, create_body, launch_body
from treadle.engine.testing import BlockAt, FaultPoint

PATIENCE, GATES = hosts.PATIENCE, hosts.GATES
ECHO, FAILS, DOUBLE = (f'{hosts.HERE}:{name}' for name in ('Echo', 'Fails', 'double'))


@pytest.fixture
def engine(make_engine) -> Engine:
    """A running engine that takes tasks."""
    engine = make_engine()
    engine.communicator.add_task_subscriber(ProcessLauncher(engine))
    return engine


def send(engine, task):
    return final_answer(engine.communicator.task_send(task)).result(PATIENCE)


class TestLaunch:
    def test_with_nowait_the_answer_is_the_pid(self, engine):
        pid = send(engine, launch_body(ECHO, {'x': 1, 'gate': 'launch'}))
        assert engine.load(pid).process_label == 'Echo'
        GATES.open('launch')
        assert engine.wait(pid, PATIENCE).outputs.y == 1

    def test_else_the_outputs(self, engine):
        assert send(engine, launch_body(ECHO, {'x': 2}, nowait=False)) == {'y': 2}
        assert send(engine, launch_body(DOUBLE, {'x': 2}, nowait=False)) == {'result': 4}

    def test_a_pending_reply_says_that_it_was_taken(self, engine):
        sent = engine.communicator.task_send(launch_body(ECHO, {'x': 1, 'gate': 'pending'}, nowait=False))
        pending = sent.result(PATIENCE)
        assert isinstance(pending, Future)
        GATES.wait_entered('pending')
        assert not pending.done()
        GATES.open('pending')
        assert pending.result(PATIENCE) == {'y': 1}

    def test_as_plumpys_controllers_send_it(self, engine):
        args = {'process_class': ECHO, 'persist': False, 'nowait': False, 'init_args': None}
        for init in ({'init_kwargs': {'inputs': {'x': 3}}}, {'init_args': ({'x': 3},), 'init_kwargs': None}):
            assert send(engine, {'task': 'launch', 'args': {**args, **init}}) == {'y': 3}

    def test_sent_twice_with_a_key_it_starts_one_process(self, engine):
        body = launch_body(ECHO, {'x': 1, 'gate': 'twice', 'metadata': {'key': 'once'}})
        pids = {send(engine, body) for _ in range(2)}
        GATES.open('twice')
        assert len(pids) == 1
        body['args']['nowait'] = False
        assert send(engine, body) == {'y': 1}
        assert [node.pid for node in engine.query(process_label='Echo')] == list(pids)
        with pytest.raises(TaskRejected, match='has other inputs'):
            send(engine, launch_body(ECHO, {'x': 2, 'metadata': {'key': 'once'}}))

    def test_what_the_process_raises_and_that_it_was_killed(self, engine):
        with pytest.raises(RemoteException, match='ValueError: it is odd') as caught:
            send(engine, launch_body(FAILS, nowait=False))
        assert isinstance(caught.value.__cause__, ValueError)
        sent = engine.communicator.task_send(launch_body(ECHO, {'x': 1, 'gate': 'kill'}, nowait=False))
        GATES.wait_entered('kill')
        (node,) = engine.query(process_label='Echo')
        engine.kill(node, 'enough')
        with pytest.raises(RemoteException, match=r'KilledError: .*enough') as caught:
            final_answer(sent).result(PATIENCE)
        assert isinstance(caught.value.__cause__, KilledError)
        GATES.open('kill')

    def test_with_a_loader(self, make_engine):
        class Loader:
            def load_object(self, identifier):
                if identifier != 'echo':
                    raise ValueError(f'{identifier} is unheard of')
                return hosts.Echo

        engine = make_engine()
        engine.communicator.add_task_subscriber(ProcessLauncher(engine, Loader()))
        assert send(engine, launch_body('echo', {'x': 1}, nowait=False)) == {'y': 1}
        with pytest.raises(TaskRejected, match='other is unheard of'):
            send(engine, launch_body('other'))


class TestCreateAndContinue:
    def test_a_created_process_is_continued(self, engine):
        """What plumpy's controllers do to have a process survive their own end."""
        pid = send(engine, create_body(ECHO, {'x': 1}))
        assert send(engine, continue_body(pid)) == {'y': 1}
        assert send(engine, continue_body(pid)) == {'y': 1}, 'also when it has ended'
        assert send(engine, continue_body(pid, nowait=True)) == pid

    def test_one_that_another_engine_left(self, make_engine):
        first = make_engine()
        node = first.submit(hosts.Outputs, gate='left over')
        GATES.wait_entered('left over')
        first.pause(node)
        GATES.open('left over')
        first.stop()
        second = make_engine()
        second.communicator.add_task_subscriber(ProcessLauncher(second))
        sent = second.communicator.task_send(continue_body(node.pid))
        second.play(node.pid)
        assert final_answer(sent).result(PATIENCE)['a'] == [3]

    def test_one_that_another_engine_left_before_this_one_has_looked_for_work(self, make_engine, monkeypatch):
        first = make_engine()
        node = first.submit(hosts.Outputs, gate='left behind')
        GATES.wait_entered('left behind')
        first.pause(node)
        GATES.open('left behind')
        first.stop()
        for name in ('look', 'look_if_due'):
            monkeypatch.setattr(f'treadle.engine.claims.Claims.{name}', lambda claims: None)
        second = make_engine()
        second.communicator.add_task_subscriber(ProcessLauncher(second))
        sent = second.communicator.task_send(continue_body(node.pid))
        assert isinstance(sent.result(PATIENCE), Future), 'it is taken, not rejected'
        monkeypatch.undo()
        second.play(node.pid)
        assert final_answer(sent).result(PATIENCE)['a'] == [3]

    def test_one_that_waits_for_its_sender_goes_on_when_the_message_comes_twice(self, engine):
        pid = send(engine, create_body(ECHO, {'x': 1, 'gate': 'again'}))
        sent = [engine.communicator.task_send(continue_body(pid)) for _ in range(2)]
        GATES.open('again')
        assert [final_answer(each).result(PATIENCE) for each in sent] == [{'y': 1}] * 2

    def test_a_process_of_another_script_is_rejected_and_taken_with_claims_all(self, make_engine, monkeypatch):
        scripts = iter(['/one.py', '/two.py', '/three.py'])
        monkeypatch.setattr('treadle.engine.membership.script_of_main', lambda: next(scripts))
        first = make_engine()
        node = first.submit(hosts.Outputs, gate='foreign')
        GATES.wait_entered('foreign')
        first.pause(node)
        GATES.open('foreign')
        first.stop()
        second = make_engine()
        second.play(node.pid)
        second.communicator.add_task_subscriber(ProcessLauncher(second))
        with pytest.raises(TaskRejected, match="runs only its own; send the task to one with claims='all'"):
            send(second, continue_body(node.pid))
        second.stop()
        third = make_engine(claims='all')
        third.communicator.add_task_subscriber(ProcessLauncher(third))
        assert send(third, continue_body(node.pid))['a'] == [3]


class TestRejections:
    @pytest.mark.parametrize(
        ('task', 'why'),
        [
            ({'task': 'dance', 'args': {}}, "'dance' is no task"),
            ({'task': 'launch', 'args': {}}, 'missing required field `process_class`'),
            ('launch', 'a task is'),
            (launch_body('no_such_module:Name'), 'cannot be imported here'),
            (launch_body(f'{hosts.HERE}:NoSuchClass'), 'NoSuchClass is not in its module any more'),
            (launch_body('NoModule'), 'cannot be imported here'),
            (launch_body(f'{hosts.HERE}:NOT_A_PROCESS'), 'is no process class or process function'),
            (launch_body('os:system'), 'is not a process'),
            (launch_body(ECHO), 'inputs.x: required'),
            (launch_body(ECHO, {'x': 'text'}), 'inputs.x: expected int'),
            (launch_body(ECHO, {'x': 1, 'metadata': {'odd': ''}}), 'metadata.odd is unknown'),
            (create_body(ECHO, {'x': object()}), 'inputs.x'),
            (continue_body(98765), 'there is no process 98765'),
        ],
    )
    def test_the_sender_gets_the_reason_and_nothing_is_started(self, engine, caplog, task, why):
        with pytest.raises(TaskRejected, match=why):
            send(engine, task)
        assert 'a task is rejected: ' in caplog.text
        assert engine.query() == []
        assert send(engine, launch_body(ECHO, {'x': 1}, nowait=False)) == {'y': 1}, 'the launcher still serves'


class TestStop:
    def test_a_sender_that_waits_is_told(self, engine):
        body = launch_body(f'{hosts.HERE}:Outputs', {'gate': 'stopped'}, nowait=False)
        pending = engine.communicator.task_send(body).result(PATIENCE)
        GATES.wait_entered('stopped')
        (node,) = engine.query(process_label='Outputs')
        engine.pause(node)
        GATES.open('stopped')
        engine.stop()
        with pytest.raises(RemoteException, match=f'EngineStopped: the engine stopped before process {node.pid} ended'):
            pending.result(0)

    def test_while_a_task_is_being_handled(self, store):
        """What is committed is answered, and who comes too late hears of the stop."""
        with BlockAt(FaultPoint.SUBMIT_POSTED) as block:
            engine = Engine(store, faults=block).start()
            engine.communicator.add_task_subscriber(ProcessLauncher(engine))
            first = engine.communicator.task_send(launch_body(ECHO, {'x': 1}))
            second = engine.communicator.task_send(launch_body(ECHO, {'x': 2}))
            block.wait_reached()
            stopping = threading.Thread(target=engine.stop)
            stopping.start()
            looked = threading.Event()
            while engine.is_running:
                looked.wait(0.001)
            block.release()
            stopping.join(PATIENCE)
        assert final_answer(first).result(PATIENCE) == 1
        with pytest.raises(RemoteException, match='EngineStopped'):
            final_answer(second).result(PATIENCE)
