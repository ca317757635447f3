"""Builders: what they hold, what they refuse, and that they start what they were made for."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping

import pytest

from treadle.engine import (
    Engine,
    Process,
    ProcessBuilder,
    ToContext,
    ValidationError,
    WorkChain,
    calcfunction,
    run,
    run_get_node,
    run_get_pid,
    submit,
)
from treadle.engine.processes.builder import ProcessBuilderNamespace


class Example(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input_namespace('dynamic.space', dynamic=True, valid_type=int)
        spec.input('values', valid_type=int, help='a name that mappings have too')
        spec.input('name.spaced', valid_type=int, help='in a namespace')
        spec.input('name_spaced', valid_type=str, validator=lambda value: None if value else 'is empty')
        spec.input('table', valid_type=dict, required=False)
        spec.input('default', valid_type=int, default=256)
        spec.input('fresh', default=list)
        spec.outputs.dynamic = True

    def run(self):
        self.out_many({name: value for name, value in self.inputs.items() if name != 'fresh'})


class Lazy(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('space.inner.bird')
        spec.input('space.a')
        spec.input('space.c')

    def run(self):
        return None


class Nested(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('nested.space.int', valid_type=int)
        spec.input('nested.space.float', valid_type=float)
        spec.input('nested.space.str', valid_type=str, required=False)
        spec.input_namespace('opt', required=False, dynamic=True)

    def run(self):
        return None


INPUTS = {
    'dynamic': {'space': {'alp': 1}},
    'values': 2,
    'name': {'spaced': 3},
    'name_spaced': 'x',
    'table': {'a': 1, 'b': {'c': 2}},
    'metadata': {'label': 'L'},
}


@pytest.fixture
def builder():
    return Example.get_builder()


def filled():
    builder = Example.get_builder()
    builder.dynamic.space = {'alp': 1}
    builder.values = 2
    builder.name.spaced = 3
    builder.name_spaced = 'x'
    builder.table = INPUTS['table']
    builder.metadata.label = 'L'
    return builder


class TestValues:
    def test_what_is_set_is_there(self):
        builder = filled()
        assert builder == INPUTS
        assert builder != {}
        assert builder != 3
        assert (builder.values, builder.name.spaced, builder['name']['spaced'], builder.metadata.label) == (
            2,
            3,
            3,
            'L',
        )
        assert isinstance(builder.dynamic.space, ProcessBuilderNamespace)
        assert builder.dynamic.space.alp == 1

    def test_what_is_not_set(self, builder):
        assert (builder.name_spaced, builder.default, builder.fresh) == (None, 256, [])
        builder.fresh.append(1)
        assert builder.fresh == []
        assert 'default' not in builder
        assert all(hasattr(builder, name) for name in Example.spec().inputs)

    def test_pruning(self):
        builder = Lazy.get_builder()
        assert builder._inputs() == {'space': {'inner': {}}, 'metadata': {}}
        assert builder._inputs(prune=True) == {}
        builder.space.a = {}
        assert builder._inputs(prune=True) == {'space': {'a': {}}}
        builder.space.inner.bird = []
        assert builder._inputs(prune=True) == {'space': {'inner': {'bird': []}, 'a': {}}}

    def test_a_namespace_stays_one(self):
        builder = Lazy.get_builder()
        builder.space = {'a': 'a', 'c': 'c', 'inner': {'bird': 'mus'}}
        assert isinstance(builder.space.inner, ProcessBuilderNamespace)
        assert builder.space.inner.bird == 'mus'
        other = Lazy.get_builder()
        other.space = builder.space
        builder.space.inner.bird = 'rattus'
        assert other.space == {'a': 'a', 'c': 'c', 'inner': {'bird': 'mus'}}

    def test_deleting(self):
        builder = filled()
        del builder.values
        del builder['table']
        del builder.name
        del builder.dynamic.space.alp
        assert builder._inputs(prune=True) == {'name_spaced': 'x', 'metadata': {'label': 'L'}}
        builder.name.spaced = 4
        del builder.metadata
        assert builder._inputs(prune=True) == {'name_spaced': 'x', 'name': {'spaced': 4}}
        with pytest.raises(AttributeError, match=r'inputs\.values is not set'):
            del builder.values
        with pytest.raises(KeyError):
            del builder['values']

    def test_builders_do_not_meet(self):
        class Other(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('default', default=1)

            def run(self):
                return None

        one, two, three = Example.get_builder(), Other.get_builder(), Example.get_builder()
        one.default = 5
        assert (one.default, two.default, three.default) == (5, 1, 256)
        assert (one.process_class, two.process_class) == (Example, Other)

    def test_copies(self):
        builder = filled()
        twin = copy.deepcopy(builder)
        builder.name.spaced = 4
        assert twin == INPUTS
        assert isinstance(twin, ProcessBuilder)


class TestRefusals:
    def test_names(self, builder):
        with pytest.raises(
            AttributeError, match="inputs has no 'vlaues' to be set; there is dynamic, values"
        ):
            builder.vlaues = 3
        with pytest.raises(AttributeError, match=r"inputs\.name has no 'spiced'; there is spaced"):
            builder.name.spiced  # noqa: B018
        with pytest.raises(ValidationError, match=r"Example: inputs\.vlaues: .*did you mean 'values'"):
            builder['vlaues'] = 3

    @pytest.mark.parametrize(
        ('name', 'value', 'message'),
        [
            ('values', 'two', r'inputs\.values: expected int'),
            ('values', None, r'inputs\.values: expected int'),
            ('name_spaced', '', r'inputs\.name_spaced: is empty'),
            ('name', {'spaced': 'x'}, r'inputs\.name\.spaced: expected int'),
            ('name', {}, r'inputs\.name\.spaced: required'),
            ('name', {'spaced': 1, 'other': 2}, r'inputs\.name\.other: there is no such port'),
            ('name', 3, r'inputs\.name: expected a mapping'),
            ('dynamic', {'space': {'x': 'y'}}, r'inputs\.dynamic\.space\.x: expected int'),
            ('metadata', {'lable': 'x'}, r'inputs\.metadata\.lable: .*label'),
            ('metadata', {'label': 3}, r'inputs\.metadata\.label: expected str'),
        ],
    )
    def test_values(self, name, value, message):
        builder = filled()
        with pytest.raises(ValidationError, match=message):
            setattr(builder, name, value)
        assert builder == INPUTS

    def test_inside_namespaces(self, builder):
        with pytest.raises(ValidationError, match=r'inputs\.name\.spaced: expected int'):
            builder.name.spaced = 'x'
        with pytest.raises(ValidationError, match=r'inputs\.dynamic\.space\.x: expected int'):
            builder.dynamic.space.x = 'y'
        with pytest.raises(ValidationError, match=r'must be a str'):
            builder.dynamic.space[3] = 4


class TestUpdateAndMerge:
    @pytest.fixture
    def builder(self):
        builder = Nested.get_builder()
        builder.nested.space = {'int': 1, 'float': 2.0}
        return builder

    def test_update_replaces_namespaces(self, builder):
        with pytest.raises(ValidationError, match='float: required'):
            builder._update({'nested': {'space': {'int': 5, 'str': 'x'}}})
        new = {'nested': {'space': {'int': 5, 'float': 3.0, 'str': 'x'}}}
        builder._update(new)
        assert builder._inputs(prune=True) == new
        builder._update(nested={'space': {'int': 6, 'float': 3.0}})
        assert builder._inputs(prune=True) == {'nested': {'space': {'int': 6, 'float': 3.0}}}
        builder.update(new)
        assert builder._inputs(prune=True) == new

    def test_merge_goes_deep(self, builder):
        given = {'nested': {'space': {'int': 5}}, 'opt': {'m': {'a': 1}}}
        builder._merge(given)
        assert builder._inputs(prune=True) == {
            'nested': {'space': {'int': 5, 'float': 2.0}},
            'opt': {'m': {'a': 1}},
        }
        builder._merge(opt={'m': {'b': 2}}, nested={'space': {'str': 'x'}})
        assert builder.opt.m == {'a': 1, 'b': 2}
        assert builder.nested.space == {'int': 5, 'float': 2.0, 'str': 'x'}
        assert given['opt'] == {'m': {'a': 1}}

    def test_one_builder_into_another(self, builder):
        other = Nested.get_builder()
        other._merge(builder)
        assert other == builder

    def test_more_than_one_mapping(self, builder):
        for method in (builder._update, builder._merge):
            with pytest.raises(TypeError, match='one mapping'):
                method({}, {})


class TestHelp:
    def test_documentation_of_the_attributes(self, builder):
        assert type(builder).values.__doc__ == 'int: a name that mappings have too'
        assert type(builder.name).spaced.__doc__ == 'int: in a namespace'

    def test_the_text_shows_values_defaults_and_help(self, builder):
        builder.name_spaced = 'x'
        assert repr(builder).splitlines()[:12] == [
            'builder of Example:',
            '  dynamic:',
            '    space:',
            '      ... and any other name',
            '  values: int, required  # a name that mappings have too',
            '  name:',
            '    spaced: int, required  # in a namespace',
            "  name_spaced = 'x'",
            '  table: dict or None, optional',
            '  default = 256 (default)',
            '  fresh = list() (default)',
            '  metadata:',
        ]
        builder.dynamic.space.alp = 1
        assert repr(builder.dynamic) == 'inputs.dynamic:\n  space:\n    alp = 1\n    ... and any other name'

    def test_completion_offers_ports_and_no_methods(self, builder):
        offered = {name for name in dir(builder) if not name.startswith('_')}
        assert offered == {*Example.spec().inputs, 'metadata'}
        assert not offered & (set(dir(MutableMapping)) - {'values'})


@pytest.mark.usefixtures('engine')
class TestStarting:
    def test_every_way(self, engine):
        outputs = {name: value for name, value in INPUTS.items() if name != 'metadata'} | {'default': 256}
        found, node = run_get_node(filled())
        assert (found, node.label) == (outputs, 'L')
        assert run(filled()) == outputs
        found, pid = run_get_pid(filled())
        assert (found, engine.load(pid).process_label) == (outputs, 'Example')
        assert engine.run_get_pid(filled())[0] == outputs
        assert engine.wait(submit(filled()), 20).outputs == outputs
        assert run(Example, filled()) == outputs

    def test_run_async(self, engine):
        import asyncio

        assert asyncio.run(engine.run_async(filled()))['values'] == 2

    def test_inputs_beside_the_builder(self):
        builder = filled()
        assert run(builder, default=3)['default'] == 3
        with pytest.raises(TypeError, match="'values' is given twice"):
            run(builder, values=3)
        assert builder == INPUTS

    def test_what_is_missing_is_found_at_the_start(self):
        with pytest.raises(ValidationError, match=r'inputs\.values: required'):
            run(Example.get_builder())

    def test_a_function(self):
        @calcfunction
        def scale(x: int, factor: int = 2) -> int:
            return x * factor

        builder = scale.get_builder()
        builder.x = 4
        assert builder.process_class is scale.process_class
        assert run(builder) == 8
        assert run_get_node(builder)[1].outputs.result == 8

    def test_a_child(self):
        class Parent(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('values')
                spec.outline(cls.start, cls.finish)

            def start(self):
                return ToContext(child=self.submit(filled()))

            def finish(self):
                self.out('values', self.ctx.child.outputs['values'])

        assert run(Parent) == {'values': 2}

    def test_inputs_of_an_earlier_process(self):
        _, node = run_get_node(filled())
        builder = Example.get_builder()
        builder._update(node.inputs)
        expected = {name: value for name, value in INPUTS.items() if name != 'metadata'}
        assert builder._inputs(prune=True) == {**expected, 'default': 256, 'fresh': []}
        assert run(builder)['values'] == 2


def test_an_engine_that_does_not_run(tmp_path):
    from treadle.engine import EngineStopped

    with pytest.raises(EngineStopped):
        Engine(f'sqlite:///{tmp_path}/s.sqlite').run_get_pid(filled())
