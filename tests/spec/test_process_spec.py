"""What an engine asks of a spec: inputs completed, outputs checked, and messages that help."""

from __future__ import annotations

import json
import types
from collections import OrderedDict

import pytest

from treadle.engine.errors import SpecError, ValidationError
from treadle.engine.spec import UNSPECIFIED, InputPort, OutputPort, PortNamespace, ProcessSpec


@pytest.fixture(params=['open', 'sealed'])
def finish(request):
    """Specs behave the same before and after they are sealed; sealing only makes them fast."""

    def finished(spec: ProcessSpec) -> ProcessSpec:
        if request.param == 'sealed':
            spec.seal()
        return spec

    return finished


def spec_of(**inputs) -> ProcessSpec:
    spec = ProcessSpec(label='AddMany')
    for name, options in inputs.items():
        spec.input(name, **options)
    return spec


def message_of(call, *args) -> str:
    with pytest.raises(ValidationError) as caught:
        call(*args)
    return str(caught.value)


class TestInputs:
    def test_given_values_are_taken(self, finish):
        spec = finish(spec_of(x={'valid_type': int}, y={'valid_type': int}))
        given = {'y': 2, 'x': 1}
        completed = spec.complete_inputs(given)
        assert completed == {'x': 1, 'y': 2}
        assert completed is not given

    def test_dots_nest(self, finish):
        spec = ProcessSpec()
        spec.input('some.name.space.a', valid_type=int)
        for path in ('some', 'some.name', 'some.name.space'):
            assert isinstance(spec.inputs.get_port(path), PortNamespace)
        assert isinstance(spec.inputs.get_port('some.name.space.a'), InputPort)
        values = {'some': {'name': {'space': {'a': 5}}}}
        completed = finish(spec).complete_inputs(values)
        assert completed == values
        assert completed['some']['name'] is not values['some']['name']
        assert 'inputs.some.name.space.a: required' in message_of(spec.complete_inputs, {})

    def test_any_mapping_is_fine_and_stays_as_it_was(self, finish):
        spec = ProcessSpec()
        spec.input('nested.a')
        spec.input('nested.b', default='filled in')
        finish(spec)
        inner = types.MappingProxyType({'a': 1})
        completed = spec.complete_inputs(types.MappingProxyType({'nested': inner}))
        assert completed == {'nested': {'a': 1, 'b': 'filled in'}}
        assert type(completed['nested']) is dict
        given = {'nested': {'a': 1}}
        spec.complete_inputs(given)
        assert given == {'nested': {'a': 1}}

    def test_what_is_no_mapping(self, finish):
        spec = finish(spec_of(x={}))
        assert 'AddMany: the inputs must be a mapping' in message_of(spec.complete_inputs, [1])

    def test_all_problems_come_in_one_error(self, finish):
        spec = spec_of(
            steps={'valid_type': int},
            element={'valid_type': str, 'help': 'symbol'},
            cutoff={
                'valid_type': float,
                'validator': lambda value: None if value > 0 else 'must be positive',
            },
        )
        spec.input('options.basis', valid_type=str)
        message = message_of(
            finish(spec).complete_inputs,
            {'stesp': 3, 'steps': '3', 'cutoff': -1, 'options': {'basis': 1, 'other': None}},
        )
        assert message.split('\n  ') == [
            'AddMany: 6 problems with its inputs:',
            "inputs.steps: expected int, got str '3'; convert the text before passing it",
            'inputs.cutoff: must be positive',
            'inputs.options.basis: expected str, got int 1',
            'inputs.options.other: there is no such port; there is basis',
            "inputs.stesp: there is no such port; did you mean 'steps'?",
            'inputs.element: required, but not given; expected str (symbol)',
        ]

    def test_one_problem_is_one_line(self, finish):
        spec = finish(spec_of(x={'valid_type': int}))
        assert message_of(spec.complete_inputs, {'x': 'a'}).startswith('AddMany: inputs.x: expected int')

    def test_unknown_inputs(self, finish):
        spec = spec_of(x={'default': 1})
        spec.input('options.basis', default='b')
        finish(spec)
        assert "nest the values instead, as in {'options': {'basis': ...}}" in message_of(
            spec.complete_inputs, {'options.basis': 'c'}
        )
        assert 'there is options, x' in message_of(spec.complete_inputs, {'zzz': 1})
        assert 'inputs.3: there is no such port' in message_of(spec.complete_inputs, {3: 1})
        assert 'nor any other' in message_of(finish(ProcessSpec()).complete_inputs, {'a': 1})

    def test_a_bool_is_no_int(self, finish):
        spec = finish(spec_of(x={'valid_type': int}))
        assert 'got bool True; a bool is not taken for a number' in message_of(
            spec.complete_inputs, {'x': True}
        )

    def test_an_int_for_a_float_stays_an_int(self, finish):
        completed = finish(spec_of(x={'valid_type': float})).complete_inputs({'x': 1})
        assert type(completed['x']) is int

    def test_unspecified_means_not_given(self, finish):
        spec = finish(spec_of(x={'default': 1}, y={'required': False}))
        assert spec.complete_inputs({'x': UNSPECIFIED, 'y': UNSPECIFIED}) == {'x': 1}

    def test_none_for_an_optional_port(self, finish):
        spec = finish(spec_of(x={'valid_type': int, 'required': False}, y={'required': False}))
        assert spec.complete_inputs({'x': None, 'y': None}) == {'x': None, 'y': None}
        assert spec.complete_inputs({}) == {}

    def test_a_validators_exception_is_the_errors_cause(self, finish):
        def check(value):
            raise LookupError('no such element')

        spec = finish(spec_of(x={'validator': check}))
        with pytest.raises(ValidationError, match='check raised LookupError: no such element') as caught:
            spec.complete_inputs({'x': 1})
        assert isinstance(caught.value.__cause__, LookupError)

    def test_a_validator_of_all_inputs(self, finish):
        def one_of(values, port):
            return None if ('a' in values) != ('b' in values) else 'give either a or b'

        spec = spec_of(a={'required': False}, b={'required': False})
        spec.inputs.validator = one_of
        finish(spec)
        assert spec.complete_inputs({'a': 1}) == {'a': 1}
        assert spec.complete_inputs({'b': 1}) == {'b': 1}
        for wrong in ({}, {'a': 1, 'b': 1}):
            assert message_of(spec.complete_inputs, wrong) == 'AddMany: inputs: give either a or b'

    def test_a_validator_cannot_change_the_inputs(self, finish):
        spec = spec_of(a={})
        spec.inputs.validator = lambda values: values.clear()
        assert finish(spec).complete_inputs({'a': 1}) == {'a': 1}

    def test_a_validator_sees_a_default_too(self, finish):
        def check(value, port):
            return None if value.get('key') == 'value' else 'wrong'

        spec = finish(spec_of(d={'default': {'key': 'value'}, 'validator': check}))
        assert spec.complete_inputs({}) == {'d': {'key': 'value'}}
        assert spec.complete_inputs({'d': {'key': 'value'}}) == {'d': {'key': 'value'}}
        message_of(spec.complete_inputs, {'d': {}})


class TestDefaults:
    @pytest.mark.parametrize('default', [True, False, 0, 1, '', None, 0.0, ()])
    def test_any_value_can_be_a_default(self, finish, default):
        completed = finish(spec_of(x={'default': default})).complete_inputs({})
        assert completed == {'x': default}
        assert type(completed['x']) is type(default)

    def test_a_given_value_wins(self, finish):
        spec = finish(spec_of(x={'default': 5, 'required': False}))
        assert spec.complete_inputs({'x': 2}) == {'x': 2}
        assert spec.complete_inputs({'x': None}) == {'x': None}

    def test_a_mutable_default_is_nobodys_in_common(self, finish):
        default = {'a': [1]}
        spec = finish(spec_of(x={'default': default}))
        first = spec.complete_inputs({})['x']
        first['a'].append(2)
        assert spec.complete_inputs({})['x'] == {'a': [1]}
        assert default == {'a': [1]}

    def test_a_callable_default_is_called_for_each_process(self, finish):
        calls = []
        spec = finish(spec_of(x={'default': lambda: calls.append(1) or len(calls), 'valid_type': int}))
        assert [spec.complete_inputs({})['x'] for _ in range(2)] == [1, 2]
        assert spec.complete_inputs({'x': 9}) == {'x': 9}
        assert len(calls) == 2

    def test_what_a_callable_default_makes_is_checked(self, finish):
        spec = finish(spec_of(x={'default': lambda: 'text', 'valid_type': int}))
        assert "inputs.x: expected int, got str 'text'" in message_of(spec.complete_inputs, {})

    def test_a_callable_default_that_raises(self, finish):
        def make():
            raise OSError('no file')

        spec = finish(spec_of(x={'default': make}))
        assert 'inputs.x: its default' in message_of(spec.complete_inputs, {})
        assert 'make raised OSError: no file' in message_of(spec.complete_inputs, {})

    def test_a_callable_value_is_not_called(self, finish):
        spec = finish(spec_of(x={'default': lambda: 5, 'valid_type': (types.FunctionType, int)}))

        def given():
            raise RuntimeError

        assert spec.complete_inputs({'x': given}) == {'x': given}


class TestNamespaces:
    def test_an_optional_namespace_is_absent_unless_given(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('options', required=False, valid_type=int)
        finish(spec)
        assert spec.complete_inputs({}) == {}
        assert spec.complete_inputs({'options': None}) == {}
        assert spec.complete_inputs({'options': {}}) == {'options': {}}
        assert spec.complete_inputs({'options': {'a': 1}}) == {'options': {'a': 1}}

    def test_a_default_inside_brings_an_optional_namespace_to_life(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('options', required=False)
        spec.input('options.sub', default=True)
        assert finish(spec).complete_inputs({}) == {'options': {'sub': True}}

    def test_a_lazy_namespace_stays_out_unless_given(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('lazy', populate_defaults=False, required=False)
        spec.input('lazy.with_default', default=1, valid_type=int)
        spec.input('lazy.without', valid_type=int)
        finish(spec)
        assert spec.complete_inputs({}) == {}
        assert spec.complete_inputs({'lazy': {'without': 2}}) == {'lazy': {'with_default': 1, 'without': 2}}
        assert 'inputs.lazy.without: required' in message_of(spec.complete_inputs, {'lazy': {}})

    def test_defaults_are_filled_in_next_to_what_is_required(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('normal', required=False)
        spec.input('normal.with_default', default=1)
        spec.input('normal.without')
        message = message_of(finish(spec).complete_inputs, {})
        assert 'inputs.normal.without: required' in message
        assert 'populate_defaults=False' in message

    def test_a_lazy_namespace_that_is_required_still_needs_its_ports(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('lazy', populate_defaults=False)
        spec.input('lazy.without')
        assert 'inputs.lazy.without: required' in message_of(finish(spec).complete_inputs, {})

    def test_nothing_in_an_optional_namespace_is_required_when_nothing_is_given(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('outer', required=False)
        spec.input('outer.a')
        spec.input('outer.inner.b')
        finish(spec)
        assert spec.complete_inputs({}) == {'outer': {'inner': {}}}
        for given in ({'outer': {'a': 1}}, {'outer': {'inner': {'b': 1}}}):
            assert 'required' in message_of(spec.complete_inputs, given)
        assert spec.complete_inputs({'outer': {'a': 1, 'inner': {'b': 1}}})['outer']['inner'] == {'b': 1}

    def test_a_default_elsewhere_makes_an_inner_required_port_count(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('outer', required=False)
        spec.input('outer.inner.b')
        spec.input('outer.z', default=1)
        assert 'inputs.outer.inner.b: required' in message_of(finish(spec).complete_inputs, {})

    def test_what_is_no_mapping_for_a_namespace(self, finish):
        spec = ProcessSpec()
        spec.input('options.a', required=False)
        finish(spec)
        for value in (0, [], 'text', None):
            assert 'inputs.options: expected a mapping' in message_of(
                spec.complete_inputs, {'options': value}
            )

    @pytest.mark.parametrize('default', [{'a': [1]}, lambda: {'a': [1]}])
    def test_a_namespace_has_a_default_of_its_own(self, finish, default):
        spec = ProcessSpec()
        spec.input_namespace('options', default=default, dynamic=True)
        spec.input('options.b', default=2)
        finish(spec)
        spec.complete_inputs({})['options']['a'].append(2)
        assert spec.complete_inputs({}) == {'options': {'a': [1], 'b': 2}}
        assert spec.complete_inputs({'options': {'c': 3}}) == {'options': {'c': 3, 'b': 2}}

    def test_a_namespace_default_that_raises(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('options', default=lambda: 1 / 0)
        assert 'inputs.options: its default' in message_of(finish(spec).complete_inputs, {})

    def test_dynamic_inputs(self, finish):
        closed, opened = ProcessSpec(), ProcessSpec()
        opened.inputs.dynamic = True
        message_of(finish(closed).complete_inputs, {'a': 5})
        assert finish(opened).complete_inputs({'a': 5}) == {'a': 5}

    def test_a_dynamic_namespace_of_one_type(self, finish):
        spec = ProcessSpec()
        spec.input_namespace('name.space')
        spec.inputs['name']['space'].dynamic = True
        spec.inputs['name']['space'].valid_type = int
        finish(spec)
        given = {'name': {'space': {str(n): n for n in range(4)}}}
        assert spec.complete_inputs(given) == given
        assert 'inputs.name.space.x.y: expected int' in message_of(
            spec.complete_inputs, {'name': {'space': {'x': {'y': 'z'}}}}
        )

    def test_mappings_in_a_dynamic_namespace_are_copied(self, finish):
        spec = ProcessSpec()
        spec.inputs.dynamic = True
        spec.input('declared', required=False)
        finish(spec)
        inner = {'b': 1}
        ordered = OrderedDict(z=1)
        completed = spec.complete_inputs({'a': inner, 'v': types.MappingProxyType(inner), 'o': ordered})
        assert completed == {'a': {'b': 1}, 'v': {'b': 1}, 'o': {'z': 1}}
        assert completed['a'] is not inner
        assert type(completed['v']) is dict
        assert completed['o'] is ordered, 'a subclass of dict is a value'

    @pytest.mark.parametrize('name', [3, '', None])
    def test_a_dynamic_name_is_text(self, finish, name):
        spec = ProcessSpec()
        spec.inputs.dynamic = True
        assert 'name of a port must be a str' in message_of(finish(spec).complete_inputs, {name: 1})

    def test_the_validator_of_a_nested_namespace(self, finish):
        def check(values, port):
            assert port.name == 'options'
            return 'needs a' if 'a' not in values else None

        spec = ProcessSpec(label='P')
        spec.input_namespace('options', dynamic=True, validator=check)
        finish(spec)
        assert message_of(spec.complete_inputs, {}) == 'P: inputs.options: needs a'
        assert spec.complete_inputs({'options': {'a': 1}}) == {'options': {'a': 1}}

    def test_deep_nesting(self, finish):
        spec = ProcessSpec()
        path = '.'.join(f'n{i}' for i in range(60))
        spec.input(f'{path}.leaf', default=7)
        value = finish(spec).complete_inputs({})
        for part in [*path.split('.'), 'leaf']:
            value = value[part]
        assert value == 7


class TestOutputs:
    @pytest.fixture
    def spec(self, finish) -> ProcessSpec:
        spec = ProcessSpec(label='Relax')
        spec.output('total', valid_type=int)
        spec.output(
            'energies.final',
            valid_type=float,
            validator=lambda value: 'must be negative' if value > 0 else None,
        )
        spec.output('note', required=False)
        spec.output_namespace('integers', valid_type=int)
        return finish(spec)

    def test_what_is_declared_passes(self, spec):
        assert isinstance(spec.outputs['total'], OutputPort)
        for path, value in [
            ('total', 1), ('energies.final', -1.5), ('energies', {'final': -1}), ('energies', {}),
            ('integers.a', 1), ('integers.nested.b', 2), ('integers', {'a': {'b': 1}}),
        ]:  # fmt: skip
            spec.check_output(path, value)

    @pytest.mark.parametrize(
        ('path', 'value', 'message'),
        [
            ('totl', 1, "Relax: outputs.totl: there is no such port; did you mean 'total'?"),
            ('total', 'x', "Relax: outputs.total: expected int, got str 'x'"),
            ('total', None, 'Relax: outputs.total: expected int, got None'),
            ('total.sub', 1, "Relax: outputs.total: this is a port and no namespace, so it has no 'sub'"),
            ('energies.final', 1.0, 'Relax: outputs.energies.final: must be negative'),
            ('energies.other', 1.0, 'Relax: outputs.energies.other: there is no such port; there is final'),
            ('energies', 5, 'Relax: outputs.energies: expected a mapping'),
            ('energies', {'final': 'x'}, 'Relax: outputs.energies.final: expected float'),
            ('integers.nested.b', 'x', 'Relax: outputs.integers.nested.b: expected int'),
            ('integers..b', 1, 'a part of it is empty'),
            ('', 1, 'must be a str'),
            (5, 1, 'must be a str'),
        ],
    )
    def test_what_is_not_declared_or_wrong_is_refused_at_the_call(self, spec, path, value, message):
        assert message in message_of(spec.check_output, path, value)

    def test_a_check_changes_nothing(self, spec):
        spec.check_output('integers.nested.b', 2)
        assert len(spec.outputs['integers']) == 0

    def test_missing_outputs_are_listed(self, spec):
        assert spec.missing_outputs({}) == ['total', 'energies.final']
        assert spec.missing_outputs({'total': 1, 'energies': {}}) == ['energies.final']
        assert spec.missing_outputs({'total': 1, 'energies': {'final': -1.0}}) == []

    def test_the_whole_is_checked_at_the_end(self, spec):
        good = {'total': 1, 'energies': {'final': -1.0}, 'integers': {'nested': {'one': 1, 'two': 2}}}
        assert spec.check_outputs(good) is None
        message = spec.check_outputs({'total': 'x', 'more': 1})
        assert message is not None
        assert message.split('\n  ') == [
            'Relax: 3 problems with its outputs:',
            "outputs.total: expected int, got str 'x'; convert the text before passing it",
            'outputs.more: there is no such port; there is energies, integers, note, total',
            'outputs.energies.final: required, but not given; expected float',
        ]

    def test_a_validator_of_all_outputs(self, finish):
        spec = ProcessSpec(label='P')
        spec.outputs.dynamic = True
        spec.outputs.validator = lambda values: None if len(values) == 2 else f'{len(values)} outputs'
        finish(spec)
        assert spec.check_outputs({'a': 1, 'b': 2}) is None
        assert spec.check_outputs({'a': 1}) == 'P: outputs: 1 outputs'

    def test_dynamic_outputs_of_one_type(self, finish):
        class Word(str):
            pass

        spec = ProcessSpec()
        spec.outputs.dynamic = True
        spec.outputs.valid_type = str
        finish(spec)
        spec.check_output('dummy', 'foo')
        spec.check_output('dummy', Word('bar'))
        message_of(spec.check_output, 'dummy', 5)
        assert spec.check_outputs({'dummy': 5})

    def test_an_optional_output_namespace_needs_nothing_until_it_is_used(self, finish):
        spec = ProcessSpec()
        spec.output_namespace('extra', required=False)
        spec.output('extra.a')
        spec.output('extra.b')
        finish(spec)
        assert spec.missing_outputs({}) == []
        assert spec.missing_outputs({'extra': {'a': 1}}) == ['extra.b']


class TestDefinition:
    def test_a_later_definition_replaces_an_earlier_one(self):
        spec = spec_of(x={'valid_type': int})
        spec.input('x', valid_type=str, default='a')
        assert spec.complete_inputs({}) == {'x': 'a'}

    @pytest.mark.parametrize('name', ['metadata', 'metadata.label'])
    def test_metadata_is_the_engines(self, name):
        for declare in (ProcessSpec(label='P').input, ProcessSpec(label='P').input_namespace):
            with pytest.raises(SpecError, match="P: no input can be called 'metadata'"):
                declare(name)

    def test_metadata_elsewhere_is_a_name_as_any_other(self):
        spec = ProcessSpec()
        spec.input('options.metadata')
        spec.output('metadata')

    def test_a_port_in_the_way(self):
        spec = spec_of(x={})
        with pytest.raises(SpecError, match=r"AddMany: input 'x\.y': 'x' in 'inputs' is a port"):
            spec.input('x.y')

    def test_an_unknown_option_names_the_port(self):
        with pytest.raises(SpecError, match=r"AddMany: output 'y': .*requird"):
            spec_of().output('y', requird=False)

    @pytest.mark.parametrize('name', ['', 5, 'a..b', '.a', 'a b'])
    def test_names_that_are_none(self, name):
        with pytest.raises(SpecError, match=r'name|path'):
            ProcessSpec().input(name)

    def test_a_sealed_spec_refuses_everything(self):
        spec = spec_of(x={'default': 1})
        spec.seal()
        spec.seal()
        assert spec.sealed
        for change in (
            lambda: spec.input('y'),
            lambda: spec.output('y'),
            lambda: spec.input_namespace('y'),
            lambda: spec.output_namespace('y'),
            lambda: spec.exit_code(400, 'ERROR_X', 'x'),
            lambda: spec.outline(lambda self: None),
            lambda: setattr(spec.inputs, 'dynamic', True),
            lambda: setattr(spec.outputs, 'valid_type', int),
            lambda: setattr(spec.inputs['x'], 'default', 2),
        ):
            with pytest.raises(SpecError, match='sealed'):
                change()

    def test_the_label_is_the_classs_name_unless_given(self):
        class Relax:
            pass

        assert ProcessSpec(process_class=Relax).label == 'Relax'
        assert ProcessSpec(process_class=Relax, label='Other').label == 'Other'

    def test_a_description_is_json(self):
        class Relax:
            def start(self): ...

        spec = ProcessSpec(process_class=Relax)
        spec.input('a.b', valid_type=int, default=1)
        spec.output('y')
        spec.exit_code(410, 'ERROR_X', 'x')
        spec.outline(Relax.start)
        described = json.loads(json.dumps(spec.describe()))
        assert described['label'] == 'Relax'
        assert described['inputs']['ports']['a']['ports']['b']['default'] == 1
        assert described['outputs']['ports']['y']['required'] is True
        assert described['exit_codes']['ERROR_X'] == {
            'status': 410,
            'message': 'x',
            'invalidates_cache': False,
        }
        assert described['outline'] == ['start']
        assert ProcessSpec().describe()['outline'] is None
