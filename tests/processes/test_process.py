"""Processes that are no work chains, their nodes, and what is true of every process."""

from __future__ import annotations

import datetime
import threading
from typing import Any

import pytest

from treadle.engine import (
    Engine,
    EngineStopped,
    ExitCode,
    Process,
    ProcessNode,
    ProcessState,
    SpecError,
    WorkChain,
    calcfunction,
    default_engine,
    run,
    run_get_node,
    run_get_pid,
    submit,
)
from treadle.engine.processes.visit import current_visit


class Doubles(Process):
    """Doubles a number."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int, default=1)
        spec.output('y', valid_type=int)

    def run(self):
        self.out('y', 2 * self.inputs.x)


@calcfunction
def count_inputs(inputs: dict) -> int:
    return len(inputs)


class Fails(Process):
    def run(self):
        raise LookupError('fails')


class Ends(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('how')
        spec.exit_code(300, 'ERROR_OTHER', message='other {thing}')

    def run(self):
        how = self.inputs.how
        return self.exit_codes.ERROR_OTHER.format(thing='things') if how == 'code' else how


class TestSpec:
    def test_each_class_has_its_own(self):
        class Derived(Doubles):
            pass

        assert Doubles.spec() is Doubles.spec()
        assert Derived.spec() is not Doubles.spec()
        assert list(Derived.spec().inputs) == ['x']

    def test_it_cannot_be_changed_afterwards(self):
        with pytest.raises(SpecError, match='sealed'):
            Doubles.spec().input('z')

    def test_a_process_sees_its_own(self, engine: Engine):
        class Looks(Doubles):
            def run(self):
                assert self.spec() is type(self).spec()
                super().run()

        assert run(Looks) == {'y': 2}


class TestRun:
    def test_outputs(self, engine: Engine):
        assert run(Doubles, x=4) == {'y': 8}
        assert run(Doubles, {'x': 4}) == {'y': 8}
        assert engine.run(Doubles) == {'y': 2}

    def test_a_node_too(self, engine: Engine):
        outputs, node = run_get_node(Doubles, x=4)
        assert outputs == {'y': 8} == dict(node.outputs)

    def test_what_comes_back_has_names(self, engine: Engine):
        assert run_get_node(Doubles, x=4).node.outputs.y == 8
        assert run_get_node(Doubles, x=4).result == {'y': 8}
        assert run_get_pid(Doubles, x=4).pid > 0
        assert run.get_node(Doubles, x=4).node.outputs.y == 8
        assert run.get_pid(Doubles, x=4).result == {'y': 8}

    def test_inputs_by_their_name(self, engine: Engine):
        assert run(Doubles, inputs={'x': 4}) == {'y': 8}
        assert engine.wait(submit(Doubles, inputs={'x': 5})).outputs.y == 10
        assert run(Doubles.get_builder(), inputs={'x': 6}) == {'y': 12}
        with pytest.raises(TypeError, match="the input 'x' is given twice"):
            run(Doubles, inputs={'x': 6}, x=6)
        with pytest.raises(TypeError, match='inputs are given as a mapping'):
            run(Doubles, inputs=6)

    def test_an_input_that_is_called_inputs(self, engine: Engine):
        assert run(count_inputs, inputs={'x': 4, 'y': 5}) == 2
        assert run(count_inputs, {'inputs': {'x': 4}}) == 1

    def test_the_module_uses_the_default_engine(self, engine: Engine):
        assert default_engine() is engine

    def test_an_instance_is_no_class(self, engine: Engine):
        kept = []

        class Keeps(Process):
            def run(self):
                kept.append(self)

        run(Keeps)
        with pytest.raises(TypeError, match='an instance of Keeps is not a process; give a class'):
            run(kept[0])

    @pytest.mark.parametrize(('how', 'status', 'message'), [(None, 0, None), (0, 0, None), (7, 7, None)])
    def test_statuses(self, engine: Engine, how, status, message):
        _, node = run_get_node(Ends, how=how)
        assert (node.exit_status, node.exit_message) == (status, message)

    def test_exit_codes(self, engine: Engine):
        _, node = run_get_node(Ends, how='code')
        assert node.exit_code == ExitCode(300, 'other things')
        assert node.is_failed

    @pytest.mark.parametrize('how', ['text', True, 1.0, [1]])
    def test_what_means_nothing(self, engine: Engine, how):
        with pytest.raises(TypeError, match='a step of Ends returned'):
            run(Ends, how=how)

    def test_missing_outputs(self, engine: Engine):
        class Forgets(Doubles):
            def run(self):
                pass

        outputs, node = run_get_node(Forgets)
        assert outputs == {}
        assert node.exit_status == 11
        assert 'outputs.y: required, but not given' in node.exit_message

    def test_many_at_once(self, engine: Engine):
        nodes = [submit(Doubles, x=x) for x in range(100)]
        engine.wait(nodes, timeout=30)
        assert [node.outputs.y for node in nodes] == [2 * x for x in range(100)]

    def test_from_many_threads(self, engine: Engine):
        results: dict[int, Any] = {}

        def call(x):
            results[x] = run(Doubles, x=x)['y']

        threads = [threading.Thread(target=call, args=(x,)) for x in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert results == {x: 2 * x for x in range(16)}


class TestNested:
    def test_run_in_run(self, engine: Engine):
        class Nests(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('depth', valid_type=int)
                spec.output('pids', valid_type=list)

            def run(self):
                below = run(Nests, depth=self.inputs.depth - 1)['pids'] if self.inputs.depth else []
                self.out('pids', [self.pid, *below])

        outputs, node = run_get_node(Nests, depth=5)
        pids = outputs['pids']
        assert len(set(pids)) == 6
        assert pids[0] == node.pid
        assert engine.load(pids[5]).parent == engine.load(pids[4])

    def test_deeper_than_steps_may_execute(self, make_engine):
        class Nests(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('depth', valid_type=int)
                spec.output('depth', valid_type=int)

            def run(self):
                depth = self.inputs.depth
                self.out('depth', 1 + (run(Nests, depth=depth - 1)['depth'] if depth else 0))

        assert make_engine(workers=1, steps=1).run(Nests, depth=20) == {'depth': 21}

    def test_the_current_step_is_ones_own(self, engine: Engine):
        seen: list[tuple[int, int]] = []

        class Inner(Process):
            def run(self):
                seen.append((self.pid, current_visit().pid))

        class Outer(Process):
            def run(self):
                seen.append((self.pid, current_visit().pid))
                run(Inner)
                seen.append((self.pid, current_visit().pid))

        nodes = [submit(Outer) for _ in range(5)]
        engine.wait(nodes, timeout=20)
        assert len(seen) == 15
        assert all(own == current for own, current in seen)
        assert current_visit() is None

    def test_context_variables_of_one_process_are_not_anothers(self, engine: Engine):
        import contextvars

        variable: contextvars.ContextVar[int] = contextvars.ContextVar('variable', default=0)
        seen = []

        class Sets(Process):
            def run(self):
                seen.append(variable.get())
                variable.set(self.pid)

        for _ in range(10):
            run(Sets)
        assert seen == [0] * 10

    def test_a_step_uses_the_engine_that_runs_it(self, engine: Engine, make_engine):
        other = make_engine()

        class Outer(Process):
            def run(self):
                run(Doubles)
                self.submit(Doubles)

        before = len(engine.query())
        _, node = other.run_get_node(Outer)
        assert len(node.called) == 2
        assert len(engine.query()) == before


class TestNodes:
    def test_what_it_says(self, engine: Engine):
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
        metadata = {'label': 'a label', 'description': 'a description', 'key': 'a key'}
        _, node = run_get_node(Doubles, x=3, metadata=metadata)
        assert (node.label, node.description, node.key) == ('a label', 'a description', 'a key')
        assert node.process_label == 'Doubles'
        assert node.process_class.endswith('test_process:Doubles')
        assert isinstance(node.pid, int)
        assert len(node.uuid) == 36
        assert before <= node.created_at <= node.changed_at
        assert (node.state, node.paused, node.parent, node.called, node.log) == ('finished', False, None, [], [])
        assert (node.exception, node.traceback) == (None, None)
        assert repr(node) == f'<ProcessNode {node.pid} Doubles>'

    def test_the_process_sees_the_same(self, engine: Engine):
        seen = []

        class Looks(Process):
            def run(self):
                seen.append((self.pid, self.uuid, self.node.label))

        _, node = run_get_node(Looks, metadata={'label': 'l'})
        assert seen == [(node.pid, node.uuid, 'l')]

    def test_two_of_one_process_are_equal(self, engine: Engine):
        _, node = run_get_node(Doubles)
        assert engine.load(node.pid) == node
        assert hash(engine.load(node.pid)) == hash(node)
        assert run_get_node(Doubles)[1] != node

    def test_looking_until_it_has_ended_comes_to_an_end(self, engine: Engine):
        node = submit(Doubles)
        while not node.is_terminated:
            pass
        assert node.outputs.y == 2

    def test_pids_are_small_and_never_used_twice(self, engine: Engine):
        pids = [submit(Doubles).pid for _ in range(100)]
        assert len(set(pids)) == 100
        assert sorted(pids) == pids
        assert max(pids) < 100_000
        engine.wait(pids, timeout=30)

    def test_as_an_input(self, engine: Engine):
        class Takes(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('nodes', valid_type=list)
                spec.output('ys')

            def run(self):
                assert all(isinstance(node, ProcessNode) for node in self.inputs.nodes)
                self.out('ys', [node.outputs.y for node in self.inputs.nodes])

        nodes = [run_get_node(Doubles, x=x)[1] for x in (1, 2)]
        outputs, node = run_get_node(Takes, nodes=nodes)
        assert outputs == {'ys': [2, 4]}
        assert node.inputs.nodes == nodes

    def test_states_are_text(self, engine: Engine):
        _, node = run_get_node(Doubles)
        assert node.state is ProcessState.FINISHED
        assert node.state == 'finished'
        assert str(node.state.value) == 'finished'

    def test_asked_for_by_what_they_are(self, engine: Engine):
        class Queried(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('fails', default=False)

            def run(self):
                run(Doubles)
                if self.inputs.fails:
                    raise LookupError('asked for')

        _, good = run_get_node(Queried)
        with pytest.raises(LookupError):
            run(Queried, fails=True)
        assert [node.state for node in engine.query(process_label='Queried')] == ['excepted', 'finished']
        assert engine.query(process_label='Queried', states=['finished']) == [good]
        assert engine.query(process_label='Queried', states=[ProcessState.KILLED]) == []
        assert all(node.parent is None for node in engine.query(top_level=True))
        assert len(engine.query(limit=1)) == 1


class TestEnds:
    def test_what_has_ended_stays_as_it_is(self, engine: Engine):
        _, node = run_get_node(Doubles)
        assert not engine.kill(node)
        assert engine.wait(node) is node
        assert engine.future(node).result(5) == node
        assert engine.load(node.pid).is_finished_ok

    def test_waiting_for_several(self, engine: Engine):
        nodes = [submit(Doubles), submit(Fails)]
        ended = engine.wait([nodes[0].pid, nodes[1]], timeout=20)
        assert ended == nodes
        assert [node.state for node in ended] == ['finished', 'excepted']
        assert engine.wait([]) == []

    def test_waiting_gives_up_and_the_process_goes_on(self, engine: Engine):
        go_on = threading.Event()

        class Slow(Process):
            def run(self):
                go_on.wait(20)

        node = submit(Slow)
        with pytest.raises(TimeoutError):
            engine.wait(node, timeout=0.01)
        go_on.set()
        assert engine.wait(node, timeout=20).is_finished_ok

    def test_a_killed_process_that_has_not_begun_never_begins(self, make_engine):
        ran = []
        reached, go_on = threading.Event(), threading.Event()

        class Blocks(Process):
            def run(self):
                reached.set()
                go_on.wait(20)

        class Begins(Process):
            def run(self):
                ran.append(self.pid)

        engine = make_engine(workers=1, steps=1)
        blocking = engine.submit(Blocks)
        assert reached.wait(20)
        node = engine.submit(Begins)
        assert engine.kill(node)
        go_on.set()
        engine.wait([blocking, node], timeout=20)
        assert engine.run(Doubles) == {'y': 2}
        assert ran == []

    def test_a_process_may_kill_itself(self, engine: Engine):
        after = []

        class Kills(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second)

            def first(self):
                engine.kill(self.pid, 'by itself')
                after.append('still running')

            def second(self):
                after.append('next step')

        node = submit(Kills)
        assert engine.wait(node, timeout=20).exit_message == 'by itself'
        assert 'next step' not in after

    def test_base_exceptions_are_ends_too(self, engine: Engine):
        class Exits(Process):
            def run(self):
                raise SystemExit(3)

        with pytest.raises(SystemExit):
            run(Exits)
        (node,) = engine.query(process_label='Exits')
        assert node.is_excepted

    def test_a_stopped_engine_takes_nothing(self, make_engine):
        engine = make_engine()
        engine.stop()
        for call in (engine.run, engine.submit):
            with pytest.raises(EngineStopped, match='is stopped; create and start another'):
                call(Doubles)
