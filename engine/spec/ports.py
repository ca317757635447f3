"""Ports: what a process takes and gives, one by one and in nested namespaces.

The names are those of plumpy and ``aiida.engine``. Ports describe; the work of filling in defaults and
checking values is done by what they compile to (:mod:`.plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Self

from ..errors import SpecError
from .checks import UNSPECIFIED, Problem, Validator, default_factory, is_name, show
from .plan import Leaf, Plan, described
from .types import TypeCheck

__all__ = ['UNSPECIFIED', 'InputPort', 'OutputPort', 'Port', 'PortNamespace']

SEPARATOR = '.'

#: JSON can hold these as they are.
_PLAIN = (str, int, float, bool, type(None))


class Port:
    """One value that a process takes or gives.

    :param name: a Python identifier that does not begin with an underscore.
    :param valid_type: a type, a tuple of types or a union; ``None`` stands for any value. See
        :class:`~treadle.engine.spec.types.TypeCheck` for the rules.
    :param help: what the value is, for people.
    :param required: whether the value must be given.
    :param validator: ``validator(value, port)`` or ``validator(value)``; returns ``None`` when the value
        is fine, else a message. It is asked after the type has been checked.
    :raises SpecError: one of these is not what it must be.
    """

    is_namespace = False

    def __init__(
        self,
        name: str,
        *,
        valid_type: Any = None,
        help: str | None = None,
        required: bool = True,
        validator: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise SpecError(f'the name of a port must be a str, not {described(name)}')
        if help is not None and not isinstance(help, str):
            raise SpecError(f'port {name!r}: help must be a str, not {described(help)}')
        self._sealed = False
        self._type_check: TypeCheck | None = None
        self.name = name
        self.help = None if help is None else help.strip()
        self.required = bool(required)
        #: A default makes a value optional; only input ports and namespaces have one.
        self.default: Any = UNSPECIFIED
        self.valid_type = valid_type
        self.validator = validator

    def __setattr__(self, attribute: str, value: Any) -> None:
        if attribute != '_sealed' and getattr(self, '_sealed', False):
            raise SpecError(
                f'cannot set {attribute} of port {self.name!r}: its spec is sealed; change it in define()'
            )
        super().__setattr__(attribute, value)

    @property
    def valid_type(self) -> Any:
        """What was given as the valid type, or ``None``."""
        return self._valid_type

    @valid_type.setter
    def valid_type(self, valid_type: Any) -> None:
        try:
            self._type_check = None if valid_type is None else TypeCheck(valid_type)
        except SpecError as exc:
            raise SpecError(f'port {self.name!r}: {exc}') from exc.__cause__
        self._valid_type = valid_type

    @property
    def type_check(self) -> TypeCheck | None:
        """The valid type made ready."""
        return self._type_check

    @property
    def validator(self) -> Callable[..., Any] | None:
        """The validator, or ``None``."""
        return self._validator

    @validator.setter
    def validator(self, validator: Callable[..., Any] | None) -> None:
        if validator is not None:
            if not callable(validator):
                raise SpecError(
                    f'port {self.name!r}: the validator is {described(validator)} and not callable'
                )
            Validator(validator, self)
        self._validator = validator

    def has_default(self) -> bool:
        """Whether there is a default."""
        return self.default is not UNSPECIFIED

    def validate(self, value: Any = UNSPECIFIED) -> list[Problem]:
        """What is wrong with a value; an empty list when nothing is. Defaults are not filled in."""
        leaf = Leaf(self)
        if value is UNSPECIFIED:
            return [leaf.missing(self.name)] if self.required else []
        problems: list[Problem] = []
        leaf.check(value, self.name, problems)
        return problems

    def compiled(self) -> Leaf | Plan:
        """What this port is when values are checked."""
        return Leaf(self)

    def copy(self) -> Self:
        """An independent, unsealed port like this one."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _sealed=False)
        return twin

    def seal(self) -> None:
        """Refuse changes from now on."""
        self._sealed = True

    def describe(self) -> dict[str, Any]:
        """The port as data that JSON can hold; a default that it cannot hold is shown by its ``repr``."""
        described: dict[str, Any] = {'name': self.name, 'required': self.required}
        if self._type_check is not None:
            described['valid_type'] = self._type_check.text
        if self.help:
            described['help'] = self.help
        if self.has_default():
            plain = isinstance(self.default, _PLAIN)
            described['default'] = self.default if plain else show(self.default)
        return described

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r}>'


class InputPort(Port):
    """A value that a process takes.

    :param default: the value when none is given, or a callable without parameters that makes it anew
        for each process. A mutable value is copied for each process. A port with a default is not required.

    A port that is explicitly optional (``required=False``) also takes ``None``, as in aiida.

    :raises SpecError: also when the default is no valid value.
    """

    def __init__(
        self,
        name: str,
        *,
        valid_type: Any = None,
        help: str | None = None,
        default: Any = UNSPECIFIED,
        required: bool = True,
        validator: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(name, valid_type=valid_type, help=help, required=required, validator=validator)
        self._takes_none = not required
        self.required = self.required and default is UNSPECIFIED
        self.default = default
        if default is UNSPECIFIED:
            return
        default_factory(default, name)
        # What a callable makes is checked when a process uses it: making it may be costly or impure.
        problems = [] if callable(default) else self.validate(default)
        if problems:
            raise SpecError(f'port {name!r}: the default is not valid: {problems[0].message}')

    @property
    def type_check(self) -> TypeCheck | None:
        """The valid type made ready."""
        if self._type_check is not None and self._takes_none:
            return self._type_check.with_none()
        return self._type_check


class OutputPort(Port):
    """A value that a process gives."""


class PortNamespace(Port, MutableMapping[str, Port]):
    """Ports by name, which may be namespaces again.

    :param valid_type: what values without a port of their own must be; setting it makes the namespace
        dynamic. They may be nested in mappings.
    :param required: an optional namespace in which nothing has a value is not checked further.
    :param validator: is given the mapping of this namespace's values, defaults filled in.
    :param default: the mapping, or a callable that makes it, when the namespace is not given.
    :param dynamic: whether values are accepted that have no port.
    :param populate_defaults: fill in the defaults of the ports also when the namespace is not given.
    :param lazy: another way to say ``populate_defaults=False``.
    """

    is_namespace = True

    def __init__(
        self,
        name: str = '',
        *,
        help: str | None = None,
        required: bool = True,
        validator: Callable[..., Any] | None = None,
        valid_type: Any = None,
        default: Any = UNSPECIFIED,
        dynamic: bool = False,
        populate_defaults: bool = True,
        lazy: bool = False,
    ) -> None:
        self._ports: dict[str, Port] = {}
        self.dynamic = bool(dynamic)
        super().__init__(name, valid_type=valid_type, help=help, required=required, validator=validator)
        self.populate_defaults = bool(populate_defaults) and not lazy
        self.default = default
        if default is UNSPECIFIED:
            return
        default_factory(default, name)
        if not callable(default) and not isinstance(default, Mapping):
            raise SpecError(f'namespace {name!r}: the default must be a mapping, not {described(default)}')

    @property
    def valid_type(self) -> Any:
        """What values without a port must be, or ``None``. Setting it makes the namespace dynamic."""
        return self._valid_type

    @valid_type.setter
    def valid_type(self, valid_type: Any) -> None:
        Port.valid_type.__set__(self, valid_type)  # type: ignore[attr-defined]
        if valid_type is not None:
            self.dynamic = True

    @property
    def lazy(self) -> bool:
        """Whether the defaults are left out when the namespace is not given."""
        return not self.populate_defaults

    @property
    def ports(self) -> Mapping[str, Port]:
        """The ports by name."""
        return self._ports

    def __getitem__(self, name: str) -> Port:
        return self._ports[name]

    def __setitem__(self, name: str, port: Port) -> None:
        if not isinstance(port, Port):
            raise SpecError(f'{name!r} in namespace {self.name!r} must be a port, not {described(port)}')
        self._refuse_if_sealed()
        if not is_name(name) or not name.isidentifier() or name.startswith('_'):
            raise SpecError(
                f'{name!r} cannot be the name of a port: it must be a Python identifier that does not begin '
                'with an underscore'
            )
        self._ports[name] = port

    def __delitem__(self, name: str) -> None:
        self._refuse_if_sealed()
        del self._ports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ports)

    def __len__(self) -> int:
        return len(self._ports)

    # A namespace is its own identity, and true even while it has no ports.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __bool__(self) -> bool:
        return True

    def get_port(self, name: str) -> Port:
        """The port or namespace at a dotted path.

        :raises SpecError: there is none.
        """
        port: Port = self
        for part in _parts(name):
            if not isinstance(port, PortNamespace) or part not in port:
                raise SpecError(f'there is no port {part!r} in {port.name!r}, so none at {name!r}')
            port = port[part]
        return port

    def create_port_namespace(self, name: str, **kwargs: Any) -> PortNamespace:
        """The namespace at a dotted path, made where it does not exist, and those above it too.

        :param kwargs: what the constructor takes, for the last one only if it is made.
        :raises SpecError: a port that is no namespace stands in the way.
        """
        namespace = self
        *above, last = _parts(name)
        for part in above:
            namespace = namespace._inner(part, {})
        return namespace._inner(last, kwargs)

    def _inner(self, name: str, kwargs: dict[str, Any]) -> PortNamespace:
        if name not in self._ports:
            self[name] = PortNamespace(name, **kwargs)
        port = self._ports[name]
        if not isinstance(port, PortNamespace):
            raise SpecError(
                f'{name!r} in {self.name!r} is a port and cannot hold others; choose another name'
            )
        return port

    def validate(self, value: Any = UNSPECIFIED) -> list[Problem]:
        """What is wrong with a mapping of values; an empty list when nothing is.

        Ports that have a default are optional; defaults are not filled in.
        """
        problems: list[Problem] = []
        missing: list[Problem] = []
        self.compiled().complete_at(value, self.name, problems, missing, active=True, fill=False)
        return problems + missing

    def compiled(self) -> Plan:
        """What this namespace is when values are checked."""
        return Plan(self)

    def copy(self) -> Self:
        """An independent, unsealed namespace like this one, with copies of all its ports."""
        twin = super().copy()
        twin._ports = {name: port.copy() for name, port in self._ports.items()}
        return twin

    def seal(self) -> None:
        """Refuse changes from now on, here and in all ports."""
        for port in self._ports.values():
            port.seal()
        super().seal()

    def describe(self) -> dict[str, Any]:
        """The namespace as data that JSON can hold, its ports under ``ports``."""
        described = super().describe()
        described['dynamic'] = self.dynamic
        described['populate_defaults'] = self.populate_defaults
        described['ports'] = {name: port.describe() for name, port in self._ports.items()}
        return described

    def _refuse_if_sealed(self) -> None:
        if self._sealed:
            raise SpecError(
                f'cannot change namespace {self.name!r}: its spec is sealed; change it in define()'
            )

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r}: {", ".join(self._ports) or "no ports"}>'


def _parts(name: str) -> list[str]:
    if not is_name(name):
        raise SpecError(f'the path of a port must be a str such as "options.basis", not {name!r}')
    return name.split(SEPARATOR)
