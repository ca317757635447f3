"""A step that was cut off is taken again: what it had on record is returned, or raised, and not done again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from treadle.engine import (
    Engine,
    ExitCode,
    KilledError,
    Process,
    ProcessNode,
    ProcessParked,
    StepAborted,
    ToContext,
    WorkChain,
    append_,
    calcfunction,
    run,
    run_get_node,
    submit,
    workfunction,
)

MakeEngine = Callable[..., Engine]


class Cut:
    """Cuts the first execution of a step off, as a crash of its engine would, and tells of it."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self.executions = 0

    def begins(self) -> int:
        self.executions += 1
        return self.executions

    def here(self) -> None:
        if not self.happened.is_set():
            self.happened.set()
            raise StepAborted('the engine goes away here')


cut = Cut()
ran: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    global cut
    cut = Cut()
    ran.clear()


@calcfunction
def noted(value, returned=None):
    ran.append(value)
    return returned


@calcfunction
def refused(value):
    ran.append(value)
    raise LookupError(value)


class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', default=1)
        spec.output('y')
        spec.outline(cls.first, cls.second)

    def first(self):
        ran.append('child first')

    def second(self):
        ran.append('child second')
        self.out('y', self.inputs.x)


class OneStep(Process):
    """Runs ``work``, cut off once, and gives what that returns."""

    work: ClassVar[Callable[[Any], Any]]

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('got', required=False)

    def run(self):
        cut.begins()
        got = type(self).work(self)
        cut.here()
        self.out('got', got)


def replayed(make_engine: MakeEngine, work: Callable[[Any], Any]) -> ProcessNode:
    """Have ``work`` done as a step that is cut off at its end and taken again by a second engine."""

    class Replayed(OneStep):
        pass

    Replayed.work = staticmethod(work)
    first = make_engine()
    node = first.submit(Replayed)
    assert cut.happened.wait(20)
    first.stop()
    second = make_engine()
    second.wait(node.pid, timeout=20)
    assert cut.executions == 2
    return second.load(node.pid)


class TestFunctions:
    @pytest.mark.parametrize(
        'value', [5, None, {}, [], (1, (2,)), {'a': 1, 'b': [None]}, {'outer': {'inner': (1,)}}, b'x'], ids=repr
    )
    def test_the_result_is_on_record(self, make_engine: MakeEngine, value):
        results = []

        def work(process):
            results.append(noted('once', returned=value))
            return results[-1]

        node = replayed(make_engine, work)
        assert ran == ['once']
        assert results[0] == results[1]
        assert type(results[0]) is type(results[1])
        assert node.outputs.got == value
        assert len(node.called) == 1

    def test_an_exit_code(self, make_engine: MakeEngine):
        results = []

        @calcfunction
        def gives():
            ran.append('gives')
            return ExitCode(5, 'five')

        def work(process):
            result, node = gives.run_get_node()
            results.append((result, node.exit_status))

        replayed(make_engine, work)
        assert ran == ['gives']
        assert results == [({}, 5), ({}, 5)]

    def test_an_error_is_raised_again(self, make_engine: MakeEngine):
        seen = []

        def work(process):
            try:
                refused('no')
            except LookupError as error:
                seen.append(error)
                return str(error)

        node = replayed(make_engine, work)
        assert ran == ['no']
        assert [(type(error), error.args) for error in seen] == [(LookupError, ('no',))] * 2
        assert node.outputs.got == 'no'

    def test_several_calls_keep_their_order(self, make_engine: MakeEngine):
        def work(process):
            return [noted(number, returned=number * 10) for number in range(3)]

        node = replayed(make_engine, work)
        assert ran == [0, 1, 2]
        assert node.outputs.got == [0, 10, 20]

    def test_one_that_was_cut_off_itself_is_taken_again(self, make_engine: MakeEngine):
        @workfunction
        def half():
            ran.append('half')
            noted('inside')
            cut.here()
            return 'whole'

        def work(process):
            noted('before')
            return half()

        node = replayed(make_engine, work)
        assert ran == ['before', 'half', 'inside', 'half']
        assert node.outputs.got == 'whole'
        assert [child.process_label for child in node.called] == ['noted', 'half']
        assert [child.process_label for child in node.called[1].called] == ['noted']

    def test_with_a_key(self, make_engine: MakeEngine):
        def work(process):
            return noted('keyed', returned=1, metadata={'key': 'the-key'})

        node = replayed(make_engine, work)
        assert (ran, node.outputs.got) == (['keyed'], 1)


class TestRuns:
    def test_the_outputs_are_on_record(self, make_engine: MakeEngine):
        node = replayed(make_engine, lambda process: run(Child, x=(1, 2))['y'])
        assert ran == ['child first', 'child second']
        assert node.outputs.got == (1, 2)
        assert len(node.called) == 1

    def test_a_child_that_was_killed(self, make_engine: MakeEngine):
        class Killed(Process):
            def run(self):
                ran.append('killed')
                self._visit.host.engine.kill(self.pid, 'by itself')

        def work(process):
            with pytest.raises(KilledError, match='by itself') as caught:
                run(Killed)
            return str(caught.value)

        node = replayed(make_engine, work)
        assert ran == ['killed']
        assert 'by itself' in node.outputs.got

    def test_children_submitted_early_exist_once(self, make_engine: MakeEngine):
        def work(process):
            return [submit(Child, x=x).pid for x in (1, 2)]

        node = replayed(make_engine, work)
        assert node.outputs.got == [child.pid for child in node.called]
        assert [child.inputs.x for child in node.called] == [1, 2]

    def test_children_of_the_unit_come_with_the_execution_that_counts(self, make_engine: MakeEngine):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('ys')
                spec.outline(cls.launch, cls.gather)

            def launch(self):
                cut.begins()
                self.report('launching')
                for x in (1, 2):
                    self.to_context(children=append_(self.submit(Child, x=x)))
                self.ctx.executions = cut.executions
                cut.here()

            def gather(self):
                assert self.ctx.executions == 2
                self.out('ys', [child.outputs.y for child in self.ctx.children])

        first = make_engine()
        node = first.submit(Parent)
        assert cut.happened.wait(20)
        assert node.called == []
        first.stop()
        assert ran == []
        node = make_engine().wait(node.pid, timeout=20)
        assert dict(node.outputs) == {'ys': [1, 2]}
        assert len(node.called) == 2
        assert [entry.message for entry in node.log] == ['launching']

    def test_outputs_of_the_execution_that_did_not_count(self, make_engine: MakeEngine):
        class Twice(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output_namespace('out', dynamic=True)

            def run(self):
                self.out(f'out.n{cut.begins()}', 1)
                cut.here()

        first = make_engine()
        node = first.submit(Twice)
        assert cut.happened.wait(20)
        first.stop()
        assert dict(make_engine().wait(node.pid, timeout=20).outputs) == {'out': {'n2': 1}}

    def test_mixed_calls(self, make_engine: MakeEngine):
        def work(process):
            one = noted('f', returned=1)
            two = run(Child, x=2)['y']
            node = submit(Child, x=3)
            three = process._visit.host.engine.wait(node, timeout=20).outputs.y
            _, other = run_get_node(noted, value='g', returned=4)
            return [one, two, three, other.outputs.result]

        node = replayed(make_engine, work)
        assert node.outputs.got == [1, 2, 3, 4]
        assert ran == ['f', *['child first', 'child second'] * 2, 'g']
        assert len(node.called) == 4

    def test_a_step_after_the_one_that_was_replayed_is_none(self, make_engine: MakeEngine):
        """The numbers of the calls begin anew with each step, and so does what is on record."""

        class Steps(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('all')
                spec.outline(cls.first, cls.second, cls.third)

            def first(self):
                self.ctx.all = [noted('first', returned=1)]

            def second(self):
                self.ctx.all.append(noted('second', returned=2))
                cut.here()

            def third(self):
                self.ctx.all.append(noted('third', returned=3))
                self.out('all', self.ctx.all)

        first = make_engine()
        node = first.submit(Steps)
        assert cut.happened.wait(20)
        first.stop()
        assert dict(make_engine().wait(node.pid, timeout=20).outputs) == {'all': [1, 2, 3]}
        assert ran == ['first', 'second', 'third']


class TestMismatch:
    @pytest.mark.parametrize('change', ['inputs', 'function', 'order'])
    def test_another_call_parks(self, make_engine: MakeEngine, change):
        class Changes(Process):
            def run(self):
                if cut.begins() == 1 or not change:
                    noted('a')
                    noted('b')
                elif change == 'inputs':
                    noted('c')
                elif change == 'function':
                    refused('a')
                else:
                    noted('b')
                    noted('a')
                cut.here()

        first = make_engine()
        node = first.submit(Changes)
        assert cut.happened.wait(20)
        first.stop()
        second = make_engine()
        with pytest.raises(ProcessParked, match='does not match the one on record') as caught:
            second.wait(node.pid, timeout=20)
        for shown in (f'process {node.pid}', 'call number 0', '"a"', 'test_replay:noted', 'restore the code'):
            assert shown in str(caught.value)
        assert not second.load(node.pid).is_terminated
        assert ran == ['a', 'b']
        second.stop()
        change = ''
        assert make_engine().wait(node.pid, timeout=20).is_finished_ok
        assert ran == ['a', 'b']

    def test_what_is_not_asked_for_again_is_killed(self, make_engine: MakeEngine):
        gates = [threading.Event(), threading.Event()]
        second_gate_reached = threading.Event()

        class Long(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second)

            def first(self):
                ran.append('long')
                gates[0].wait(20)

            def second(self):
                second_gate_reached.set()
                gates[1].wait(20)

        class Forgets(Process):
            def run(self):
                if cut.begins() == 1:
                    noted('kept')
                    submit(Long)
                else:
                    assert second_gate_reached.wait(20)
                cut.here()

        first = make_engine()
        node = first.submit(Forgets)
        assert cut.happened.wait(20)
        stopping = threading.Thread(target=first.stop)
        stopping.start()
        deadline = time.monotonic() + 20
        while not first.core.dispatcher.is_closed:  # so that it does not come to its second step there
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gates[0].set()
        stopping.join()
        second = make_engine()
        node = second.wait(node.pid, timeout=20)
        assert node.is_finished_ok
        kept, long = node.called
        gates[1].set()
        assert kept.is_finished_ok
        assert long.is_killed
        assert long.exit_message == 'the step that had called it was run again and did not ask for it'

    def test_more_calls_than_on_record_are_made(self, make_engine: MakeEngine):
        def work(process):
            noted('a')
            if cut.executions == 2:
                noted('b')

        node = replayed(make_engine, work)
        assert ran == ['a', 'b']
        assert len(node.called) == 2

    def test_waiting_for_what_was_submitted_early(self, make_engine: MakeEngine):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y')
                spec.outline(cls.launch, cls.look)

            def launch(self):
                cut.begins()
                child = submit(Child, x=5)
                cut.here()
                return ToContext(child=child)

            def look(self):
                self.out('y', self.ctx.child.outputs.y)

        first = make_engine()
        node = first.submit(Parent)
        assert cut.happened.wait(20)
        first.stop()
        assert dict(make_engine().wait(node.pid, timeout=20).outputs) == {'y': 5}
        assert ran == ['child first', 'child second']


class Kept(Process):
    """Ends when it may; until then somebody waits for it."""

    begun: ClassVar[threading.Event]
    go_on: ClassVar[threading.Event]

    def run(self):
        Kept.begun.set()
        assert Kept.go_on.wait(20)


class TestParkedChildren:
    """What waits for one has no verdict on it, and gets none."""

    def test_a_function_that_waits_for_one_is_given_back(self, make_engine: MakeEngine):
        engine = first = make_engine()

        @workfunction
        def waits():
            ran.append('waits')
            engine.wait(engine.submit(Kept))

        class Calls(Process):
            def run(self):
                waits()

        Kept.begun, Kept.go_on = threading.Event(), threading.Event()
        node = first.submit(Calls)
        assert Kept.begun.wait(20)
        (kept,) = first.query(process_label='Kept')
        first.core.park(kept.pid, 'its code has changed')
        with pytest.raises(ProcessParked, match='its code has changed'):
            first.wait(node, timeout=20)
        (function,) = first.query(process_label='waits')
        first.core.store.call(lambda transaction: None).result(20)  # what was posted before is written
        row = function._row()
        assert (row.state, row.owner, row.exception) == ('running', None, None)
        Kept.go_on.set()
        first.stop()
        engine = make_engine()
        assert engine.wait(node.pid, timeout=20).is_finished_ok
        assert engine.load(function.pid).is_finished_ok
        assert ran == ['waits', 'waits']
        assert len(engine.query(process_label='Kept')) == 1

    def test_plain_code_that_calls_such_a_function_is_told(self, make_engine: MakeEngine):
        engine = make_engine()

        @workfunction
        def waits():
            node = engine.submit(Kept)
            assert Kept.begun.wait(20)
            engine.core.park(node.pid, 'its code has changed')
            engine.wait(node)

        Kept.begun, Kept.go_on = threading.Event(), threading.Event()
        with pytest.raises(ProcessParked, match='its code has changed'):
            engine.core.host.call_function(waits, (), {})
        (function,) = engine.query(process_label='waits')
        assert not function.is_terminated
        Kept.go_on.set()
