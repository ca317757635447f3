"""Ports and namespaces, one by one."""

from __future__ import annotations

import json
import threading

import pytest

from treadle.engine.errors import SpecError
from treadle.engine.spec import UNSPECIFIED, InputPort, OutputPort, Port, PortNamespace


def only(problems):
    (problem,) = problems
    return problem


class TestPort:
    def test_a_required_port_needs_a_value(self):
        port = Port('energy')
        assert only(port.validate(UNSPECIFIED)).message == 'required, but not given'
        assert port.validate(5) == []
        assert port.validate(None) == []

    def test_the_type_is_checked(self):
        port = Port('energy', valid_type=int)
        assert port.validate(5) == []
        assert str(only(port.validate('a'))).startswith("energy: expected int, got str 'a'")

    def test_a_validator_may_take_the_port(self):
        seen = []

        def positive(value, port):
            seen.append(port)
            return None if value > 0 else f'{port.name} must be positive'

        port = Port('n', validator=positive)
        assert port.validate(5) == []
        assert only(port.validate(-5)).message == 'n must be positive'
        assert seen == [port, port]

    def test_a_validator_may_take_the_value_alone(self):
        def positive(value, strict=False):
            assert strict is False
            return None if value > 0 else 'must be positive'

        assert only(Port('n', validator=positive).validate(-1)).message == 'must be positive'

    def test_a_bound_method_and_a_variadic_function_are_validators(self):
        class Checks:
            def positive(self, value, port):
                return None if value > 0 else 'must be positive'

        def anything(*args):
            return f'{len(args)} arguments'

        assert Port('n', validator=Checks().positive).validate(-1)
        assert only(Port('n', validator=anything).validate(1)).message == '2 arguments'

    def test_a_validator_is_not_asked_about_what_is_not_there_or_of_a_wrong_type(self):
        def fail(value, port):
            raise RuntimeError

        assert Port('n', validator=fail, required=False).validate(UNSPECIFIED) == []
        assert 'expected int' in only(Port('n', validator=fail, valid_type=int).validate('a')).message

    def test_a_validator_that_raises_is_a_problem_that_names_it(self):
        def check_n(value, port):
            return 1 / value

        problem = only(Port('n', validator=check_n).validate(0))
        assert 'check_n raised ZeroDivisionError: division by zero' in problem.message
        assert isinstance(problem.cause, ZeroDivisionError)

    @pytest.mark.parametrize('verdict', [True, False, 3, ['no']])
    def test_a_validator_that_returns_neither_none_nor_a_message(self, verdict):
        def check_n(value):
            return verdict

        assert 'must return None' in only(Port('n', validator=check_n).validate(0)).message

    def test_an_empty_message_is_a_refusal_too(self):
        assert 'no reason' in only(Port('n', validator=lambda value: '').validate(0)).message

    @pytest.mark.parametrize(
        'validator', [lambda: None, lambda a, b, c: None, lambda value, *, strict: None, 'not callable']
    )
    def test_a_validator_that_cannot_be_called_is_refused(self, validator):
        with pytest.raises(SpecError, match="'n': the validator"):
            Port('n', validator=validator)

    def test_what_is_no_type_is_refused_with_the_ports_name(self):
        with pytest.raises(SpecError, match="'n': valid_type 'int' is no type"):
            Port('n', valid_type='int')

    def test_names_and_help_are_text(self):
        with pytest.raises(SpecError, match='int 5'):
            Port(5)
        with pytest.raises(SpecError, match='help'):
            Port('n', help=5)

    def test_a_value_whose_repr_fails_or_floods_does_not_spoil_the_message(self):
        class Broken:
            def __repr__(self):
                raise RuntimeError

        assert 'Broken' in only(Port('n', valid_type=int).validate(Broken())).message
        assert len(only(Port('n', valid_type=int).validate('x' * 10_000)).message) < 200


class TestInputPort:
    def test_a_default_makes_a_port_optional(self):
        port = InputPort('n', default=5)
        assert port.default == 5
        assert port.has_default()
        assert not port.required
        assert port.validate(UNSPECIFIED) == []

    def test_no_default(self):
        port = InputPort('n')
        assert port.default is UNSPECIFIED
        assert not port.has_default()
        assert not UNSPECIFIED

    def test_a_default_is_checked_at_definition(self):
        with pytest.raises(SpecError, match="'n': the default is not valid: expected str, got int 4"):
            InputPort('n', default=4, valid_type=str)
        with pytest.raises(SpecError, match='too small'):
            InputPort('n', default=4, validator=lambda value: 'too small')

    def test_a_callable_default_is_not_called_at_definition(self):
        def fail():
            raise RuntimeError

        InputPort('n', default=fail, valid_type=int)
        assert InputPort('n', default=lambda: 5).validate(UNSPECIFIED) == []

    def test_a_default_that_cannot_be_copied_is_refused(self):
        with pytest.raises(SpecError, match='cannot be copied'):
            InputPort('n', default=[threading.Lock()])

    def test_an_optional_port_takes_none(self):
        port = InputPort('n', valid_type=int, required=False)
        assert port.validate(None) == []
        assert port.validate(True)
        assert InputPort('n', valid_type=int, required=False, default=None).default is None

    def test_a_default_alone_does_not_make_none_valid(self):
        assert InputPort('n', valid_type=int, default=5).validate(None)
        with pytest.raises(SpecError, match='default'):
            InputPort('n', valid_type=int, default=None)

    def test_unknown_options_are_refused(self):
        with pytest.raises(TypeError, match='requird'):
            InputPort('n', requird=False)


def test_an_output_port_keeps_its_properties():
    def check(value, port):
        return None

    port = OutputPort('y', valid_type=int, help=' the sum ', required=False, validator=check)
    assert (port.name, port.valid_type, port.help, port.required, port.validator) == (
        'y', int, 'the sum', False, check,
    )  # fmt: skip
    assert port.validate(None), 'only inputs take None for being optional'


class TestPortNamespace:
    def test_an_empty_namespace(self):
        namespace = PortNamespace('options')
        assert namespace.name == 'options'
        assert len(namespace) == 0
        assert namespace, 'a namespace is true whatever it holds'
        with pytest.raises(SpecError, match='must be a port'):
            namespace['n'] = 5
        with pytest.raises(KeyError):
            namespace['n']

    def test_a_valid_type_makes_it_dynamic_and_taking_it_away_does_not_undo_that(self):
        assert PortNamespace(dynamic=True).valid_type is None
        assert PortNamespace(valid_type=int, dynamic=False).dynamic
        namespace = PortNamespace()
        assert not namespace.dynamic
        namespace.valid_type = (str, int)
        assert namespace.dynamic
        assert namespace.valid_type == (str, int)
        namespace.valid_type = None
        assert namespace.dynamic

    @pytest.mark.parametrize('name', ['_private', 'a.b', 'a b', 'a-b', '1a', '', 'a%', 5, 'smile🙂'])
    def test_names_that_no_port_can_have(self, name):
        with pytest.raises(SpecError, match='name of a port'):
            PortNamespace()[name] = InputPort('n')

    @pytest.mark.parametrize('name', ['lambda_', 'two__underscores', 'µ', 'x1'])
    def test_names_that_a_parameter_can_have_too(self, name):
        PortNamespace()[name] = InputPort(name)

    def test_get_port_follows_a_path(self):
        root = PortNamespace('inputs')
        with pytest.raises(SpecError, match='path'):
            root.get_port(5)
        with pytest.raises(SpecError, match="'sub'"):
            root.get_port('sub')
        sub = root.create_port_namespace('sub')
        assert root.get_port('sub') is sub
        with pytest.raises(SpecError, match="'name'"):
            root.get_port('sub.name.space')
        space = root.create_port_namespace('sub.name.space')
        space['n'] = InputPort('n')
        assert root.get_port('sub.name.space.n') is space['n']
        with pytest.raises(SpecError, match="'further'"):
            root.get_port('sub.name.space.n.further')

    def test_create_port_namespace_keeps_what_is_there(self):
        root = PortNamespace('inputs')
        for wrong in (5, ''):
            with pytest.raises(SpecError, match='path'):
                root.create_port_namespace(wrong)
        sub = root.create_port_namespace('sub', dynamic=True)
        nested = root.create_port_namespace('sub.nested.space', help='deep')
        assert root['sub'] is sub
        assert sub.dynamic
        assert nested.help == 'deep'
        assert root.get_port('sub.nested').help is None
        nested['n'] = InputPort('n')
        with pytest.raises(SpecError, match='cannot hold others'):
            root.create_port_namespace('sub.nested.space.n.further')

    def test_a_dynamic_namespace_takes_nested_values_of_its_type(self):
        root = PortNamespace('port')
        root.create_port_namespace('sub.space').valid_type = int
        assert 'expected a mapping' in only(root.validate(5)).message
        assert root.validate({'sub': {'space': {'output': 5}}}) == []
        assert root.validate({'sub': {'space': {'output': {'deeper': 5}}}}) == []
        assert only(root.validate({'sub': {'space': {'output': '5'}}})).path == 'port.sub.space.output'
        assert only(root.validate({'sub': {'space': {'a': {'b': '5'}}}})).path == 'port.sub.space.a.b'

    def test_a_dynamic_namespace_of_dicts_takes_dicts_as_values(self):
        namespace = PortNamespace('n', valid_type=dict)
        assert namespace.validate({'a': {'x': 1}}) == []

    def test_required_ports_in_a_namespace(self):
        root = PortNamespace('port')
        root.create_port_namespace('sub.space').valid_type = int
        root['needed'] = OutputPort('needed', valid_type=int)
        assert only(root.validate({})).path == 'port.needed'
        assert only(root.validate({'sub': {'space': {'output': 5}}})).path == 'port.needed'
        assert root.validate({'sub': {'space': {'output': 5}}, 'needed': 1}) == []
        assert root.validate({'needed': 1}) == []

    def test_the_validator_of_a_namespace_comes_after_its_ports(self):
        calls = []

        def positive(values, port):
            calls.append(values)
            assert isinstance(port, PortNamespace)
            return 'positive only' if min(values['explicit'], values['dynamic']) < 0 else None

        namespace = PortNamespace('port', valid_type=int, validator=positive)
        namespace['explicit'] = InputPort('explicit', valid_type=int)
        assert namespace.validate({'explicit': 1, 'dynamic': 5}) == []
        assert only(namespace.validate({'explicit': 1, 'dynamic': -5})) == ('port', 'positive only', None)
        assert len(calls) == 2
        assert only(namespace.validate({'dynamic': -5})).path == 'port.explicit'
        assert len(calls) == 2
        namespace.required = False
        assert namespace.validate() == []
        assert namespace.validate({}) == []
        assert len(calls) == 2

    def test_a_default_must_be_a_mapping(self):
        with pytest.raises(SpecError, match='mapping'):
            PortNamespace('n', default=5)

    def test_lazy_is_another_word(self):
        assert PortNamespace(lazy=True).populate_defaults is False
        assert PortNamespace(populate_defaults=False).lazy
        assert not PortNamespace().lazy

    def test_a_copy_is_independent(self):
        root = PortNamespace('inputs')
        root['n'] = InputPort('n', valid_type=int, default=[1][0])
        root.create_port_namespace('sub')['m'] = InputPort('m')
        root.seal()
        twin = root.copy()
        twin['n'].help = 'changed'
        twin['sub']['more'] = InputPort('more')
        twin.dynamic = True
        assert root['n'].help is None
        assert 'more' not in root['sub']
        assert not root.dynamic
        assert twin['n'].valid_type is int

    def test_a_sealed_namespace_cannot_be_changed(self):
        root = PortNamespace('inputs')
        root.create_port_namespace('sub')['m'] = InputPort('m')
        root.seal()
        with pytest.raises(SpecError, match='sealed'):
            root.dynamic = True
        with pytest.raises(SpecError, match='sealed'):
            root['n'] = InputPort('n')
        with pytest.raises(SpecError, match='sealed'):
            del root['sub']['m']
        with pytest.raises(SpecError, match="help of port 'm'"):
            root['sub']['m'].help = 'late'

    def test_a_description_is_json(self):
        root = PortNamespace('inputs', help='all')
        root['n'] = InputPort('n', valid_type=int | None, default=3, help='how many')
        root['made'] = InputPort('made', default=list)
        root.create_port_namespace('sub', valid_type=str)
        described = json.loads(json.dumps(root.describe()))
        assert described['help'] == 'all'
        assert described['ports']['n'] == {
            'name': 'n', 'required': False, 'valid_type': 'int or None', 'default': 3, 'help': 'how many',
        }  # fmt: skip
        assert described['ports']['made']['default'] == "<class 'list'>"
        assert described['ports']['sub']['dynamic'] is True
