"""Exit codes over generations of classes: what is inherited, refined, and left alone."""

from __future__ import annotations

import pytest

from treadle.engine import (
    Engine,
    ExitCode,
    Process,
    ProcessSpec,
    SpecError,
    WorkChain,
    calcfunction,
    return_,
    run_get_node,
)

BASE = {'ERROR_UNSPECIFIED': 1, 'ERROR_INVALID_OUTPUT': 10, 'ERROR_MISSING_OUTPUT': 11}


class Parent(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('which', valid_type=str, default='')
        spec.exit_code(400, 'ERROR_OURS', message='of the parent')
        spec.exit_code(401, 'ERROR_SAME', message='of the parent')

    def run(self):
        return self.exit_codes[self.inputs.which] if self.inputs.which else None


class Child(Parent):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.exit_code(411, 'ERROR_SAME', message='of the child')
        spec.exit_code(412, 'ERROR_OWN', message='of the child: {why}')


class Sibling(Parent):
    """Declares nothing of its own."""


class Stranger(Parent):
    @classmethod
    def define(cls, spec):  # the base class' definition is not asked
        spec.exit_code(500, 'ERROR_STRANGE', message='strange')


class Mixin:
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.exit_code(420, 'ERROR_MIXED', message='mixed in')


class Mixed(Mixin, Child):
    pass


class Ends(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('status')
        spec.input('bare', default=True)

    def run(self):
        return self.inputs.status if self.inputs.bare else ExitCode(self.inputs.status)


@calcfunction
def ends(status):
    return ExitCode(status)


@pytest.fixture
def either(store_url):
    """An engine, once on each kind of database."""
    with Engine(store_url) as engine:
        yield engine


@pytest.mark.parametrize('status', [0xDEADBEEF, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_large_statuses(either, status):
    for bare in (True, False):
        _, node = either.run_get_node(Ends, status=status, bare=bare)
        assert node.exit_status == either.load(node.pid).exit_status == status
    _, called = either.run_get_node(ends, status=status)
    submitted = either.submit(ends, status=status)
    either.wait(submitted, 20)
    assert called.exit_status == submitted.exit_status == status


@pytest.mark.parametrize('bare', [True, False])
@pytest.mark.parametrize('status', [2**63, -(2**63) - 1])
def test_statuses_that_nobody_can_hold(either, status, bare):
    with pytest.raises(ValueError, match=f'exit status {status} does not fit into 64 bits'):
        either.run(Ends, status=status, bare=bare)
    with pytest.raises(ValueError, match=f'exit status {status} does not fit into 64 bits'):
        either.run(ends, status=status)
    either.wait(either.submit(ends, status=status), 20)
    assert {node.state for node in either.query()} == {'excepted'}


@pytest.mark.parametrize('status', ['1', 1.0, None, True])
def test_a_status_is_an_int(either, status):
    with pytest.raises(TypeError, match=f'the exit status must be an int, not {status!r}'):
        either.run(Ends, status=status, bare=False)


def test_a_declared_status_that_nobody_can_hold():
    with pytest.raises(SpecError, match=r'ERROR_X.*does not fit into 64 bits'):
        ProcessSpec().exit_code(2**63, 'ERROR_X', message='x')
    with pytest.raises(SpecError, match='does not fit into 64 bits'):
        return_(2**63)


@pytest.mark.parametrize('key', ['k' * 1000, '\u00e4' * 500])
def test_the_longest_key(either, key):
    first, second = (either.submit(Ends, status=0, metadata={'key': key}) for _ in range(2))
    assert first.pid == second.pid


def statuses(process_class):
    return {label: code.status for label, code in process_class.exit_codes.items()}


@pytest.mark.parametrize(
    ('process_class', 'own'),
    [
        (Parent, {'ERROR_OURS': 400, 'ERROR_SAME': 401}),
        (Child, {'ERROR_OURS': 400, 'ERROR_SAME': 411, 'ERROR_OWN': 412}),
        (Sibling, {'ERROR_OURS': 400, 'ERROR_SAME': 401}),
        (Stranger, {'ERROR_STRANGE': 500}),
        (Mixed, {'ERROR_OURS': 400, 'ERROR_SAME': 411, 'ERROR_OWN': 412, 'ERROR_MIXED': 420}),
    ],
)
def test_what_a_class_has(process_class, own):
    assert statuses(process_class) == {**BASE, **own}
    assert process_class.exit_codes is process_class.spec().exit_codes


def test_a_subclass_changes_nothing_above_or_beside_it():
    Child.spec()
    assert ExitCode(401, 'of the parent') == Parent.exit_codes.ERROR_SAME
    assert ExitCode(411, 'of the child') == Child.exit_codes.ERROR_SAME
    with pytest.raises(AttributeError, match='ERROR_OWN'):
        Parent.exit_codes.ERROR_OWN  # noqa: B018
    with pytest.raises(ValueError, match='status 401'):
        Child.exit_codes(401)


def test_a_base_code_can_be_refined():
    class Refined(Parent):
        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.exit_code(11, 'ERROR_MISSING_OUTPUT', message='nothing came out')

    assert Refined.exit_codes(11).message == 'nothing came out'
    assert Parent.exit_codes(11).message != 'nothing came out'


@pytest.mark.usefixtures('engine')
class TestRunning:
    @pytest.mark.parametrize(
        ('process_class', 'label', 'expected'),
        [
            (Parent, 'ERROR_SAME', ExitCode(401, 'of the parent')),
            (Child, 'ERROR_SAME', ExitCode(411, 'of the child')),
            (Child, 'ERROR_OURS', ExitCode(400, 'of the parent')),
            (Mixed, 'ERROR_MIXED', ExitCode(420, 'mixed in')),
            (
                Sibling,
                'ERROR_UNSPECIFIED',
                Parent.exit_codes.ERROR_UNSPECIFIED._replace(invalidates_cache=False),
            ),
        ],
    )
    def test_an_inherited_method_ends_with_the_subclass_codes(self, process_class, label, expected):
        _, node = run_get_node(process_class, which=label)
        assert node.exit_code == expected

    def test_a_parent_asks_for_its_childs_codes(self):
        class Caller(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.expose_inputs(Child)
                spec.exit_code(402, 'ERROR_CHILD', message='the child said {status}')
                spec.outline(cls.call, cls.judge)

            def call(self):
                self.to_context(child=self.submit(Child, self.exposed_inputs(Child)))

            def judge(self):
                child = self.ctx.child
                if child.exit_code == Child.exit_codes.ERROR_OWN:
                    return self.exit_codes.ERROR_CHILD.format(status=child.exit_status)

        # Exposing the ports of a process does not bring its exit codes along.
        assert set(statuses(Caller)) == {*BASE, 'ERROR_CHILD'}
        _, node = run_get_node(Caller, which='ERROR_OWN')
        assert node.exit_code == ExitCode(402, 'the child said 412')
