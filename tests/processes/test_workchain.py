"""Work chains: the outline as it runs, exit codes, inputs and outputs, children."""

from __future__ import annotations

import os
import threading

import pytest

from treadle.engine import (
    Engine,
    ExitCode,
    KilledError,
    Process,
    ProcessNode,
    ProcessState,
    SpecError,
    ToContext,
    ValidationError,
    WorkChain,
    append_,
    assign_,
    calcfunction,
    if_,
    return_,
    run,
    run_get_node,
    submit,
    while_,
)
from treadle.engine.starts import Starts


class Branches(WorkChain):
    """An if with three ways, then a loop; notes in ``trace`` what was asked and done."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('value', default='A')
        spec.input('n', valid_type=int, default=3)
        spec.output('trace', valid_type=list)
        spec.outline(
            cls.begin,
            if_(cls.is_a)(cls.on_a).elif_(cls.is_b)(cls.on_b).else_(cls.otherwise),
            cls.middle,
            while_(cls.goes_on)(cls.again),
            cls.end,
        )

    def begin(self):
        self.ctx.trace = ['begin']

    def is_a(self):
        self.ctx.trace.append('a?')
        return self.inputs.value == 'A'

    def is_b(self):
        self.ctx.trace.append('b?')
        return self.inputs.value == 'B'

    def on_a(self):
        self.ctx.trace.append('a')

    def on_b(self):
        self.ctx.trace.append('b')

    def otherwise(self):
        self.ctx.trace.append('else')

    def middle(self):
        self.ctx.counter = 0

    def goes_on(self):
        self.ctx.trace.append('more?')
        return self.ctx.counter < self.inputs.n

    def again(self):
        self.ctx.counter += 1
        self.ctx.trace.append(f'again {self.ctx.counter}')

    def end(self):
        self.out('trace', self.ctx.trace)


class MayFail(WorkChain):
    STATUS = 17

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('how', valid_type=str)
        spec.output('late', valid_type=int, required=False)
        spec.output('early', valid_type=int, required=False)
        spec.exit_code(cls.STATUS, 'ERROR_ASKED_FOR', message='it was asked for')
        spec.outline(if_(cls.by_outline)(return_(cls.STATUS)), cls.first, cls.second)

    def by_outline(self):
        return self.inputs.how == 'outline'

    def first(self):
        self.out('early', 1)
        return {
            'int': self.STATUS,
            'code': self.exit_codes.ERROR_ASKED_FOR,
            'zero': 0,
            'zero code': ExitCode(),
            'zero with words': ExitCode(0, 'well'),
            'nothing': {},
            'a word': 'words',
            'true': True,
        }[self.inputs.how]

    def second(self):
        self.out('late', 144)


class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int, default=5)
        spec.output('y', valid_type=int)
        spec.outline(cls.only)

    def only(self):
        self.out('y', self.inputs.x)


class Failing(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.only)

    def only(self):
        raise LookupError('the child fails')


pytestmark = pytest.mark.usefixtures('engine')


class TestOutline:
    @pytest.mark.parametrize(
        ('value', 'branch'), [('A', ['a?', 'a']), ('B', ['a?', 'b?', 'b']), ('C', ['a?', 'b?', 'else'])]
    )
    def test_branches_and_a_loop(self, value, branch):
        assert run(Branches, value=value, n=2) == {
            'trace': ['begin', *branch, 'more?', 'again 1', 'more?', 'again 2', 'more?']
        }

    def test_a_loop_that_never_starts(self):
        assert run(Branches, n=0)['trace'] == ['begin', 'a?', 'a', 'more?']

    def test_return_ends_with_success(self):
        class Returns(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, if_(cls.yes)(return_), cls.never)

            def first(self):
                pass

            def yes(self):
                return True

            def never(self):
                raise AssertionError('not to be reached')

        _, node = run_get_node(Returns)
        assert (node.exit_status, node.exit_message) == (0, None)

    @pytest.mark.parametrize(('given', 'status'), [({'success': True}, 0), ({'success': False}, 9), ({}, None)])
    def test_return_in_branches(self, given, status):
        class Returns(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('success', valid_type=bool, required=False)
                spec.outline(if_(cls.good)(return_).elif_(cls.bad)(return_(9)).else_(cls.neither))

            def good(self):
                return self.inputs.get('success') is True

            def bad(self):
                return self.inputs.get('success') is False

            def neither(self):
                raise LookupError('neither')

        if status is None:
            with pytest.raises(LookupError, match='neither'):
                run(Returns, **given)
        else:
            assert run_get_node(Returns, **given)[1].exit_status == status

    @pytest.mark.parametrize('construct', [if_, while_])
    def test_a_condition_that_gives_no_bool_excepts(self, construct):
        class Odd(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(construct(cls.maybe)(cls.step))

            def maybe(self):
                return 'true'

            def step(self):
                return 1

        with pytest.raises(TypeError, match=r'maybe.*true'):
            run(Odd)

    def test_a_condition_that_raises_excepts(self):
        class Odd(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(if_(cls.maybe)(cls.step))

            def maybe(self):
                raise ZeroDivisionError('asked for')

            def step(self):
                pass

        with pytest.raises(ZeroDivisionError, match='asked for'):
            run(Odd)

    def test_nothing_to_do_but_a_condition(self):
        class Never(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(if_(cls.no)(cls.step))

            def no(self):
                return False

            def step(self):
                raise AssertionError('not to be reached')

        assert run_get_node(Never)[1].is_finished_ok

    def test_steps_of_a_base_class_can_be_overridden(self):
        class Other(Child):
            def only(self):
                self.out('y', -self.inputs.x)

        assert run(Other, x=2) == {'y': -2}
        assert run(Child, x=2) == {'y': 2}

    def test_a_step_may_be_called_run(self):
        class Runs(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x')
                spec.outline(cls.run)

            def run(self):
                self.out('x', 1)

        assert run(Runs) == {'x': 1}

    def test_the_same_step_twice(self):
        class Twice(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('n')
                spec.outline(cls.count, cls.count, cls.tell)

            def count(self):
                self.ctx.n = self.ctx.get('n', 0) + 1

            def tell(self):
                self.out('n', self.ctx.n)

        assert run(Twice) == {'n': 2}


class TestExitStatus:
    @pytest.mark.parametrize(
        ('how', 'message', 'outputs'),
        [
            ('int', None, {'early': 1}),
            ('code', 'it was asked for', {'early': 1}),
            ('outline', None, {}),
        ],
    )
    def test_failure(self, how, message, outputs):
        given, node = run_get_node(MayFail, how=how)
        assert (node.exit_status, node.exit_message) == (MayFail.STATUS, message)
        assert node.exit_code == ExitCode(MayFail.STATUS, message)
        assert (node.is_finished, node.is_finished_ok, node.is_failed, node.is_excepted) == (True, False, True, False)
        assert given == outputs == dict(node.outputs)

    @pytest.mark.parametrize('how', ['zero', 'zero code', 'zero with words', 'nothing'])
    def test_status_zero_goes_on(self, how):
        outputs, node = run_get_node(MayFail, how=how)
        assert outputs == {'early': 1, 'late': 144}
        assert (node.exit_status, node.is_finished_ok, node.is_failed) == (0, True, False)

    @pytest.mark.parametrize(('how', 'shown'), [('a word', "'words'"), ('true', 'True')])
    def test_what_means_nothing_is_an_error(self, how, shown):
        with pytest.raises(TypeError, match=f'a step of MayFail returned {shown}; return None, an int, an ExitCode'):
            run(MayFail, how=how)

    def test_codes_are_found_on_the_spec(self):
        codes = MayFail.spec().exit_codes
        assert codes.ERROR_ASKED_FOR == codes('ERROR_ASKED_FOR') == codes(17) == ExitCode(17, 'it was asked for')
        assert MayFail.exit_codes is codes
        with pytest.raises(AttributeError, match='ERROR_OTHER'):
            _ = MayFail.exit_codes.ERROR_OTHER

    def test_required_output_missing(self):
        class Forgets(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y.z', valid_type=int)
                spec.output('x', valid_type=int)
                spec.outline(cls.only)

            def only(self):
                self.out('x', 1)

        outputs, node = run_get_node(Forgets)
        assert outputs == {'x': 1}
        assert node.exit_status == 11
        assert 'outputs.y' in node.exit_message

    def test_outputs_that_do_not_fit_together(self):
        class Unfit(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x', valid_type=int)
                spec.outputs.validator = lambda values, namespace: 'x is odd' if values['x'] % 2 else None
                spec.outline(cls.only)

            def only(self):
                self.out('x', 1)

        _, node = run_get_node(Unfit)
        assert node.exit_status == 10
        assert 'x is odd' in node.exit_message

    def test_a_declared_failure_comes_before_missing_outputs(self):
        class Gives(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x', valid_type=int)
                spec.outline(cls.only)

            def only(self):
                return ExitCode(300, 'gave up')

        assert run_get_node(Gives)[1].exit_code == ExitCode(300, 'gave up')


class TestInputs:
    def test_defaults_are_filled_in_and_shown(self):
        _, node = run_get_node(Branches)
        assert node.inputs == {'value': 'A', 'n': 3}
        assert node.inputs.n == 3

    def test_one_value_for_two_inputs(self):
        class Two(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('a', valid_type=list)
                spec.input('b', valid_type=list)
                spec.output('same', valid_type=bool)
                spec.outline(cls.look)

            def look(self):
                self.out('same', self.inputs.a == self.inputs.b)

        both = [1]
        assert run(Two, a=both, b=both) == {'same': True}

    def test_inputs_cannot_be_changed(self):
        class Frozen(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('a', valid_type=int)
                spec.input_namespace('inner', dynamic=True)
                spec.outline(cls.try_it, cls.look)

            def try_it(self):
                for inputs in (self.inputs, self.inputs.inner):
                    with pytest.raises(TypeError):
                        inputs['a'] = 3
                    with pytest.raises(TypeError):
                        del inputs['a']
                    with pytest.raises(AttributeError):
                        inputs.pop('a')
                    with pytest.raises(AttributeError, match=r"cannot be changed.*'c'"):
                        inputs.c = 3

            def look(self):
                assert dict(self.inputs.inner) == {'a': 2}
                assert self.inputs.a == 1
                assert 'c' not in self.inputs

        assert run_get_node(Frozen, a=1, inner={'a': 2})[1].is_finished_ok

    def test_nested_and_dynamic_namespaces(self):
        class Nested(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('outer.inner.leaf', valid_type=dict)
                spec.input('outer.other', default='o')
                spec.input_namespace('free', dynamic=True, required=False)
                spec.output('seen', valid_type=list)
                spec.outline(cls.look)

            def look(self):
                leaf = self.inputs.outer.inner.leaf
                assert type(leaf) is dict
                self.out('seen', [leaf, self.inputs.outer.other, dict(self.inputs.get('free', {}))])

        value = {'a': 1, 'b': {'c': [2, (3,)]}}
        assert run(Nested, outer={'inner': {'leaf': value}}) == {'seen': [value, 'o', {}]}
        outputs, node = run_get_node(Nested, outer={'inner': {'leaf': {}}}, free={'z': [1, {'a': (1,)}]})
        assert outputs == {'seen': [{}, 'o', {'z': [1, {'a': (1,)}]}]}
        assert node.inputs.outer.inner.leaf == {}
        assert node.inputs.free.z == [1, {'a': (1,)}]

    def test_a_missing_attribute_names_what_is_there(self):
        class Looks(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('near', default=1)
                spec.outline(cls.look)

            def look(self):
                return self.inputs.far

        with pytest.raises(AttributeError, match="inputs of Looks holds no 'far'; there is near"):
            run(Looks)

    def test_the_callers_objects_stay_as_they_are(self):
        class Greedy(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('mine', valid_type=list)
                spec.input('inner.mine', valid_type=dict)
                spec.output('mine', valid_type=list)
                spec.outline(cls.take)

            def take(self):
                self.inputs.mine.append('taken')
                self.inputs.inner.mine['taken'] = True
                self.out('mine', self.inputs.mine)

        mine, inner = ['mine'], {'mine': {}}
        outputs = run(Greedy, {'mine': mine, 'inner': inner})
        assert outputs == {'mine': ['mine', 'taken']}
        assert (mine, inner) == (['mine'], {'mine': {}})

    def test_inputs_can_be_handed_on(self):
        class HandsOn(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('value', default='B')
                spec.input('child.x', valid_type=int)
                spec.output('trace')
                spec.output('y')
                spec.outline(cls.hand_on, cls.gather)

            def hand_on(self):
                return ToContext(
                    one=self.submit(Branches, value=self.inputs.value, n=0),
                    two=self.submit(Child, self.inputs.child),
                )

            def gather(self):
                self.out('trace', self.ctx.one.outputs.trace)
                self.out('y', self.ctx.two.outputs.y)

        assert run(HandsOn, child={'x': 8}) == {'trace': ['begin', 'a?', 'b?', 'b', 'more?'], 'y': 8}

    def test_a_namespace_can_be_handed_on_as_it_is(self):
        class Inner(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('options.depth.level', valid_type=int)
                spec.output('level')
                spec.outline(cls.tell)

            def tell(self):
                self.out('level', self.inputs.options.depth.level)

        class Outer(Inner):
            def tell(self):
                self.out('level', run(Inner, options=self.inputs.options)['level'])

        assert run(Outer, options={'depth': {'level': 3}}) == {'level': 3}

    def test_a_default_is_nobodys_in_common(self):
        class Counts(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('notes', default=list)
                spec.input('more', default={'a': []})
                spec.output('notes')
                spec.outline(cls.note)

            def note(self):
                self.inputs.notes.append(1)
                self.inputs.more['a'].append(1)
                self.out('notes', [self.inputs.notes, self.inputs.more])

        assert run(Counts) == run(Counts) == {'notes': [[1], {'a': [1]}]}


class TestOutputs:
    def test_namespaces(self):
        class Spreads(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x.y', required=True)
                spec.output_namespace('many', dynamic=True, valid_type=int)
                spec.outline(cls.first, cls.second)

            def first(self):
                self.out('x.y', 5)
                self.out('many', {'a': 1})

            def second(self):
                self.out('many.deep.b', 2)
                assert self.outputs.x == {'y': 5}

        outputs, node = run_get_node(Spreads)
        assert outputs == {'x': {'y': 5}, 'many': {'a': 1, 'deep': {'b': 2}}}
        assert (node.outputs.x.y, node.outputs.many.deep.b) == (5, 2)
        assert node.is_finished_ok

    def test_out_does_not_change_what_it_was_given(self):
        class Careful(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input_namespace('given', dynamic=True)
                spec.output_namespace('many', dynamic=True)
                spec.output('kept')
                spec.outline(cls.first)

            def first(self):
                mine = {'a': 1}
                self.out('many', mine)
                self.out('many.b', 2)
                self.out('many.given', self.inputs.given)
                self.out('many.given.more', 3)
                self.out('kept', mine)
                mine['later'] = True

        assert run(Careful, given={'z': 0}) == {
            'many': {'a': 1, 'b': 2, 'given': {'z': 0, 'more': 3}},
            'kept': {'a': 1},
        }

    def test_an_output_is_what_it_was_at_the_call(self):
        class Changes(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('a')
                spec.output('b')
                spec.outline(cls.first, cls.second)

            def first(self):
                self.ctx.a = [1]
                self.out('a', self.ctx.a)

            def second(self):
                self.ctx.a.append(2)
                self.out('b', self.ctx.a)

        assert run(Changes) == {'a': [1], 'b': [1, 2]}

    def test_the_last_word_counts(self):
        class Corrects(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('a')
                spec.outline(cls.first, cls.second)

            def first(self):
                self.out('a', 1)

            def second(self):
                self.out_many({'a': 2})

        assert run(Corrects) == {'a': 2}

    def test_a_step_that_raises_gives_no_output(self):
        class Breaks(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('a')
                spec.output('b', required=False)
                spec.outline(cls.first, cls.second)

            def first(self):
                self.out('a', 1)

            def second(self):
                self.out('b', 2)
                raise LookupError('second')

        node = submit(Breaks)
        node = current(node).wait(node)
        assert dict(node.outputs) == {'a': 1}
        assert (node.state, node.exit_status) == (ProcessState.EXCEPTED, None)

    def test_a_missing_output_names_what_is_there(self):
        _, node = run_get_node(Child)
        with pytest.raises(AttributeError, match=rf"outputs of process {node.pid} holds no 'z'; there is y"):
            _ = node.outputs.z
        with pytest.raises(KeyError):
            _ = node.outputs['z']


class TestExceptions:
    def test_run_raises_the_same_object(self):
        raised = LookupError('this one')

        class Raises(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                raise raised

        with pytest.raises(LookupError) as caught:
            run(Raises)
        assert caught.value is raised

    def test_the_node_keeps_type_message_and_traceback(self):
        node = submit(Failing)
        node = current(node).wait(node, timeout=20)
        assert node.exception == 'LookupError: the child fails'
        assert "raise LookupError('the child fails')" in node.traceback
        assert (node.is_excepted, node.is_finished, node.is_failed, node.is_terminated) == (True, False, False, True)

    def test_a_handled_error_of_a_child_that_was_run(self):
        class Handles(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('what')
                spec.outline(cls.only)

            def only(self):
                try:
                    run(Failing)
                except LookupError as error:
                    self.out('what', str(error))

        outputs, node = run_get_node(Handles)
        assert outputs == {'what': 'the child fails'}
        assert [child.is_excepted for child in node.called] == [True]

    def test_an_error_passes_through_nested_runs_as_one_object(self):
        raised = LookupError('deep')

        class Inner(Process):
            def run(self):
                raise raised

        class Outer(Process):
            def run(self):
                run(Inner)

        with pytest.raises(LookupError) as caught:
            run(Outer)
        assert caught.value is raised

    def test_an_error_of_a_child_that_ends_before_its_caller_knows_that_it_exists(self, monkeypatch):
        raised = LookupError('at once')

        class Inner(Process):
            def run(self):
                raise raised

        class Outer(Process):
            def run(self):
                run(Inner)

        create = Starts._create

        def create_and_dawdle(starts, visit, record):
            created = create(starts, visit, record)
            if visit is not None:
                node = ProcessNode(created.pid, starts._parts.source)
                while not node.is_terminated:
                    os.sched_yield()
            return created

        monkeypatch.setattr(Starts, '_create', create_and_dawdle)
        with pytest.raises(LookupError) as caught:
            run(Outer)
        assert caught.value is raised


class TestChildren:
    def test_submit_and_wait(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('total')
                spec.outline(cls.launch, cls.gather)

            def launch(self):
                node = self.submit(Child, x=2)
                assert isinstance(node, ProcessNode)
                assert (node.state, node.is_terminated, node.process_label) == ('created', False, 'Child')
                self.to_context(one=node)
                return ToContext(two=self.submit(Child, {'x': 3}), three=assign_(self.submit(Child)))

            def gather(self):
                children = [self.ctx.one, self.ctx.two, self.ctx.three]
                assert all(child.is_finished_ok and child.parent == self.node for child in children)
                self.out('total', sum(child.outputs.y for child in children))

        outputs, node = run_get_node(Parent)
        assert outputs == {'total': 10}
        assert [child.inputs.x for child in node.called] == [2, 3, 5]

    def test_waiting_in_the_last_step(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch)

            def launch(self):
                return ToContext(child=self.submit(Child))

        _, node = run_get_node(Parent)
        assert node.is_finished_ok
        assert node.called[0].is_finished_ok

    def test_an_overwritten_child(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second, cls.third)

            def first(self):
                return ToContext(a=self.submit(Child, x=1), b=self.submit(Child, x=2))

            def second(self):
                assert (self.ctx.a.outputs.y, self.ctx.b.outputs.y) == (1, 2)
                return ToContext(a=self.submit(Child, x=3))

            def third(self):
                assert (self.ctx.a.outputs.y, self.ctx.b.outputs.y) == (3, 2)

        assert run_get_node(Parent)[1].is_finished_ok

    def test_append_over_several_steps(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('ys')
                spec.outline(cls.begin, while_(cls.more)(cls.launch), cls.gather)

            def begin(self):
                self.ctx.i = 0

            def more(self):
                return self.ctx.i < 3

            def launch(self):
                self.ctx.i += 1
                for x in (self.ctx.i, 10 * self.ctx.i):
                    self.to_context(children=append_(self.submit(Child, x=x)))

            def gather(self):
                self.out('ys', [child.outputs.y for child in self.ctx.children])

        assert run(Parent) == {'ys': [1, 10, 2, 20, 3, 30]}

    def test_a_child_that_fails_is_the_parents_to_judge(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.exit_code(401, 'ERROR_CHILD', message='child {what}')
                spec.outline(cls.launch, cls.judge)

            def launch(self):
                return ToContext(child=self.submit(Failing), other=self.submit(MayFail, how='int'))

            def judge(self):
                assert self.ctx.child.is_excepted
                assert self.ctx.other.exit_status == MayFail.STATUS
                return self.exit_codes.ERROR_CHILD.format(what=self.ctx.child.exception)

        _, node = run_get_node(Parent)
        assert node.exit_code == ExitCode(401, 'child LookupError: the child fails')

    def test_a_step_that_raises_leaves_no_children(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch)

            def launch(self):
                self.submit(Child)
                raise LookupError('after submitting')

        node = submit(Parent)
        engine = current(node)
        node = engine.wait(node)
        assert node.called == []

    def test_a_child_that_nobody_waits_for(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch)

            def launch(self):
                self.submit(Child, x=1)

        _, node = run_get_node(Parent)
        (child,) = node.called
        assert current(node).wait(child).outputs.y == 1

    def test_ends_in_any_order_wake_the_parent_once(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('wakes')
                spec.outline(cls.launch, cls.count)

            def launch(self):
                for x in range(20):
                    self.to_context(all=append_(self.submit(Child, x=x)))

            def count(self):
                assert [child.outputs.y for child in self.ctx.all] == list(range(20))
                self.ctx.wakes = self.ctx.get('wakes', 0) + 1
                self.out('wakes', self.ctx.wakes)

        assert run(Parent) == {'wakes': 1}

    def test_the_same_child_under_two_names(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch, cls.look)

            def launch(self):
                child = self.submit(Child)
                return ToContext(a=child, b=child, c=append_(child))

            def look(self):
                assert self.ctx.a == self.ctx.b == self.ctx.c[0]

        _, node = run_get_node(Parent)
        assert len(node.called) == 1

    def test_waiting_for_a_process_of_somebody_else(self):
        _, ended = run_get_node(Child, x=6)

        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('other', valid_type=ProcessNode)
                spec.output('y')
                spec.outline(cls.wait, cls.look)

            def wait(self):
                return ToContext(other=self.inputs.other)

            def look(self):
                self.out('y', self.ctx.other.outputs.y)

        outputs, node = run_get_node(Parent, other=ended)
        assert outputs == {'y': 6}
        assert node.called == []

    def test_blocking_for_a_child_that_has_not_begun_is_refused(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch)

            def launch(self):
                child = self.submit(Child)
                current(child).wait(child)

        with pytest.raises(RuntimeError, match=r'would wait for ever.*return ToContext'):
            run(Parent)

    def test_a_function_as_a_child(self):
        @calcfunction
        def double(x: int) -> int:
            return 2 * x

        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y')
                spec.outline(cls.launch, cls.look)

            def launch(self):
                return ToContext(double=self.submit(double, x=4))

            def look(self):
                self.out('y', self.ctx.double.outputs.result)

        assert run(Parent) == {'y': 8}

    @pytest.mark.parametrize('what', [5, None, 'name', append_])
    def test_what_cannot_be_waited_for(self, what):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch)

            def launch(self):
                return ToContext(child=what)

        with pytest.raises(TypeError, match=r'ToContext take the node that self\.submit returned'):
            run(Parent)


class TestMemberFunctions:
    class Adds(WorkChain):
        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.input('a', valid_type=int)
            spec.input('b', valid_type=int)
            spec.output('member')
            spec.output('static')
            spec.outline(cls.as_member, cls.as_static)

        @calcfunction
        def add(a, b):
            return a + b

        @staticmethod
        @calcfunction
        def add_static(a, b):
            return a + b

        def as_member(self):
            self.out('member', TestMemberFunctions.Adds.add(self.inputs.a, self.inputs.b))

        def as_static(self):
            self.out('static', self.add_static(self.inputs.a, b=self.inputs.b))

    def test_run(self):
        outputs, node = run_get_node(self.Adds, a=1, b=2)
        assert outputs == {'member': 3, 'static': 3}
        assert [child.process_label for child in node.called] == ['add', 'add_static']

    def test_submitted(self):
        node = submit(self.Adds, a=1, b=2)
        assert current(node).wait(node).outputs.static == 3

    def test_the_member_itself_submitted(self):
        assert run(self.Adds.add, a=2, b=2) == 4


class TestDefinition:
    def test_the_base_class_cannot_run(self):
        for call in (run, run_get_node, submit):
            with pytest.raises(SpecError, match='WorkChain has no outline'):
                call(WorkChain)

    def test_no_outline(self):
        class None_(WorkChain):
            pass

        with pytest.raises(SpecError, match='None_ has no outline; give one in define'):
            run(None_)

    @pytest.mark.parametrize('outline', [5, 'step', None, lambda x, y: None])
    def test_an_outline_that_is_none(self, outline):
        class Bad(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(outline)

        with pytest.raises(SpecError, match='Bad'):
            run(Bad)
        with pytest.raises(TypeError):
            submit(Bad)

    def test_a_spec_has_a_text(self):
        assert 'Branches' in str(Branches.spec())


class TestLog:
    def test_reports_commit_with_their_step(self):
        class Reports(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second)

            def first(self):
                self.report('one %d %s', 1, 'x')
                self.report('100%')
                self.logger.warning('a warning')

            def second(self):
                self.ctx.seen = [entry.message for entry in self.node.log]
                assert self.ctx.seen == ['one 1 x', '100%', 'a warning']

        _, node = run_get_node(Reports)
        assert [(entry.level, entry.message) for entry in node.log] == [
            (23, 'one 1 x'),
            (23, '100%'),
            (30, 'a warning'),
        ]
        assert {entry.pid for entry in node.log} == {node.pid}

    def test_what_a_failing_step_has_said_is_kept(self):
        class Reports(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first)

            def first(self):
                self.report('before')
                raise LookupError('fails')

        with pytest.raises(LookupError):
            run(Reports)
        node = submit(Reports)
        assert [entry.message for entry in current(node).wait(node).log] == ['before']

    def test_each_process_has_its_own(self):
        class Talks(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('word')

            def run(self):
                self.report(self.inputs.word)

        class Parent(Process):
            def run(self):
                self.report('before')
                self.node_of_child = run_get_node(Talks, word='child')[1]
                self.report('after')

        _, node = run_get_node(Parent)
        assert [entry.message for entry in node.log] == ['before', 'after']
        assert [entry.message for entry in node.called[0].log] == ['child']


class TestKill:
    class Blocks(WorkChain):
        """Reports that it runs, then waits to be let go."""

        running = threading.Event()
        go_on = threading.Event()

        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.outline(cls.block, cls.after)

        def block(self):
            type(self).running.set()
            type(self).go_on.wait(20)

        def after(self):
            raise AssertionError('killed before')

    @pytest.fixture(autouse=True)
    def fresh(self):
        self.Blocks.running = threading.Event()
        self.Blocks.go_on = threading.Event()
        yield
        self.Blocks.go_on.set()

    def test_a_killed_process_goes_no_further(self, engine):
        node = engine.submit(self.Blocks)
        assert self.Blocks.running.wait(20)
        assert engine.kill(node, 'enough')
        assert (node.state, node.exit_message, node.exit_status) == (ProcessState.KILLED, 'enough', None)
        self.Blocks.go_on.set()
        assert not engine.kill(node)
        assert engine.wait(node).is_killed
        assert (node.is_finished, node.is_finished_ok, node.is_excepted) == (False, False, False)

    def test_run_raises_and_so_does_a_step(self, engine):
        seen = []

        class Parent(Process):
            def run(self):
                try:
                    run(TestKill.Blocks)
                except KilledError as error:
                    seen.append(error)
                    raise

        node = engine.submit(Parent)
        assert self.Blocks.running.wait(20)
        engine.kill(node.called[0], 'only the child')
        node = engine.wait(node)
        assert node.is_excepted
        assert 'KilledError' in node.exception
        assert 'only the child' in str(seen[0])

    def test_children_are_killed_too(self, engine):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch, cls.after)

            def launch(self):
                return ToContext(child=self.submit(TestKill.Blocks))

            def after(self):
                raise AssertionError('killed before')

        node = engine.submit(Parent)
        assert self.Blocks.running.wait(20)
        (child,) = node.called
        future = engine.future(child)
        assert node.state == 'waiting'
        assert engine.kill(node)
        assert future.result(20).is_killed
        assert node.is_killed

    def test_a_parent_goes_on_when_its_child_is_killed(self, engine):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('killed')
                spec.outline(cls.launch, cls.after)

            def launch(self):
                return ToContext(child=self.submit(TestKill.Blocks))

            def after(self):
                self.out('killed', self.ctx.child.is_killed)

        node = engine.submit(Parent)
        assert self.Blocks.running.wait(20)
        engine.kill(node.called[0])
        assert dict(engine.wait(node).outputs) == {'killed': True}

    def test_what_waits_for_run_hears_of_the_kill(self, engine):
        result = []

        def call():
            try:
                engine.run(self.Blocks)
            except KilledError as error:
                result.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert self.Blocks.running.wait(20)
        (node,) = engine.query(process_label='Blocks', limit=1)
        engine.kill(node, 'from outside')
        thread.join(20)
        assert 'from outside' in str(result[0])


class TestIllFittingInputs:
    def test_everything_wrong_is_listed_and_nothing_is_written(self, engine):
        before = len(engine.query())
        with pytest.raises(ValidationError) as caught:
            engine.run(Child, x='5', z=1)
        assert 'inputs.x' in str(caught.value)
        assert 'inputs.z' in str(caught.value)
        assert len(engine.query()) == before


def current(node: ProcessNode) -> Engine:
    """The module's engine; also from inside a step."""
    from treadle.engine.default import current_engine

    return current_engine()
