"""What is wrong is said at the call that caused it, names the thing and the remedy, and leaves nothing in the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from treadle.engine import (
    Engine,
    ExitCode,
    KeyConflict,
    Process,
    ProcessNotFound,
    ProcessParked,
    SpecError,
    ToContext,
    TreadleError,
    UnstorableValue,
    ValidationError,
    WorkChain,
    calcfunction,
    run,
    run_get_node,
    submit,
)


class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int, help='how many')
        spec.input('options.basis', valid_type=(str, dict), required=False)
        spec.input('free', required=False)
        spec.input('even', valid_type=int, required=False, validator=lambda x: 'it is odd' if x % 2 else None)
        spec.output('y', valid_type=int)
        spec.outline(cls.only)

    def only(self):
        self.out('y', self.inputs.x)


@calcfunction
def function(x: int, free=None):
    return x


class Closed:
    """Of no type that can be stored."""


NOT_STORABLE = [
    (Closed(), r'inputs\.free: <class .*Closed.> cannot be stored; register a codec'),
    ({'a': [1, Closed()]}, r'inputs\.free\.a\[1\]: '),
    (threading.Lock(), r'inputs\.free: '),
    (lambda: 1, r'inputs\.free: '),
    (iter([1]), r'inputs\.free: '),
    ({Closed(): 1}, r'inputs\.free'),
    (Closed, r'inputs\.free: '),
    (open, r'inputs\.free: '),
]

BAD_INPUTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValidationError, r'Child: inputs\.x: required, but not given; expected int \(how many\)'),
    ({'x': 1, 'z': 2}, ValidationError, r'Child: inputs\.z: there is no such port; there is '),
    ({'x': 1, 'fre': 2}, ValidationError, r'inputs\.fre: there is no such port.*free'),
    ({'x': '1'}, ValidationError, r"inputs\.x: expected int, got str '1'; convert the text"),
    ({'x': True}, ValidationError, r'inputs\.x: expected int, got bool True.*a bool is not taken for a number'),
    ({'x': None}, ValidationError, r'inputs\.x: expected int, got None'),
    ({'x': 1, 'options': {'basis': 5}}, ValidationError, r'inputs\.options\.basis: expected str or dict.*got int 5'),
    ({'x': 1, 'options': {'other': 5}}, ValidationError, r'inputs\.options\.other: there is no such port'),
    ({'x': 1, 'options': 5}, ValidationError, r'inputs\.options: '),
    ({'x': 1, 'even': 3}, ValidationError, r'inputs\.even: it is odd'),
    ({'x': 1, 'metadata': {'keys': 'k'}}, ValidationError, r'metadata\.keys is unknown; there is label'),
    ({'x': 1, 'metadata': {'key': 'ä' * 501}}, ValidationError, r'metadata\.key has 1002 bytes.*1000 are the most'),
    ({'x': 1, 'metadata': 'k'}, ValidationError, r'metadata is a mapping'),
    *(({'x': 1, 'free': value}, UnstorableValue, message) for value, message in NOT_STORABLE),
]


@pytest.fixture
def nothing_written(engine: Engine) -> Iterator[None]:
    """Whatever the test does outside of steps leaves no process behind."""
    before = {node.pid for node in engine.query()}
    yield
    assert {node.pid for node in engine.query()} == before


@pytest.mark.usefixtures('nothing_written')
class TestInputs:
    @pytest.mark.parametrize('call', [run, run_get_node, submit])
    @pytest.mark.parametrize(('inputs', 'kind', 'message'), BAD_INPUTS)
    def test_at_the_call(self, call: Callable[..., Any], inputs, kind, message):
        with pytest.raises(kind, match=message) as caught:
            call(Child, **inputs)
        assert isinstance(caught.value, TreadleError)
        with pytest.raises(kind, match=message):
            call(Child, inputs)

    @pytest.mark.parametrize(('value', 'message'), NOT_STORABLE)
    def test_of_functions(self, value, message):
        with pytest.raises(UnstorableValue, match=message):
            function(1, value)

    def test_every_problem_is_listed(self):
        with pytest.raises(ValidationError) as caught:
            run(Child, z=1, options={'basis': 1}, even=1)
        for path in ('inputs.x', 'inputs.z', 'inputs.options.basis', 'inputs.even'):
            assert path in str(caught.value)

    def test_given_twice(self):
        with pytest.raises(TypeError, match="the input 'x' is given twice"):
            run(Child, {'x': 1}, x=1)

    @pytest.mark.parametrize('inputs', [5, 'x', [('x', 1)]])
    def test_no_mapping(self, inputs):
        with pytest.raises(TypeError, match='inputs are given as a mapping or as keyword arguments, not as'):
            run(Child, inputs)

    def test_a_default_that_cannot_be_stored(self):
        class Defaults(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('thing', default=Closed)

            def run(self):
                pass

        with pytest.raises(UnstorableValue, match=r'inputs\.thing'):
            run(Defaults)

    def test_a_define_that_raises_does_so_each_time(self):
        class Broken(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                raise LookupError('in define')

            def run(self):
                pass

        for _ in range(2):
            with pytest.raises(LookupError, match='in define'):
                run(Broken)

    def test_a_process_without_work(self):
        class Idle(Process):
            pass

        with pytest.raises(SpecError, match=r'Idle does nothing: override run\(\)'):
            run(Idle)
        with pytest.raises(SpecError, match='Process does nothing'):
            run(Process)


class TestInsideSteps:
    """The same errors reach the step's code at the call; if it does not catch them, they are the process's end."""

    @pytest.mark.parametrize('how', ['submit', 'run', 'module'])
    @pytest.mark.parametrize(
        ('inputs', 'kind', 'message'),
        [
            ({'x': '1'}, ValidationError, r'inputs\.x: expected int'),
            ({'x': 1, 'free': Closed()}, UnstorableValue, r'inputs\.free: '),
        ],
    )
    def test_a_bad_child(self, engine: Engine, how, inputs, kind, message):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('said')
                spec.outline(cls.only, cls.after)

            def only(self):
                call = {'submit': self.submit, 'run': run, 'module': submit}[how]
                good = self.submit(Child, x=1)
                with pytest.raises(kind, match=message) as caught:
                    call(Child, **inputs)
                self.out('said', str(caught.value))
                return ToContext(good=good)

            def after(self):
                assert self.ctx.good.outputs.y == 1

        outputs, node = run_get_node(Parent)
        assert outputs['said']
        assert len(node.called) == 1

    @pytest.mark.parametrize(
        ('name', 'value', 'kind', 'message'),
        [
            ('z', 1, ValidationError, r'Outputs: outputs\.z: .*x'),
            ('x', '1', ValidationError, r"outputs\.x: expected int, got str '1'"),
            ('inner.z', 1, ValidationError, r'outputs\.inner\.z'),
            ('inner', {'leaf': 'text'}, ValidationError, r'outputs\.inner\.leaf: expected int'),
            ('inner', 5, ValidationError, r'outputs\.inner'),
            ('x.y', 5, ValidationError, r'outputs\.x'),
            ('', 5, ValidationError, 'the name of an output'),
            ('inner..leaf', 5, ValidationError, 'a part of it is empty'),
            (5, 5, ValidationError, 'the name of an output must be a str'),
            ('free', Closed(), UnstorableValue, r'^outputs\.free: .*register a codec'),
            ('free', [{'a': Closed()}], UnstorableValue, r'^outputs\.free\[0\]\.a: '),
            ('inner.any.deep', Closed(), UnstorableValue, r'^outputs\.inner\.any\.deep: '),
        ],
    )
    def test_a_bad_output(self, engine: Engine, name, value, kind, message):
        class Outputs(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x', valid_type=int, required=False)
                spec.output('inner.leaf', valid_type=int, required=False)
                spec.output_namespace('inner.any', dynamic=True, required=False)
                spec.output('free', required=False)
                spec.input('catches', valid_type=bool)

            def run(self):
                self.out('x', 1)
                if self.inputs.catches:
                    with pytest.raises(kind, match=message):
                        self.out(name, value)
                else:
                    self.out(name, value)

        assert run(Outputs, catches=True) == {'x': 1}
        with pytest.raises(kind, match=message):
            run(Outputs, catches=False)
        (node,) = engine.query(process_label='Outputs', limit=1)
        assert node.is_excepted
        assert dict(node.outputs) == {}

    @pytest.mark.parametrize(
        ('put', 'path'),
        [
            (lambda ctx: ctx.__setitem__('thing', Closed()), r'ctx\.thing'),
            (lambda ctx: ctx.__setitem__('a', {'b': [Closed()]}), r'ctx\.a\.b\[0\]'),
        ],
    )
    def test_a_bad_context_is_the_steps_fault(self, engine: Engine, put, path):
        ran = []

        class Context(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x', required=False)
                spec.outline(cls.first, cls.second, cls.third)

            def first(self):
                ran.append('first')
                self.ctx.fine = 1

            def second(self):
                ran.append('second')
                self.out('x', 1)
                self.submit(Child, x=1)
                put(self.ctx)

            def third(self):
                ran.append('third')

        with pytest.raises(UnstorableValue, match=rf'{path}: .*cannot be stored'):
            run(Context)
        (node,) = engine.query(process_label='Context', limit=1)
        assert node.is_excepted
        assert (dict(node.outputs), node.called, ran) == ({}, [], ['first', 'second'])

    def test_what_goes_away_in_the_same_step_may_be_anything(self):
        class Context(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second)

            def first(self):
                self.ctx.thing = Closed()
                del self.ctx.thing

            def second(self):
                self.ctx.thing = Closed()  # nothing is kept of the last step's context

        assert run_get_node(Context)[1].is_finished_ok

    def test_outside_of_a_step(self):
        kept = []

        class Keeps(Process):
            def run(self):
                kept.append(self)

        run(Keeps)
        for call in (lambda: kept[0].report('x'), lambda: kept[0].submit(Child, x=1)):
            with pytest.raises((RuntimeError, TreadleError)):
                call()


class TestKeys:
    def test_the_same_attaches(self, engine: Engine):
        first = run_get_node(Child, x=1, metadata={'key': 'same'})
        second = run_get_node(Child, {'x': 1}, metadata={'key': 'same', 'label': 'another label'})
        assert first == second
        assert submit(Child, x=1, metadata={'key': 'same'}) == first[1]
        assert len(engine.query(key='same')) == 1

    def test_a_default_counts_as_given(self):
        class Defaults(Child):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('x', default=4)

        _, first = run_get_node(Defaults, metadata={'key': 'default'})
        assert run_get_node(Defaults, x=4, metadata={'key': 'default'})[1] == first

    @pytest.mark.parametrize('call', [run, submit])
    def test_other_inputs(self, engine: Engine, call):
        _, node = run_get_node(Child, x=1, metadata={'key': 'other'})
        before = len(engine.query())
        taken = rf"the key 'other' belongs to process {node.pid} \(Child, finished\), which has other inputs"
        with pytest.raises(KeyConflict, match=taken):
            call(Child, x=2, metadata={'key': 'other'})
        with pytest.raises(KeyConflict, match=r'which has another class, .*; use another key'):
            call(function, x=1, metadata={'key': 'other'})
        assert len(engine.query()) == before

    def test_inside_a_step(self, engine: Engine):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second)

            def first(self):
                run(Child, x=1, metadata={'key': 'inside'})
                for call in (run, submit, self.submit):
                    with pytest.raises(KeyConflict, match='other inputs'):
                        call(Child, x=2, metadata={'key': 'inside'})
                self.ctx.child = self.submit(Child, x=1, metadata={'key': 'inside'})
                return ToContext(again=self.submit(Child, x=1, metadata={'key': 'inside'}))

            def second(self):
                assert self.ctx.again == self.ctx.child

        _, node = run_get_node(Parent)
        assert len(engine.query(key='inside')) == 1
        assert len(node.called) == 1

    def test_what_failed_or_was_killed_gives_its_key_back(self, engine: Engine):
        class Fails(Process):
            failing = True

            def run(self):
                if type(self).failing:
                    raise LookupError('still')

        with pytest.raises(LookupError):
            run(Fails, metadata={'key': 'back'})
        Fails.failing = False
        _, node = run_get_node(Fails, metadata={'key': 'back'})
        assert node.is_finished_ok
        assert [each.state for each in engine.query(key='back')] == ['finished', 'excepted']

    def test_racing_threads_start_one_process(self, engine: Engine):
        starts = threading.Barrier(8)
        nodes = []

        def race():
            starts.wait()
            nodes.append(run_get_node(Child, x=1, metadata={'key': 'race'})[1])

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(nodes) == 8
        assert len(set(nodes)) == 1


class TestPids:
    def test_no_such_process(self, engine: Engine):
        for call in (engine.load, engine.wait, engine.future, engine.kill):
            with pytest.raises(ProcessNotFound, match='999999'):
                call(999_999)
        with pytest.raises(ProcessNotFound, match='999999'):
            engine.wait([999_999])


class Surrogate(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('fails', default=True)
        spec.outline(cls.only)

    def only(self):
        self.report('read \udcff')
        return ExitCode(410, 'cannot read \udcff') if self.inputs.fails else self.pause('look at \udcff')


class TestTextThatIsNoUtf8:
    """Names of files may hold it; a step that says it must not try to commit for ever."""

    def test_what_a_process_says(self, engine: Engine):
        _, node = run_get_node(Surrogate)
        assert (node.exit_status, node.exit_message) == (410, 'cannot read \\udcff')
        assert engine.load(node.pid).exit_message == node.exit_message

    def test_the_reasons_of_intents(self, tmp_path):
        with Engine(f'sqlite:///{tmp_path}/store.db') as other:
            other.core.begin_no_step()
            node = other.submit(Surrogate)
            assert other.pause(node, 'not \udcff') and other.kill(node, 'no \udcff')
            assert node.exit_message == 'no \\udcff'
            assert [entry.message for entry in node.log] == ['paused: not \\udcff']

    @pytest.mark.parametrize('name', ['label', 'description', 'key'])
    def test_metadata(self, engine: Engine, name: str):
        with pytest.raises(ValidationError, match=rf'metadata\.{name} holds half of a surrogate pair'):
            engine.submit(Surrogate, fails='never there', metadata={name: 'a\ud800'})
        assert not [node for node in engine.query(process_label='Surrogate') if node.inputs.fails == 'never there']

    def test_what_the_store_refuses_for_a_reason_that_stays_parks_the_process(self, engine: Engine, monkeypatch):
        monkeypatch.setattr('treadle.engine.units.storable', lambda text: text)
        node = engine.submit(Surrogate)
        with pytest.raises(ProcessParked, match='its step cannot be written: UnicodeEncodeError'):
            engine.wait(node, 20)
        assert node.state == 'running'
