"""Ports taken over from other processes: which ones, and what the namespaces around them become."""

from __future__ import annotations

import pytest

from treadle.engine import Process, SpecError, ValidationError, calcfunction
from treadle.engine.spec import PortNamespace, ProcessSpec
from treadle.engine.spec.checks import UNSPECIFIED


class Base(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('a', valid_type=str, default='a')
        spec.input('b', valid_type=str, default='b')
        spec.inputs.valid_type = str

    def run(self):
        return None


class Nested(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('top')
        spec.input('inner.one')
        spec.input('inner.two')
        spec.inputs['inner'].valid_type = (int, float)
        spec.inputs['inner'].validator = lambda value, port: None

    def run(self):
        return None


def exposing(process, *args, **kwargs):
    spec = ProcessSpec(label='Parent')
    spec.expose_inputs(process, *args, **kwargs)
    return spec.inputs


class TestWhich:
    def test_all_in_a_nested_namespace_beside_own_ports(self):
        spec = ProcessSpec(label='Parent')
        spec.expose_inputs(Base, namespace='base.name.space')
        spec.input('c', valid_type=int, default=1)
        spec.inputs.valid_type = int
        assert set(spec.inputs) == {'base', 'c'}
        exposed = spec.inputs.get_port('base.name.space')
        assert isinstance(exposed, PortNamespace)
        assert {name: port.default for name, port in exposed.items()} == {'a': 'a', 'b': 'b'}
        assert (exposed.valid_type, spec.inputs.valid_type) == (str, int)

    def test_the_ports_are_copies(self):
        inputs = exposing(Base)
        inputs['a'].default = 'changed'
        assert Base.spec().inputs['a'].default == 'a'
        twice = exposing(Base)
        assert twice['a'].default == 'a'

    @pytest.mark.parametrize(
        ('rules', 'left'),
        [
            ({'exclude': ('top',)}, {'inner': {'one', 'two'}}),
            ({'exclude': ('inner',)}, {'top': None}),
            ({'exclude': ['inner.two']}, {'top': None, 'inner': {'one'}}),
            ({'exclude': ('inner.two', 'top')}, {'inner': {'one'}}),
            ({'exclude': ()}, {'top': None, 'inner': {'one', 'two'}}),
            ({'include': ('top',)}, {'top': None}),
            ({'include': {'inner'}}, {'inner': {'one', 'two'}}),
            ({'include': ('inner.two',)}, {'inner': {'two'}}),
            ({'include': ('inner.two', 'top')}, {'top': None, 'inner': {'two'}}),
            ({'include': ()}, {}),
            ({'include': ('top', 'metadata')}, {'top': None}),
            ({'exclude': ('inner', 'metadata.options')}, {'top': None}),
        ],
    )
    def test_rules(self, rules, left):
        base = exposing(Nested, namespace='base', **rules)['base']
        assert {name: set(port) if port.is_namespace else None for name, port in base.items()} == left
        if 'inner' in left:
            inner, original = base['inner'], Nested.spec().inputs['inner']
            assert (inner.valid_type, inner.validator, inner.dynamic) == (
                original.valid_type,
                original.validator,
                True,
            )

    def test_an_included_name_is_no_beginning(self):
        class Similar(Base):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input_namespace('ab')

        assert set(exposing(Similar, include=('a',))) == {'a'}

    def test_an_equal_name_is_replaced(self):
        spec = ProcessSpec(label='Parent')
        spec.input('a', valid_type=int)
        spec.expose_inputs(Base)
        assert spec.inputs['a'].valid_type is str
        spec.input('a', valid_type=float)
        assert spec.inputs['a'].valid_type is float

    def test_a_process_function(self):
        @calcfunction
        def scale(factor: int, name: str = 'x'):
            """Scale.

            :param factor: how much
            """

        for process in (scale, scale.process_class):
            inputs = exposing(process)
            assert (inputs['factor'].valid_type, inputs['factor'].help) == (int, 'how much')
            assert inputs['name'].default == 'x'

    def test_an_exposed_default_makes_new_values(self):
        class Listing(Base):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.input('items_', default=list)

        spec = ProcessSpec(label='Parent')
        spec.expose_inputs(Listing, namespace='one')
        spec.expose_inputs(Listing, namespace='two')
        completed = spec.complete_inputs({})
        assert completed['one']['items_'] == []
        assert completed['one']['items_'] is not completed['two']['items_']


PROPERTIES = {
    'validator': len,
    'valid_type': bool,
    'required': False,
    'dynamic': True,
    'default': dict,
    'help': 'testing',
    'populate_defaults': False,
}
PLAIN = {
    'validator': None,
    'valid_type': None,
    'required': True,
    'dynamic': False,
    'default': None,
    'help': None,
    'populate_defaults': True,
}


class TestNamespaces:
    @pytest.fixture
    def child(self):
        class Child(Base):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                for name, value in PROPERTIES.items():
                    setattr(spec.inputs, name, value)

        return Child

    def of(self, namespace):
        return {name: getattr(namespace, name) for name in PROPERTIES}

    def test_they_become_like_the_source(self, child):
        assert self.of(exposing(child)) == PROPERTIES
        assert self.of(exposing(child, namespace='inner.most').get_port('inner.most')) == PROPERTIES

    def test_options_count_more(self, child):
        namespace = exposing(child, namespace='inner', namespace_options=PLAIN)['inner']
        assert self.of(namespace) == {**PLAIN, 'default': UNSPECIFIED}

    def test_lazy_and_types(self):
        options = {'lazy': True, 'valid_type': int}
        namespace = exposing(Nested, namespace='inner', namespace_options=options)['inner']
        assert (namespace.populate_defaults, namespace.valid_type, namespace.dynamic) == (False, int, True)
        assert options == {'lazy': True, 'valid_type': int}

    def test_an_optional_one_asks_for_nothing_until_it_is_used(self):
        spec = ProcessSpec(label='Parent')
        options = {'required': False, 'populate_defaults': False}
        spec.expose_inputs(Nested, namespace='inner', namespace_options=options)
        assert spec.complete_inputs({}) == {}
        with pytest.raises(ValidationError, match=r'inputs\.inner\.inner\.one: required'):
            spec.complete_inputs({'inner': {'top': 1}})

    def test_a_validator_that_asks_for_an_excluded_port(self):
        asked = []

        class Checked(Base):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.inputs.validator = lambda value, namespace: asked.append('a' in namespace)

        spec = ProcessSpec(label='Parent')
        spec.expose_inputs(Checked, namespace='base', exclude=('a',))
        spec.complete_inputs({})
        assert asked == [False]


class TestMistakes:
    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'exclude': ('a',), 'include': ('b',)}, 'either exclude or include'),
            ({'exclude': ('c',)}, "no port 'c'.*are: a, b"),
            ({'include': ('a.b',)}, "no port 'a.b'"),
            ({'include': 'a'}, "list or tuple of names.*'a'"),
            ({'exclude': 3}, 'list or tuple of names'),
            ({'exclude': [3]}, 'names of ports, not int 3'),
            ({'namespace_options': {'optional': True}}, "'optional' is none; there is help"),
            ({'namespace_options': {'default': 3}}, 'must be a mapping'),
            ({'namespace': 'metadata.inner'}, "engine's own"),
        ],
    )
    def test_arguments(self, kwargs, message):
        with pytest.raises(SpecError, match=message) as raised:
            exposing(Base, **kwargs)
        assert str(raised.value).startswith('Parent: ')

    @pytest.mark.parametrize('process', [3, int, 'Base', len])
    def test_what_is_no_process(self, process):
        with pytest.raises(SpecError, match='not a process class or process function'):
            exposing(process)

    def test_a_port_in_the_way(self):
        spec = ProcessSpec(label='Parent')
        spec.input('base')
        with pytest.raises(SpecError, match='is a port and cannot hold others'):
            spec.expose_inputs(Base, namespace='base')

    def test_its_own_ports(self):
        class Snake(Base):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.expose_inputs(cls)

        with pytest.raises(SpecError, match='its own'):
            Snake.spec()

    def test_a_sealed_spec(self):
        spec = ProcessSpec(label='Parent')
        spec.seal()
        with pytest.raises(SpecError, match='sealed'):
            spec.expose_outputs(Base)
