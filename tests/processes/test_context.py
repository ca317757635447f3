"""The context of a work chain: how it is filled, what survives a restart, and with which types."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import threading
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from treadle.engine import (
    Engine,
    EngineStopped,
    ExitCode,
    ProcessNode,
    ProcessParked,
    ProcessState,
    ToContext,
    WorkChain,
    append_,
    if_,
    run,
    run_get_node,
)
from treadle.engine.processes.attributes import AttributeDict, FrozenAttributes


class Colour(enum.Enum):
    RED = 'red'


@dataclasses.dataclass
class Point:
    x: int
    y: tuple[int, ...]


#: What a context may hold, each value with a type that data formats like to lose.
VALUES: dict[str, Any] = {
    'int': 2**80,
    'negative_zero': -0.0,
    'infinite': float('inf'),
    'bool': True,
    'none': None,
    'text': 'ü\x00\n',
    'bytes': b'\xff\x00',
    'tuple': (1, (2,), []),
    'list': [1, [2.0], ()],
    'dict': {'a': {'b': (1,)}, 1: 'one', (2, 3): 'pair'},
    'datetime': datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC),
    'date': datetime.date(2026, 1, 2),
    'delta': datetime.timedelta(days=1, microseconds=1),
    'uuid': uuid.UUID(int=5),
    'decimal': decimal.Decimal('1.10'),
    'path': pathlib.Path('a/b'),
    'enum': Colour.RED,
    'dataclass': Point(1, (2, 3)),
    'numpy_scalar': np.float32(1.5),
    'exit_code': ExitCode(410, 'why', True),
    'state': ProcessState.KILLED,
}


class Gate:
    """Lets a test stop the engine between two steps: the second one waits here."""

    reached = threading.Event()
    opened = threading.Event()

    @classmethod
    def reset(cls) -> None:
        cls.reached, cls.opened = threading.Event(), threading.Event()


class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', default=1)
        spec.output('y')
        spec.outline(cls.only)

    def only(self):
        self.out('y', self.inputs.x)


class Remembers(WorkChain):
    """Fills its context, and says in a second life what it finds."""

    seen: ClassVar[dict[str, Any]] = {}
    starts: ClassVar[list[str]] = []

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('kept')
        spec.output('first')
        spec.outline(cls.fill, cls.gate, cls.look)

    def fill(self):
        type(self).starts.append('fill')
        self.ctx.update(VALUES)
        self.ctx.array = np.arange(6, dtype=np.int16).reshape(2, 3)
        self.ctx['not a name'] = {'inner': AttributeDict(a=1)}
        self.ctx.gone = 1
        del self.ctx.gone
        self.out('first', 1)
        return ToContext(child=self.submit(Child), **{'deep.er.children': append_(self.submit(Child, x=2))})

    def gate(self):
        type(self).starts.append('gate')
        Gate.reached.set()
        Gate.opened.wait(20)
        run(Child)

    def look(self):
        type(self).starts.append('look')
        type(self).seen = dict(self.ctx)
        self.out('kept', self.outputs.first)


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(
            same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


class TestDurability:
    @pytest.fixture(autouse=True)
    def gate(self):
        Gate.reset()
        Remembers.starts = []
        yield
        Gate.opened.set()

    @pytest.mark.parametrize('restarted', [False, True])
    def test_values_keep_their_types(self, make_engine: Callable[..., Engine], restarted: bool):
        engine = make_engine()
        node = engine.submit(Remembers)
        assert Gate.reached.wait(20)
        if restarted:
            future = engine.future(node)
            stopper = threading.Thread(target=engine.stop)
            stopper.start()
            # The engine refuses the step's next blocking call once it stops; only then may the step go on.
            while engine.is_running:
                stopper.join(0.001)
            Gate.opened.set()
            stopper.join(20)
            with pytest.raises(EngineStopped, match=f'before process {node.pid} ended'):
                future.result(5)
            engine = make_engine()
        else:
            Gate.opened.set()
        node = engine.wait(node.pid, timeout=20)
        assert node.is_finished_ok
        assert dict(node.outputs) == {'first': 1, 'kept': 1}
        assert Remembers.starts == (['fill', 'gate', 'gate', 'look'] if restarted else ['fill', 'gate', 'look'])
        seen = dict(Remembers.seen)
        assert same({name: seen[name] for name in VALUES}, VALUES)
        assert seen['array'].dtype == np.int16
        assert seen['array'].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert type(seen['not a name']) is dict
        assert seen['not a name']['inner'].a == 1
        assert 'gone' not in seen
        assert seen['child'].outputs.y == 1
        assert seen['deep'].er.children[0].outputs.y == 2
        assert isinstance(seen['child'], ProcessNode)

    def test_a_class_that_has_lost_its_step_parks(self, make_engine: Callable[..., Engine]):
        engine = make_engine()

        class Changes(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.gate, cls.last)

            def first(self):
                self.ctx.x = 1

            def gate(self):
                Gate.reached.set()
                Gate.opened.wait(20)
                run(Child)

            def last(self):
                pass

        node = engine.submit(Changes)
        assert Gate.reached.wait(20)
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        while engine.is_running:
            stopper.join(0.001)
        Gate.opened.set()
        stopper.join(20)

        def define(spec):
            spec.outline(Changes.first, Changes.last)

        del Changes._spec
        Changes.define = staticmethod(define)
        engine = make_engine()
        with pytest.raises(ProcessParked, match=r"stands before 'gate', at position 1 of the outline of Changes"):
            engine.wait(node.pid, timeout=20)
        assert not engine.load(node.pid).is_terminated


@pytest.mark.usefixtures('engine')
class TestFilling:
    def test_nested_names(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('seen')
                spec.outline(cls.launch, cls.look)

            def launch(self):
                self.ctx.plain = {'x': {}}
                self.to_context(
                    **{
                        'one.two.a': self.submit(Child, x=1),
                        'one.list': append_(self.submit(Child, x=2)),
                        'plain.x.y': self.submit(Child, x=3),
                    }
                )
                return ToContext(
                    **{'one.two.b': self.submit(Child, x=4), 'one.list': append_(self.submit(Child, x=5))}
                )

            def look(self):
                one = self.ctx.one
                nodes = [one.two.a, one.two.b, *one.list, self.ctx.plain['x']['y']]
                self.out('seen', [node.outputs.y for node in nodes])

        assert run(Parent) == {'seen': [1, 4, 2, 5, 3]}

    @pytest.mark.parametrize(
        ('before', 'names', 'message'),
        [
            ({}, [('a', False), ('a.b', False)], "ctx.a.b cannot be set: 'a' in it is a .*, not a dictionary"),
            ({}, [('a', True), ('a.b.c', False)], "'a' in it is a list, not a dictionary"),
            ({}, [('a', True), ('a.b', False)], "'a' in it is a list, not a dictionary"),
            ({}, [('a', False), ('a', True)], 'ctx.a cannot be appended to: it is a .*, not a list'),
            ({}, [('a.b', False), ('a', True)], 'ctx.a cannot be appended to'),
            ({'a': 5}, [('a.b', False)], "'a' in it is a int, not a dictionary"),
            ({'a': {'b': 'text'}}, [('a.b', True)], 'ctx.a.b cannot be appended to: it is a str, not a list'),
            ({}, [('a..b', False)], r"'a\.\.b' is no name for the context"),
            ({}, [('', False)], "'' is no name for the context"),
        ],
    )
    def test_names_in_the_way_are_refused_at_the_call(self, before, names, message):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch, cls.never)

            def launch(self):
                self.ctx.update(before)
                for name, append in names[:-1]:
                    node = self.submit(Child)
                    self.to_context(**{name: append_(node) if append else node})
                name, append = names[-1]
                node = self.submit(Child)
                with pytest.raises(ValueError, match=message):
                    self.to_context(**{name: append_(node) if append else node})
                return ToContext(**{name: append_(node) if append else node})

            def never(self):
                raise AssertionError('not to be reached')

        with pytest.raises(ValueError, match=message):
            run(Parent)

    def test_what_gets_in_the_way_after_the_call(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.launch, cls.never)

            def launch(self):
                self.to_context(**{'a.b': self.submit(Child)})
                self.ctx.a = 5

            def never(self):
                raise AssertionError('not to be reached')

        with pytest.raises(ValueError, match=r"ctx\.a\.b cannot be set: 'a' in it is a int"):
            run(Parent)

    def test_a_name_may_be_taken_over(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y')
                spec.outline(cls.launch, cls.look)

            def launch(self):
                self.ctx.a = 'text'
                return ToContext(a=self.submit(Child, x=7))

            def look(self):
                self.out('y', self.ctx.a.outputs.y)

        assert run(Parent) == {'y': 7}

    def test_conditions_may_use_and_change_it(self):
        class Counts(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('n')
                spec.outline(cls.begin, if_(cls.counts)(cls.end))

            def begin(self):
                self.ctx.n = 1

            def counts(self):
                self.ctx.n += 1
                return True

            def end(self):
                self.out('n', self.ctx.n)

        assert run(Counts) == {'n': 2}

    def test_a_key_that_is_not_there(self):
        class Looks(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.look)

            def look(self):
                self.ctx.near = 1
                assert not hasattr(self.ctx, 'far')
                return self.ctx.far

        with pytest.raises(AttributeError, match="holds no 'far'; there is near"):
            run(Looks)

    def test_nodes_in_it_show_what_has_become_of_them(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('states')
                spec.outline(cls.launch, cls.look)

            def launch(self):
                self.ctx.kept = [self.submit(Child)]
                before = self.ctx.kept[0].state
                self.ctx.before = before
                return ToContext(child=self.ctx.kept[0])

            def look(self):
                self.out('states', [self.ctx.before, self.ctx.kept[0].state, self.ctx.child.state])

        outputs, node = run_get_node(Parent)
        assert outputs['states'] == [ProcessState.CREATED, ProcessState.FINISHED, ProcessState.FINISHED]
        assert node.is_finished_ok


class TestAttributeDict:
    def test_attributes(self):
        ctx = AttributeDict()
        ctx.new = 5
        assert (ctx.new, ctx['new']) == (5, 5)
        del ctx.new
        with pytest.raises(AttributeError, match="no 'new'; there is nothing"):
            _ = ctx.new
        with pytest.raises(AttributeError):
            del ctx.new

    def test_items(self):
        ctx = AttributeDict(a=1)
        ctx['b'] = 2
        assert (ctx.b, list(ctx), {'a', 'b'} <= set(dir(ctx))) == (2, ['a', 'b'], True)
        del ctx['b']
        with pytest.raises(KeyError):
            _ = ctx['b']

    @pytest.mark.parametrize('name', ['items', 'values', 'update', 'get', 'copy'])
    def test_names_of_methods_are_for_items_only(self, name):
        ctx = AttributeDict()
        with pytest.raises(AttributeError, match=rf"'{name}' is a method of dictionaries; write \['{name}'\]"):
            setattr(ctx, name, 1)
        ctx[name] = 1
        assert ctx[name] == 1

    def test_frozen(self):
        frozen = FrozenAttributes({'a': 1, 'b': FrozenAttributes({'c': 2})}, 'inputs of X')
        assert (frozen.a, frozen.b.c, dict(frozen)['a'], len(frozen)) == (1, 2, 1, 2)
        with pytest.raises(AttributeError, match='inputs of X cannot be changed'):
            frozen.a = 2
        with pytest.raises(AttributeError, match="inputs of X holds no 'd'; there is a, b"):
            _ = frozen.d
