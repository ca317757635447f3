"""``ProcessBuilder``: the inputs of a process to be, put together one by one and checked as they are set.

The vocabulary is that of ``aiida.engine``. A port's name takes precedence over the methods of mappings, so whatever a
builder has of its own begins with an underscore.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ValidationError
from ..spec import Port, PortNamespace, Problem
from ..spec.checks import UNSPECIFIED, default_factory, name_of, show
from ..spec.plan import Plan, copied, report
from ..spec.process_spec import METADATA
from .attributes import plain
from .metadata import metadata_ports

if TYPE_CHECKING:
    from .process import Process

__all__ = ['ProcessBuilder', 'ProcessBuilderNamespace', 'make_builder']


B = TypeVar('B', bound='ProcessBuilderNamespace')


class ProcessBuilderNamespace(MutableMapping[str, Any]):
    """The values for one namespace of ports, as attributes or as items.

    What is read is the value that was set, else the port's default, else ``None``. Deleting a value goes back to
    that. Namespaces are there from the beginning, and deleting one empties it.
    """

    def __init__(self, ports: PortNamespace, *, label: str, path: str) -> None:
        self._ports = ports
        self._label = label
        self._path = path
        self._data: dict[str, Any] = {}
        for name, port in ports.items():
            if isinstance(port, PortNamespace):
                self._data[name] = self._namespace(name, port)

    # -- as attributes -------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Asked for what is no port, so for a value of a dynamic namespace.
        if name.startswith('_'):
            raise AttributeError(name)
        if name in self._data:
            return self._data[name]
        raise AttributeError(f'{self._path} has no {name!r}; there is {self._names()}')

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith('_'):
            object.__setattr__(self, name, value)
            return
        if name not in self._ports and not self._ports.dynamic:
            raise AttributeError(f'{self._path} has no {name!r} to be set; there is {self._names()}')
        self._set(name, value)

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f'{self._path}.{name} is not set') from None

    def __dir__(self) -> list[str]:
        own = [name for name in super().__dir__() if name.startswith('_')]
        return sorted({*own, *self._ports, *(name for name in self._data if name.isidentifier())})

    # -- as items ------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._set(name, value)

    def __delitem__(self, name: str) -> None:
        port = self._ports.get(name)
        if isinstance(port, PortNamespace):
            self._data[name] = self._namespace(name, port)
        else:
            del self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping):
            return self._inputs() == _as_dict(other)
        return NotImplemented

    # -- as a whole ----------------------------------------------------------------------------------------

    def _update(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        """Set several values; within a namespace only the names that are given are replaced, each as a whole."""
        for name, value in _pairs(args, kwargs):
            inner = self._data.get(name)
            if isinstance(inner, ProcessBuilderNamespace) and isinstance(value, Mapping):
                for key, each in _as_dict(value).items():
                    inner[key] = each
            else:
                self[name] = value

    def _merge(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        """Set several values; what is not mentioned stays, however deeply namespaces and dictionaries nest."""
        for name, value in _pairs(args, kwargs):
            there = self._data.get(name)
            if isinstance(there, ProcessBuilderNamespace) and isinstance(value, Mapping):
                there._merge(_as_dict(value))
            else:
                self[name] = _merged(there, value)

    def _inputs(self, prune: bool = False) -> dict[str, Any]:
        """The values as nested dictionaries.

        :param prune: leave out namespaces in which nothing is set.
        """
        inputs: dict[str, Any] = {}
        for name, value in self._data.items():
            if isinstance(value, ProcessBuilderNamespace):
                inner = value._inputs(prune)
                if inner or not prune:
                    inputs[name] = inner
            else:
                inputs[name] = value
        return inputs

    def __repr__(self) -> str:
        return '\n'.join([f'{self._path}:', *self._lines('  ')])

    # -- helpers -------------------------------------------------------------------------------------------

    def _namespace(self, name: str, ports: PortNamespace) -> ProcessBuilderNamespace:
        made = _with_properties(ProcessBuilderNamespace, ports)
        return made(ports, label=self._label, path=f'{self._path}.{name}')

    def _read(self, name: str) -> Any:
        value = self._data.get(name, UNSPECIFIED)
        if value is not UNSPECIFIED:
            return value
        default = self._ports[name].default
        return None if default is UNSPECIFIED else default_factory(default, name)()

    def _set(self, name: str, value: Any) -> None:
        port = self._ports.get(name)
        value = plain(value)
        if isinstance(value, ProcessBuilderNamespace):
            value = value._inputs(prune=True)
        problems = _problems(self._ports, name, value, f'{self._path}.{name}')
        if problems:
            raise report(self._label, 'inputs', problems)
        if isinstance(port, PortNamespace):
            inner = self._namespace(name, port)
            inner._fill({} if value is None else value)
            value = inner
        self._data[name] = value

    def _fill(self, values: Mapping[str, Any]) -> None:
        """Take over values that have been checked."""
        for name, value in values.items():
            inner = self._data.get(name)
            if isinstance(inner, ProcessBuilderNamespace):
                inner._fill(_as_dict(value) if isinstance(value, Mapping) else {})
            else:
                self._data[name] = plain(value)

    def _names(self) -> str:
        return (
            ', '.join([*self._ports, *(name for name in self._data if name not in self._ports)]) or 'nothing'
        )

    def _lines(self, indent: str) -> list[str]:
        lines = []
        for name, port in self._ports.items():
            text = f'  # {" ".join(port.help.split())}' if port.help else ''
            inner = self._data.get(name)
            if isinstance(inner, ProcessBuilderNamespace):
                lines += [f'{indent}{name}:{text}', *inner._lines(indent + '  ')]
            else:
                lines.append(f'{indent}{name}{self._state(name, port)}{text}')
        lines += [
            f'{indent}{name} = {show(self._data[name])}' for name in self._data if name not in self._ports
        ]
        if self._ports.dynamic:
            lines.append(f'{indent}... and any other name')
        return lines

    def _state(self, name: str, port: Port) -> str:
        if name in self._data:
            return f' = {show(self._data[name])}'
        if port.has_default():
            made = f'{name_of(port.default)}()' if callable(port.default) else show(port.default)
            return f' = {made} (default)'
        kind = '' if port.type_check is None else f' {port.type_check.text},'
        return f':{kind} {"required" if port.required else "optional"}'


class ProcessBuilder(ProcessBuilderNamespace):
    """The inputs of a process to be, and its metadata; :func:`treadle.engine.run` and ``submit`` take it as it is.

    Made by ``SomeProcess.get_builder()``. Setting a value checks it: its type, its validator and, for a namespace as
    a whole, that nothing is missing. What is still missing altogether is found when the process is started.
    """

    def __init__(self, ports: PortNamespace, *, target: Any, label: str) -> None:
        self._target = target
        super().__init__(ports, label=label, path='inputs')

    def __getattr__(self, name: str) -> Any:
        if name == 'process_class':
            return self._process_class
        return super().__getattr__(name)

    @property
    def _process_class(self) -> type[Process]:
        """The class of the process; also readable as ``process_class`` where no port has that name."""
        target = self._target
        found: type[Process] = target if isinstance(target, type) else target.process_class
        return found

    def __repr__(self) -> str:
        return '\n'.join([f'builder of {self._label}:', *self._lines('  ')])


def make_builder(target: Any, ports: PortNamespace, label: str) -> ProcessBuilder:
    """A builder with nothing set.

    :param target: the process class or process function that it will start.
    """
    ports = ports.copy()
    ports[METADATA] = metadata_ports()
    return _with_properties(ProcessBuilder, ports)(ports, target=target, label=label)


def _with_properties(base: type[B], ports: PortNamespace) -> type[B]:
    """A class derived from ``base`` that has a property, with the port's help as documentation, for each port."""
    body = {name: _property(name, port) for name, port in ports.items()}
    made: type[B] = types.new_class(base.__name__, (base,), exec_body=lambda place: place.update(body))
    return made


def _property(name: str, port: Port) -> property:
    def get(self: ProcessBuilderNamespace) -> Any:
        return self._read(name)

    kind = '' if port.type_check is None else f'{port.type_check.text}: '
    return property(get, doc=f'{kind}{port.help or name}')


def _problems(ports: PortNamespace, name: str, value: Any, path: str) -> list[Problem]:
    """What is wrong with a value for a name in a namespace."""
    problems: list[Problem] = []
    missing: list[Problem] = []
    port = ports.get(name)
    if port is None:
        if not ports.dynamic:
            problems.append(ports.compiled().unknown(name, path))
        elif not isinstance(name, str):
            raise ValidationError(f'{path}: the name of a port must be a str')
        else:
            copied(value, ports.type_check, path, problems)
        return problems
    plan = port.compiled()
    if isinstance(plan, Plan):
        plan.complete_at(value, path, problems, missing, active=True, fill=True)
    else:
        plan.check(value, path, problems)
    return problems + missing


def _pairs(args: tuple[Mapping[str, Any], ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    if len(args) > 1:
        raise TypeError(f'give one mapping, not {len(args)}')
    return [*(_as_dict(args[0]).items() if args else ()), *kwargs.items()]


def _as_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as a dictionary, whatever names it holds."""
    return values._inputs() if isinstance(values, ProcessBuilderNamespace) else dict(values)


def _merged(there: Any, value: Any) -> Any:
    if not isinstance(there, dict) or not isinstance(value, Mapping):
        return value
    return {**there, **{name: _merged(there.get(name), each) for name, each in value.items()}}
