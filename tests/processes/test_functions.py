"""Process functions: called from plain code and from steps, nested, from threads, and submitted."""

from __future__ import annotations

import asyncio
import datetime
import enum
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Optional, Union

import pytest

from treadle.engine import (
    Engine,
    ExitCode,
    KilledError,
    Process,
    ProcessState,
    SpecError,
    ToContext,
    UnstorableValue,
    ValidationError,
    WorkChain,
    calcfunction,
    run,
    run_get_node,
    submit,
    workfunction,
)

pytestmark = pytest.mark.usefixtures('engine')


class Kind(enum.Enum):
    GOOD = 'good'


@calcfunction
def add(x: int, y: int = 2) -> int:
    """Add two numbers.

    :param x: the one
    :param int y: the other,
        which has a default

    Some more text: it belongs to nothing.
    """
    return x + y


@calcfunction
def same(value):
    return value


@workfunction
def collect(**values):
    return values


@workfunction
def spread(first, /, second, *rest, third=3, **more):
    return {'first': first, 'second': second, 'rest': rest, 'third': third, 'more': more}


@calcfunction
def keywords(*, a, b=1):
    return {'a': a, 'b': b}


@calcfunction
def fails(with_what: str = 'asked for'):
    raise LookupError(with_what)


@calcfunction
def ends_with(status: int, message: str | None = None):
    return ExitCode(status, message)


class TestCalls:
    def test_it_returns_what_the_function_returns(self):
        assert add(1, 2) == 3
        assert add(1) == 3
        assert add(y=5, x=1) == 6

    def test_a_node_too(self):
        result, node = add.run_get_node(1, y=1)
        assert result == 2
        assert (node.state, node.exit_status, node.process_label) == (ProcessState.FINISHED, 0, 'add')
        assert (node.is_terminated, node.is_finished_ok, node.is_failed, node.is_excepted, node.is_killed) == (
            True,
            True,
            False,
            False,
            False,
        )
        assert node.inputs == {'x': 1, 'y': 1}
        assert node.outputs.result == node.outputs['result'] == 2
        assert node.parent is None
        assert node.process_class.endswith('test_functions:add')

    def test_the_ways_to_run_it_that_stand_on_the_function(self):
        assert add.run(1, y=3) == 4
        outputs, pid = add.run_get_pid(1)
        assert (outputs, isinstance(pid, int)) == (3, True)
        assert add.run_get_node(1).node.is_finished_ok

    def test_it_runs_in_the_calling_thread(self):
        local = threading.local()
        local.value = 5

        @calcfunction
        def reads():
            return [local.value, threading.get_ident()]

        assert reads() == [5, threading.get_ident()]

    def test_it_says_what_it_is(self):
        assert add.is_process_function
        assert add.__name__ == 'add'
        assert add.__doc__.startswith('Add two numbers.')
        assert repr(add) == f'<process function {__name__}.add>'

    @pytest.mark.parametrize(
        'value',
        [
            True,
            1,
            1.0,
            'text',
            b'bytes',
            None,
            [1, (2,)],
            (1, 2),
            {'a b': 1},
            {1: 2},
            Kind.GOOD,
            datetime.timedelta(1),
        ],
        ids=repr,
    )
    def test_values_come_back_as_they_were(self, value):
        back, node = same.run_get_node(value)
        assert (back, type(back)) == (value, type(value))
        if value is not None:
            assert node.outputs.result == value
            assert isinstance(node.outputs['result'], type(value))
        again = run(same, value=value)
        assert (again, type(again)) == (value, type(value))

    def test_arguments_are_copies(self):
        @calcfunction
        def greedy(mine):
            mine.append(1)
            return mine

        mine = [0]
        assert greedy(mine) == [0, 1]
        assert mine == [0]

    def test_from_several_threads(self):
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda x: add.run_get_node(x, x), range(64)))
        assert [result for result, _ in results] == [2 * x for x in range(64)]
        assert len({node.pid for _, node in results}) == 64

    def test_under_a_running_loop_of_the_hosts(self):
        async def host():
            return add(1, 1)

        assert asyncio.run(host()) == 2


class TestReturns:
    def test_a_dictionary_gives_an_output_for_each_key(self):
        result, node = collect.run_get_node(a=1, b=[2])
        assert result == {'a': 1, 'b': [2]}
        assert dict(node.outputs) == {'a': 1, 'b': [2]}

    def test_dots_nest(self):
        result, node = same.run_get_node({'outer.inner': 5, 'outer.other': 6})
        assert result == {'outer': {'inner': 5, 'other': 6}}
        assert node.outputs.outer.inner == 5

    def test_nested_dictionaries(self):
        values = {'nested': {'namespace': {'int': 1}}}
        result, node = collect.run_get_node(**values)
        assert result == values == dict(node.inputs) == dict(node.outputs)
        assert node.outputs.nested.namespace.int == 1

    def test_a_single_result_in_a_dictionary_is_the_result(self):
        assert same({'result': 5}) == run(same, value={'result': 5}) == 5

    @pytest.mark.parametrize(('value', 'returned'), [(None, None), ({}, {}), ([], []), (0, 0)])
    def test_nothing_much(self, value, returned):
        assert same(value) == run(same, value=value) == returned
        assert type(same(value)) is type(run(same, value=value)) is type(returned)

    def test_an_exit_code(self):
        result, node = ends_with.run_get_node(418, 'teapot')
        assert result == {}
        assert (node.exit_status, node.exit_message) == (418, 'teapot')
        assert (node.is_finished, node.is_finished_ok, node.is_failed) == (True, False, True)
        assert run_get_node(ends_with, status=418)[0] == {}
        assert run_get_node(ends_with, status=418)[1].exit_status == 418
        assert ends_with.run_get_node(0)[1].is_finished_ok

    def test_what_cannot_be_stored(self, engine: Engine):
        @calcfunction
        def returns_a_lock():
            return {'a': 1, 'b': threading.Lock()}

        with pytest.raises(UnstorableValue, match=r'^outputs\.b: .*cannot be stored'):
            returns_a_lock()
        (node,) = engine.query(process_label='returns_a_lock')
        assert node.is_excepted
        assert dict(node.outputs) == {}
        with pytest.raises(UnstorableValue, match=r'^outputs\.b'):
            run(returns_a_lock)

    def test_outputs_that_are_in_each_others_way(self):
        with pytest.raises(Exception, match='a'):
            same({'a': 1, 'a.b': 2})


class TestArguments:
    def test_all_kinds(self):
        assert spread(1, 2) == {'first': 1, 'second': 2, 'rest': (), 'third': 3, 'more': {}}
        assert spread(1, 2, 3, 4, third=5, other=6) == {
            'first': 1,
            'second': 2,
            'rest': (3, 4),
            'third': 5,
            'more': {'other': 6},
        }

    def test_all_kinds_submitted(self):
        assert run(spread, first=1, second=2, rest=(3, 4), other=[6]) == {
            'first': 1,
            'second': 2,
            'rest': (3, 4),
            'third': 3,
            'more': {'other': [6]},
        }

    def test_keyword_only(self):
        assert keywords(a=1) == {'a': 1, 'b': 1}
        with pytest.raises(TypeError, match=r'keywords\(\) takes 0 positional argument\(s\), but 1 were given'):
            keywords(1)

    def test_only_keywords_take_no_positions(self):
        with pytest.raises(TypeError, match=r'collect\(\) takes 0 positional'):
            collect(1)
        with pytest.raises(TypeError, match=r'collect\(\) takes 0 positional'):
            collect(1, b=1)
        assert collect() == {}

    def test_too_many(self):
        with pytest.raises(TypeError, match=r'add\(\) takes 2 positional argument\(s\), but 3 were given'):
            add(1, 2, 3)

    def test_twice(self):
        with pytest.raises(TypeError, match=r"add\(\) got two values for the argument 'x'"):
            add(1, x=1)

    def test_missing(self):
        with pytest.raises(ValueError, match=r'add: inputs\.x: required, but not given'):
            add()

    def test_unknown(self):
        with pytest.raises(ValidationError, match=r'add: inputs\.z: there is no such port'):
            add(1, z=1)

    def test_defaults(self):
        @workfunction
        def defaults(a=5, b='x', c=False, d=None, e=lambda: [1], f=(1, 2), g={'k': []}):  # noqa: B006
            e.append(2)
            g['k'].append(3)
            return [a, b, c, d, e, f, g]

        expected = [5, 'x', False, None, [1, 2], (1, 2), {'k': [3]}]
        assert defaults() == defaults() == run(defaults) == expected
        assert defaults(d=4, a=None)[:4] == [None, 'x', False, 4]

    def test_none_is_fine_where_it_is_the_default(self):
        @calcfunction
        def maybe(a: int, b: int = None):  # noqa: RUF013
            return a if b is None else a + b

        assert (maybe(1), maybe(1, None), maybe(1, 2), maybe(1, b=None)) == (1, 1, 3, 1)

    def test_unstorable_ones_name_their_place(self, engine: Engine):
        before = len(engine.query())
        with pytest.raises(UnstorableValue, match=r'^inputs\.nested\.inner\[1\]: .*register'):
            collect(nested={'inner': [1, object()]})
        with pytest.raises(UnstorableValue, match=r'^inputs\.value: '):
            run(same, value=object())
        with pytest.raises(UnstorableValue, match=r'^inputs\.value: '):
            submit(same, value=object())
        assert len(engine.query()) == before


class TestAnnotations:
    def test_types_and_unions(self):
        @calcfunction
        def typed(
            a,
            b: str,
            c: Kind,
            d: Union[str, int],  # noqa: UP007
            e: str | int,
            f: dict | None = None,
            g: Optional[int] = None,  # noqa: UP045
            h: list[int] = [],  # noqa: B006
            i: Annotated[int, 'seconds'] = 1,
            j: Any = 1,
        ):
            pass

        ports = typed.spec().inputs
        texts = {name: port.type_check.text if port.type_check else None for name, port in ports.items()}
        assert texts == {
            'a': None,
            'b': 'str',
            'c': f'{__name__}.Kind',
            'd': 'str or int',
            'e': 'str or int',
            'f': 'dict or None',
            'g': 'int or None',
            'h': 'list',
            'i': 'int',
            'j': 'object',
        }

    def test_they_are_checked(self):
        @calcfunction
        def typed(a: int | float):
            return a + 1

        assert (typed(1), typed(1.5)) == (2, 2.5)
        with pytest.raises(ValueError, match=r'typed: inputs\.a: .*int or float'):
            typed('text')
        with pytest.raises(ValueError, match=r'inputs\.a'):
            submit(typed, a='text')

    def test_those_that_mean_nothing_at_run_time(self):
        @calcfunction
        def odd(a: NotThere, b: 'list[NotThere]', c: int):  # noqa: F821, UP037
            return c

        assert odd(1, 2, 3) == 3

    def test_help_comes_from_the_docstring(self):
        ports = add.spec().inputs
        assert ports['x'].help == 'the one'
        assert ports['y'].help == 'the other, which has a default'
        assert same.spec().inputs['value'].help is None


class TestMetadata:
    def test_label_and_description(self):
        metadata = {'label': 'a label', 'description': 'a description'}
        for function, inputs in ((add, {'x': 1}), (collect, {}), (collect, {'a': 1}), (keywords, {'a': 1})):
            _, node = function.run_get_node(**inputs, metadata=metadata)
            assert (node.label, node.description) == ('a label', 'a description')
            assert 'metadata' not in node.inputs
        _, node = add.run_get_node(1)
        assert (node.label, node.description, node.process_label) == ('', '', 'add')

    def test_a_key_makes_a_call_idempotent(self):
        calls = []

        @calcfunction
        def counts(x):
            calls.append(x)
            return {'x': x}

        first = counts.run_get_node(1, metadata={'key': 'counts-1'})
        second = counts.run_get_node(1, metadata={'key': 'counts-1'})
        assert first == second
        assert first[1].key == 'counts-1'
        assert run(counts, x=1, metadata={'key': 'counts-1'}) == {'x': 1}
        assert calls == [1]

    def test_a_key_is_given_back_by_what_failed(self):
        calls = []

        @calcfunction
        def fails_once():
            calls.append(1)
            if len(calls) == 1:
                raise LookupError('the first time')
            return len(calls)

        with pytest.raises(LookupError):
            fails_once(metadata={'key': 'fails-once'})
        assert fails_once(metadata={'key': 'fails-once'}) == 2
        assert fails_once(metadata={'key': 'fails-once'}) == 2

    @pytest.mark.parametrize(
        ('metadata', 'message'),
        [
            ({'labl': 'x'}, 'metadata.labl is unknown; there is label, description, key'),
            ({'label': 5}, 'metadata.label must be a str, not 5'),
            ({'key': ''}, 'metadata.key is empty'),
            (5, 'metadata is a mapping such as'),
        ],
    )
    def test_bad_metadata(self, metadata, message):
        with pytest.raises(ValidationError, match=message):
            add(1, metadata=metadata)


class TestExceptions:
    def test_the_same_object_comes_out(self):
        raised = LookupError('this one')

        @calcfunction
        def raises():
            raise raised

        with pytest.raises(LookupError) as caught:
            raises()
        assert caught.value is raised
        with pytest.raises(LookupError) as caught:
            run(raises)
        assert caught.value is raised

    def test_it_is_on_record(self, engine: Engine):
        with pytest.raises(LookupError):
            fails('on record')
        (node,) = engine.query(process_label='fails', limit=1)
        assert node.is_excepted
        assert node.exception == 'LookupError: on record'
        assert 'raise LookupError(with_what)' in node.traceback
        assert (node.exit_status, dict(node.outputs)) == (None, {})

    def test_through_layers(self):
        raised = LookupError('deep')

        @calcfunction
        def inner():
            raise raised

        @workfunction
        def outer():
            inner()

        class Step(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                outer()

        with pytest.raises(LookupError) as caught:
            run(Step)
        assert caught.value is raised

    def test_caught_in_a_step(self):
        class Step(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('said')
                spec.outline(cls.only)

            def only(self):
                try:
                    fails('caught')
                except LookupError as error:
                    self.out('said', str(error))

        outputs, node = run_get_node(Step)
        assert outputs == {'said': 'caught'}
        assert node.called[0].is_excepted


class TestNesting:
    def test_a_simple_workflow(self):
        @calcfunction
        def multiply(x, y):
            return x * y

        @workfunction
        def add_multiply(x, y, z):
            return multiply(add(x, y), z)

        result, node = add_multiply.run_get_node(3, 4, 5)
        assert result == 35
        assert [(child.process_label, child.outputs.result) for child in node.called] == [('add', 7), ('multiply', 35)]
        assert all(child.parent == node for child in node.called)
        assert run(add_multiply, x=3, y=4, z=5) == 35

    def test_a_calcfunction_may_call_another(self):
        @calcfunction
        def twice(x):
            return add(add(x, 1), 1)

        result, node = twice.run_get_node(1)
        assert (result, len(node.called)) == (3, 2)

    def test_inside_steps(self):
        class Step(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('total')
                spec.outline(cls.first, cls.second)

            def first(self):
                self.ctx.thread = threading.current_thread().name
                self.ctx.total = add(1, 2)

            def second(self):
                self.out('total', add(self.ctx.total, run(add, x=1, y=1)) + run_get_node(add, x=0, y=0)[0])

        outputs, node = run_get_node(Step)
        assert outputs == {'total': 5}
        assert [child.outputs.result for child in node.called] == [3, 2, 5, 0]

    def test_a_workfunction_runs_and_submits_work_chains(self, engine: Engine):
        class Child(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('x')
                spec.output('y')
                spec.outline(cls.only)

            def only(self):
                self.out('y', self.inputs.x)

        @workfunction
        def works():
            node = submit(Child, x=1)
            assert engine.wait(node, timeout=20).outputs.y == 1
            return run(Child, x=2)

        result, node = works.run_get_node()
        assert result == {'y': 2}
        assert [child.inputs.x for child in node.called] == [1, 2]

    def test_in_a_thread_of_the_steps_own(self):
        """A thread that a step starts has no part in the step; what it calls is nobody's child."""
        nodes = []

        class Step(Process):
            def run(self):
                thread = threading.Thread(target=lambda: nodes.append(add.run_get_node(1)[1]))
                thread.start()
                thread.join()

        _, node = run_get_node(Step)
        assert node.called == []
        assert nodes[0].parent is None

    def test_log_records_go_to_the_function_that_made_them(self):
        import logging

        @calcfunction
        def talks():
            logging.getLogger('treadle.test').warning('from the function')

        class Step(Process):
            def run(self):
                self.report('before')
                talks()
                self.report('after')

        _, node = run_get_node(Step)
        assert [entry.message for entry in node.log] == ['before', 'after']
        assert [entry.message for entry in node.called[0].log] == ['from the function']


class TestSubmitted:
    def test_in_the_background(self, engine: Engine):
        node = submit(add, x=1)
        assert engine.wait(node, timeout=20).outputs.result == 3
        assert node.exit_status == 0

    def test_as_children(self):
        class Step(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('total')
                spec.outline(cls.first, cls.second)

            def first(self):
                return ToContext(one=self.submit(add, x=1), two=submit(add, x=2))

            def second(self):
                self.out('total', self.ctx.one.outputs.result + self.ctx.two.outputs.result)

        assert run(Step) == {'total': 7}

    def test_on_an_explicit_engine(self, make_engine):
        engine = make_engine()

        @workfunction
        def nested(x):
            return add(x)

        result, node = engine.run_get_node(nested, x=1)
        assert result == 3
        assert [child.process_label for child in engine.load(node.pid).called] == ['add']

    def test_async(self, engine: Engine):
        assert asyncio.run(engine.run_async(add, x=1)) == 3

    def test_killed(self, engine: Engine):
        reached, go_on = threading.Event(), threading.Event()

        @calcfunction
        def blocks():
            reached.set()
            go_on.wait(20)

        seen = []

        def call():
            try:
                blocks()
            except BaseException as error:
                seen.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert reached.wait(20)
        (node,) = engine.query(process_label='blocks')
        assert engine.kill(node, 'enough')
        go_on.set()
        thread.join(20)
        assert node.is_killed
        assert isinstance(seen[0], KilledError)
        assert 'enough' in str(seen[0])


class TestDefinition:
    def test_coroutines_are_refused(self):
        with pytest.raises(SpecError, match=r'later\(\) is a coroutine function'):

            @calcfunction
            async def later():
                pass

    @pytest.mark.parametrize('what', [5, int, 'name'])
    def test_what_is_no_function(self, what):
        with pytest.raises(SpecError, match='is not a function; decorate a function defined with def'):
            calcfunction(what)

    def test_a_parameter_called_metadata_is_refused(self):
        with pytest.raises(SpecError, match="no input can be called 'metadata'"):

            @calcfunction
            def labels(x, metadata=None):
                pass

    @pytest.mark.parametrize('what', [5, int, len, Process.run, 'name', lambda: None])
    def test_what_cannot_be_run(self, what):
        for call in (run, run_get_node, submit):
            with pytest.raises(TypeError, match='is not a process; give a class derived from Process or WorkChain'):
                call(what)

