"""Ports taken over from other processes, and the memory of which came from where.

The rules are those of plumpy's ``expose_inputs`` and ``expose_outputs``, with two differences: an include or exclude
rule that names no port is an error, and an include rule matches whole names, not beginnings of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import SpecError
from .checks import UNSPECIFIED
from .plan import described
from .ports import SEPARATOR, PortNamespace

__all__ = ['Exposures', 'exposed_class']

_OPTIONS = ('help', 'required', 'validator', 'valid_type', 'default', 'dynamic', 'populate_defaults')


def exposed_class(process: Any) -> type:
    """The class of a process class or process function, as far as a spec needs to know it.

    :raises SpecError: it has no spec.
    """
    found = process if isinstance(process, type) else getattr(process, 'process_class', None)
    if not isinstance(found, type) or not callable(getattr(found, 'spec', None)):
        raise SpecError(
            f'{process!r} is not a process class or process function, so it has no ports to expose'
        )
    return found


class Exposures:
    """Which ports below one root namespace were taken from which process classes.

    :param root: the namespace of a spec's inputs or outputs.
    :param ignored: a name that rules may exclude or include although no port has it.
    """

    def __init__(self, root: PortNamespace, *, ignored: str | None = None) -> None:
        self._root = root
        self._ignored = ignored
        self._names: dict[str, dict[type, list[str]]] = {}

    def expose(
        self,
        process_class: type,
        source: PortNamespace,
        *,
        namespace: str | None,
        exclude: Iterable[str] | None,
        include: Iterable[str] | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        """Copy the ports of ``source``, and its properties as a namespace, to the namespace at a dotted path.

        :raises SpecError: the rules or options do not fit.
        """
        excluded, included = _rules('exclude', exclude), _rules('include', include)
        if excluded and included is not None:
            raise SpecError('give either exclude or include, not both')
        for rule in [*(excluded or ()), *(included or ())]:
            self._check_rule(rule, source, process_class)
        properties = _properties(source, dict(options or {}))
        target = self._root if namespace is None else self._root.create_port_namespace(namespace)
        for name, value in properties.items():
            setattr(target, name, value)
        names = _copy_ports(source, target, excluded or frozenset(), included)
        self._names.setdefault(namespace or '', {})[process_class] = names

    def places(
        self, process_class: type, namespace: str | None, *, agglomerate: bool
    ) -> list[tuple[str, list[str]]]:
        """Where the ports of a class are: pairs of a namespace's path (empty for the root) and the names in it.

        :param agglomerate: look in the namespaces around ``namespace`` too; the outermost comes first.
        :raises ValueError: ``namespace`` is none, or nothing of the class was exposed there.
        """
        paths = [namespace or '']
        if agglomerate and namespace:
            parts = namespace.split(SEPARATOR)
            paths = ['', *(SEPARATOR.join(parts[:length]) for length in range(1, len(parts) + 1))]
        found = []
        for path in paths:
            names = self._names.get(path, {}).get(process_class)
            if names is not None:
                ports = self._root.get_port(path) if path else self._root
                # A port may have been removed again, or replaced by one of another class.
                found.append(
                    (path, [name for name in names if isinstance(ports, PortNamespace) and name in ports])
                )
        if not found or (namespace and namespace not in self._names):
            where = ', '.join(
                f'{path or "the top level"} ({", ".join(each.__name__ for each in classes)})'
                for path, classes in self._names.items()
            )
            raise ValueError(
                f'no {self._root.name} of {process_class.__name__} were exposed '
                f'{f"in the namespace {namespace!r}" if namespace else "at the top level"}; '
                f'exposed are those in: {where or "nothing"}'
            )
        return found

    def has(self, process_class: type, namespace: str | None = None) -> bool:
        """Whether ports of the class were exposed in just this namespace, the root by default."""
        return process_class in self._names.get(namespace or '', {})

    def _check_rule(self, rule: str, source: PortNamespace, process_class: type) -> None:
        if rule.split(SEPARATOR)[0] == self._ignored:
            return
        try:
            source.get_port(rule)
        except SpecError as error:
            raise SpecError(
                f'{process_class.__name__} has no port {rule!r} to exclude or include; its {source.name} are: '
                f'{", ".join(source) or "none"}'
            ) from error


def _rules(which: str, rules: Iterable[str] | None) -> frozenset[str] | None:
    if rules is None:
        return None
    if isinstance(rules, str) or not isinstance(rules, Iterable):
        raise SpecError(
            f"{which} must be a list or tuple of names such as ('kpoints',), not {described(rules)}"
        )
    found = frozenset(rules)
    wrong = [rule for rule in found if not isinstance(rule, str)]
    if wrong:
        raise SpecError(f'{which} must hold names of ports, not {described(wrong[0])}')
    return found


def _properties(source: PortNamespace, options: dict[str, Any]) -> dict[str, Any]:
    """What the target becomes as a namespace, in the order in which it is to be set."""
    if 'lazy' in options:
        options['populate_defaults'] = not options.pop('lazy')
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise SpecError(f'namespace_options: {unknown[0]!r} is none; there is {", ".join(_OPTIONS)} and lazy')
    if options.get('default', UNSPECIFIED) is None:
        options['default'] = UNSPECIFIED
    PortNamespace(source.name, **options)  # refuses what no namespace can be
    given = {name: options.get(name, getattr(source, name)) for name in _OPTIONS}
    # Setting a type makes a namespace dynamic, so what is said of that comes later.
    if options.get('valid_type') is not None and 'dynamic' not in options:
        given['dynamic'] = True
    return given


def _copy_ports(
    source: PortNamespace, target: PortNamespace, excluded: frozenset[str], included: frozenset[str] | None
) -> list[str]:
    names = []
    for name, port in source.items():
        if name in excluded:
            continue
        whole = included is None or name in included
        within = None if whole or included is None else _within(name, included)
        if not whole and not within:
            continue
        twin = port.copy()
        if isinstance(twin, PortNamespace) and isinstance(port, PortNamespace):
            for inner in list(twin):
                del twin[inner]
            _copy_ports(port, twin, _within(name, excluded), within)
        target[name] = twin
        names.append(name)
    return names


def _within(name: str, rules: frozenset[str]) -> frozenset[str]:
    """The rules for what is in the namespace ``name``, as seen from there."""
    prefix = name + SEPARATOR
    return frozenset(rule.removeprefix(prefix) for rule in rules if rule.startswith(prefix))
