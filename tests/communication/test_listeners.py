"""Process listeners: what they are told, in which order, and that they can neither stop nor slow anything."""

from __future__ import annotations

import gc
import logging
import re
import threading
import weakref

import pytest

from communication import hosts
from treadle.engine import Engine, EngineStopped, ProcessListener, ProcessNotFound, ToContext, WorkChain
from treadle.threads import StopTimeout

PATIENCE, GATES, Heard = hosts.PATIENCE, hosts.GATES, hosts.Heard


class Records(ProcessListener):
    """Notes all that it is told, as (pid, what, arguments)."""

    def __init__(self) -> None:
        self.heard = Heard()

    def on_process_created(self, process):
        self.heard.tell(process.pid, 'created')

    def on_process_running(self, process):
        self.heard.tell(process.pid, 'running')

    def on_process_waiting(self, process):
        self.heard.tell(process.pid, 'waiting')

    def on_process_paused(self, process):
        self.heard.tell(process.pid, 'paused')

    def on_process_played(self, process):
        self.heard.tell(process.pid, 'played')

    def on_output_emitted(self, process, output_port, value, dynamic):
        self.heard.tell(process.pid, 'emitted', output_port, value, dynamic)

    def on_process_finished(self, process, outputs):
        self.heard.tell(process.pid, 'finished', dict(outputs))

    def on_process_excepted(self, process, reason):
        self.heard.tell(process.pid, 'excepted', reason)

    def on_process_killed(self, process, msg):
        self.heard.tell(process.pid, 'killed', msg)

    def of(self, pid):
        """What is told of one process to its end."""
        told = []
        while not told or told[-1][0] not in ('finished', 'excepted', 'killed'):
            who, *what = self.heard.next()
            if who == pid:
                told.append(tuple(what))
        return told


class Parent(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.call, cls.gather)

    def call(self):
        return ToContext(child=self.submit(hosts.Echo, x=1))

    def gather(self):
        pass


@pytest.fixture
def records(engine) -> Records:
    """A listener to all processes of the engine."""
    listener = Records()
    engine.add_process_listener(listener)
    return listener


class TestWhatIsTold:
    def test_a_life_in_order(self, engine, records):
        node = engine.run_get_node(hosts.Outputs)[1]
        assert records.of(node.pid) == [
            ('created',),
            ('running',),
            ('emitted', 'a', [1], False),
            ('emitted', 'free.b', 2, True),
            ('emitted', 'a', [3], False),
            ('finished', {'a': [3], 'free': {'b': 2}}),
        ]

    def test_a_parent_that_waits(self, engine, records):
        node = engine.run_get_node(Parent)[1]
        assert [what for what, *_ in records.of(node.pid)] == ['created', 'running', 'waiting', 'running', 'finished']

    def test_a_function(self, engine, records):
        node = engine.run_get_node(hosts.double, x=4)[1]
        assert records.of(node.pid) == [
            ('created',),
            ('running',),
            ('emitted', 'result', 8, True),
            ('finished', {'result': 8}),
        ]

    def test_a_function_that_is_called_in_a_step(self, engine, records):
        class Calls(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                hosts.double(5)

        node = engine.run_get_node(Calls)[1]
        assert records.of(node.called[0].pid)[-2:] == [('emitted', 'result', 10, True), ('finished', {'result': 10})]

    def test_what_raised_and_that_its_outputs_do_not_count(self, engine, records):
        class Half(hosts.Outputs):
            def second(self):
                self.out('a', [2])
                raise ValueError('half-way')

        with pytest.raises(ValueError, match='half-way'):
            engine.run(Half, metadata={'key': 'half'})
        (node,) = engine.query(key='half')
        told = records.of(node.pid)
        assert told[-1] == ('excepted', 'ValueError: half-way')
        assert ('emitted', 'a', [2], False) not in told

    def test_an_output_that_a_step_sets_twice_is_told_once_as_it_was_committed(self, engine, records):
        class Twice(hosts.Outputs):
            def third(self):
                self.out('a', [2])
                self.out('free.c.d', 1)
                self.out('free.c', 2)
                self.out('a', [3])

        node = engine.run_get_node(Twice)[1]
        assert records.of(node.pid)[-3:] == [
            ('emitted', 'a', [3], False),
            ('emitted', 'free.c', 2, True),
            ('finished', {'a': [3], 'free': {'b': 2, 'c': 2}}),
        ]

    def test_methods_that_are_set_on_the_instance(self, engine):
        """As plumpy's users write them."""
        heard, listener = Heard(), ProcessListener()
        listener.on_process_finished = lambda process, outputs: heard.tell(process, dict(outputs))
        engine.add_process_listener(listener)
        node = engine.run_get_node(hosts.Echo, x=1)[1]
        assert heard.next() == (node, {'y': 1})

    def test_what_was_killed(self, engine, records):
        node = engine.submit(hosts.Echo, x=1, gate='told of a kill')
        GATES.wait_entered('told of a kill')
        engine.kill(node, 'enough')
        GATES.open('told of a kill')
        assert records.of(node.pid)[-1] == ('killed', 'enough')

    def test_pause_and_play_with_the_children(self, engine, records):
        node = engine.submit(Parent)
        engine.wait(node, PATIENCE)
        held = engine.submit(hosts.Outputs, gate='told of a pause')
        GATES.wait_entered('told of a pause')
        engine.pause(held)
        engine.pause(held)
        GATES.open('told of a pause')
        engine.play(held)
        engine.wait(held, PATIENCE)
        told = [what for what, *_ in records.of(held.pid)]
        assert [what for what in told if what in ('paused', 'played')] == ['paused', 'played']
        assert told.index('created') < told.index('paused') < told.index('played') < told.index('finished')

    def test_paused_with_a_parent_and_by_itself_is_told_once(self, engine, records):
        class Holds(Parent):
            def call(self):
                return ToContext(child=self.submit(hosts.Outputs, gate='told with a parent'))

        node = engine.submit(Holds)
        GATES.wait_entered('told with a parent')
        (child,) = node.called
        engine.pause(child)
        engine.pause(node)
        engine.play(node)
        engine.play(child)
        GATES.open('told with a parent')
        engine.wait(node, PATIENCE)
        told = records.heard.until((node.pid, 'finished', {}))
        pauses = [(pid, what) for pid, what, *_ in told if what in ('paused', 'played')]
        assert pauses == [(child.pid, 'paused'), (node.pid, 'paused'), (node.pid, 'played'), (child.pid, 'played')]

    def test_only_what_is_committed(self, engine):
        heard = Heard()

        class Reads(ProcessListener):
            def on_output_emitted(self, process, output_port, value, dynamic):
                heard.tell(engine.load(process.pid).outputs[output_port] == value)

        engine.add_process_listener(Reads())
        for number in range(20):
            engine.submit(hosts.Echo, x=number)
        assert [heard.next() for _ in range(20)] == [(True,)] * 20

    def test_values_are_copies(self, engine, records):
        class Spoils(Records):
            def on_output_emitted(self, process, output_port, value, dynamic):
                if isinstance(value, list):
                    value.clear()

        spoils = Spoils()
        engine.add_process_listener(spoils)
        node = engine.run_get_node(hosts.Outputs)[1]
        assert spoils.of(node.pid)[-1] == ('finished', {'a': [3], 'free': {'b': 2}})
        assert node.outputs.a == [3]
        assert ('emitted', 'a', [3], False) in records.of(node.pid)


class TestOneProcess:
    def test_to_its_end(self, engine):
        listener = Records()
        node = engine.submit(hosts.Outputs, gate='one')
        other = engine.submit(hosts.Echo, x=1)
        GATES.wait_entered('one')
        engine.add_process_listener(listener, node)
        GATES.open('one')
        engine.wait([node, other], PATIENCE)
        told = listener.of(node.pid)
        assert told[-2:] == [('emitted', 'a', [3], False), ('finished', {'a': [3], 'free': {'b': 2}})]
        engine.stop()
        assert listener.heard.is_empty
        assert not engine._listeners._ears, 'it is forgotten'

    def test_also_when_it_has_ended_before(self, engine):
        node = engine.run_get_node(hosts.Echo, x=1)[1]
        for process in (node, node.pid):
            listener = Records()
            engine.add_process_listener(listener, process)
            assert listener.of(node.pid) == [('finished', {'y': 1})]

    def test_told_of_the_end_once_however_close(self, engine):
        listeners = []
        for number in range(50):
            listeners.append((Records(), engine.submit(hosts.Echo, x=number)))
            engine.add_process_listener(*listeners[-1])
        engine.wait([node for _, node in listeners], PATIENCE)
        engine.stop()
        for listener, node in listeners:
            assert listener.of(node.pid)[-1] == ('finished', dict(node.outputs))
            assert listener.heard.is_empty

    def test_unknown(self, engine):
        with pytest.raises(ProcessNotFound, match='no process 987'):
            engine.add_process_listener(Records(), 987)


class TestHarmless:
    def test_what_it_raises_is_logged_with_its_traceback(self, engine, records, caplog):
        class Fails(ProcessListener):
            def on_process_created(self, process):
                raise ValueError('in a listener')

            def on_process_running(self, process):
                raise SystemExit(3)

        engine.add_process_listener(Fails())
        with caplog.at_level(logging.ERROR, logger='treadle'):
            node = engine.run_get_node(hosts.Echo, x=1)[1]
            assert records.of(node.pid)[-1] == ('finished', {'y': 1})
            engine.stop()
        logged = [record for record in caplog.records if record.name == 'treadle.engine.listeners']
        assert [record.exc_info[0] for record in logged] == [ValueError, SystemExit]
        assert all(record.exc_info[2] is not None for record in logged)
        assert f'process {node.pid}: a TestHarmless' in logged[0].getMessage()

    def test_a_slow_one_holds_up_neither_the_engine_nor_others(self, engine, records):
        entered, opened = threading.Event(), threading.Event()

        class Blocks(ProcessListener):
            def on_process_created(self, process):
                entered.set()
                assert opened.wait(PATIENCE)

        engine.add_process_listener(Blocks())
        for number in range(20):
            node = engine.run_get_node(hosts.Echo, x=number)[1]
            assert records.of(node.pid)[-1] == ('finished', {'y': number})
        assert entered.wait(PATIENCE)
        opened.set()

    def test_it_may_call_the_engine(self, engine):
        heard = Heard()

        class Runs(ProcessListener):
            def on_process_finished(self, process, outputs):
                if process.process_label == 'Outputs':
                    heard.tell(engine.run(hosts.Echo, x=process.pid))

        engine.add_process_listener(Runs())
        node = engine.submit(hosts.Outputs)
        assert heard.next() == ({'y': node.pid},)

    def test_it_may_remove_itself(self, engine, records):
        class Once(Records):
            def on_process_created(self, process):
                engine.remove_process_listener(self)
                super().on_process_created(process)

        once = Once()
        engine.add_process_listener(once)
        nodes = [engine.submit(hosts.Echo, x=number) for number in range(5)]
        engine.wait(nodes, PATIENCE)
        engine.stop()
        assert once.heard.next() == (nodes[0].pid, 'created')
        assert once.heard.is_empty


class TestAddingAndRemoving:
    def test_added_twice_it_is_told_once_and_removed_it_hears_nothing(self, engine):
        listener = Records()
        for _ in range(2):
            engine.add_process_listener(listener)
        node = engine.run_get_node(hosts.Echo, x=1)[1]
        assert [what for what, *_ in listener.of(node.pid)] == ['created', 'running', 'emitted', 'finished']
        for _ in range(2):
            engine.remove_process_listener(listener)
        engine.run(hosts.Echo, x=2)
        engine.stop()
        assert listener.heard.is_empty
        reference = weakref.ref(listener)
        del listener
        gc.collect()
        assert reference() is None

    def test_of_one_process(self, engine):
        listener = Records()
        node = engine.submit(hosts.Outputs, gate='removed')
        GATES.wait_entered('removed')
        engine.add_process_listener(listener, node)
        engine.remove_process_listener(listener, node.pid)
        GATES.open('removed')
        engine.wait(node, PATIENCE)
        engine.stop()
        assert listener.heard.is_empty

    def test_equal_ones_are_not_the_same(self, engine):
        class Equal(Records):
            def __eq__(self, other):
                return isinstance(other, Equal)

            __hash__ = None  # type: ignore[assignment]

        one, other = Equal(), Equal()
        engine.add_process_listener(one)
        engine.add_process_listener(other)
        node = engine.run_get_node(hosts.Echo, x=1)[1]
        assert one.of(node.pid) == other.of(node.pid)

    def test_what_is_no_listener(self, engine):
        for listener in (object(), Records, None):
            with pytest.raises(TypeError, match='derived from ProcessListener'):
                engine.add_process_listener(listener)

    def test_only_while_the_engine_runs(self, store):
        engine = Engine(store)
        with pytest.raises(EngineStopped, match='not started'):
            engine.add_process_listener(Records())
        with engine:
            pass
        with pytest.raises(EngineStopped, match='is stopped'):
            engine.add_process_listener(Records())
        engine.remove_process_listener(Records())

    def test_while_many_change(self, engine):
        """Adding and removing beside a store thread that tells, for all and for one."""
        stop = threading.Event()
        failed: list[BaseException] = []

        def change():
            try:
                while not stop.is_set():
                    listener = Records()
                    engine.add_process_listener(listener)
                    node = engine.submit(hosts.Echo, x=1)
                    engine.add_process_listener(listener, node)
                    engine.remove_process_listener(listener)
                    engine.wait(node, PATIENCE)
            except BaseException as error:
                failed.append(error)

        changers = [threading.Thread(target=change) for _ in range(4)]
        for each in changers:
            each.start()
        nodes = [engine.submit(hosts.Echo, x=number) for number in range(200)]
        engine.wait(nodes, PATIENCE)
        stop.set()
        for each in changers:
            each.join(PATIENCE)
        assert not failed


class TestStop:
    def test_what_was_committed_is_told(self, store):
        listener = Records()
        with Engine(store) as engine:
            engine.add_process_listener(listener)
            nodes = [engine.submit(hosts.Echo, x=number) for number in range(50)]
            engine.wait(nodes, PATIENCE)
        told = []
        while not listener.heard.is_empty:
            told.append(listener.heard.next())
        assert sum(what == 'finished' for _, what, *_ in told) == 50

    def test_one_that_does_not_return_is_named_and_misses_the_rest(self, store, caplog):
        entered, opened = threading.Event(), threading.Event()
        told: list[int] = []

        class Sticks(ProcessListener):
            def on_process_created(self, process):
                told.append(process.pid)
                entered.set()
                assert opened.wait(PATIENCE)

        engine = Engine(store).start()
        engine.add_process_listener(Sticks())
        engine.run(hosts.Echo, x=1)
        assert entered.wait(PATIENCE)
        engine.run(hosts.Echo, x=2)
        with pytest.raises(StopTimeout) as caught:
            engine.stop(timeout=2.0)
        # Where the threads took all of that time, theirs is the error, and this is logged.
        said = f'{caught.value}\n{caplog.text}'
        assert re.search(r"1 listener.s. did not end within .* 'treadle-listener-1' is at", said), said
        assert not engine.is_running
        assert 'listener Sticks misses' in caplog.text
        opened.set()
        assert told == [1]

    def test_one_that_waits_for_a_process_is_let_go(self, store):
        heard = Heard()
        waiting = threading.Event()
        engine = Engine(store).start()
        held = engine.submit(hosts.Outputs, gate='waited for')
        GATES.wait_entered('waited for')
        engine.pause(held)
        GATES.open('waited for')

        class Waits(ProcessListener):
            def on_process_finished(self, process, outputs):
                waiting.set()
                try:
                    engine.wait(held)
                except EngineStopped as error:
                    heard.tell(str(error))

        engine.add_process_listener(Waits())
        engine.run(hosts.Echo, x=1)
        assert waiting.wait(PATIENCE)
        engine.stop()
        assert heard.next()[0]
