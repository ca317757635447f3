"""A namespace of ports compiled for use: fills defaults and finds every problem in one pass.

Compiled when a spec is sealed, so that starting a process asks nothing of the ports that was known
before. The semantics are those of plumpy's ``pre_process`` and ``validate``, with two differences: all
problems are reported, not only the first, and an optional namespace counts as not given as long as
nothing in it has a value, however deeply its own namespaces nest.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ValidationError
from .checks import UNSPECIFIED, Problem, Validator, default_factory, is_name, name_of, show
from .types import TypeCheck

if TYPE_CHECKING:
    from .ports import Port, PortNamespace


class Leaf:
    """A port that is no namespace, made ready."""

    __slots__ = ('exact', 'factory', 'port', 'types', 'validator')

    def __init__(self, port: Port) -> None:
        self.port = port
        self.types: TypeCheck | None = port.type_check
        self.exact = None if self.types is None else self.types.exact
        self.validator = None if port.validator is None else Validator(port.validator, port)
        self.factory = None if port.default is UNSPECIFIED else default_factory(port.default, port.name)

    def missing(self, path: str) -> Problem:
        """That the port is required and has no value."""
        expected = '' if self.types is None else f'; expected {self.types.text}'
        purpose = f' ({self.port.help})' if self.port.help else ''
        return Problem(path, f'required, but not given{expected}{purpose}')

    def check(self, value: Any, path: str, problems: list[Problem]) -> bool:
        """Whether the value fits; what is wrong with it is added to ``problems``."""
        if self.types is not None and not self.types.accepts(value):
            problems.append(Problem(path, wrong_type(self.types, value)))
            return False
        if self.validator is not None:
            verdict = self.validator(value)
            if verdict is not None:
                problems.append(Problem(path, *verdict))
                return False
        return True


class Plan:
    """A namespace made ready, with its leaves and the plans of its namespaces."""

    __slots__ = (
        'dynamic', 'factory', 'lazy', 'leaves', 'names', 'namespaces', 'port', 'required', 'rows', 'types',
        'validator',
    )  # fmt: skip

    def __init__(self, namespace: PortNamespace) -> None:
        self.port = namespace
        self.leaves: dict[str, Leaf] = {}
        self.namespaces: dict[str, Plan] = {}
        for name, port in namespace.items():
            made = port.compiled()
            if isinstance(made, Plan):
                self.namespaces[name] = made
            else:
                self.leaves[name] = made
        self.names = frozenset(namespace)
        self.dynamic = namespace.dynamic
        self.required = namespace.required
        self.lazy = not namespace.populate_defaults
        self.types: TypeCheck | None = namespace.type_check
        self.validator = None if namespace.validator is None else Validator(namespace.validator, namespace)
        self.factory = (
            None if namespace.default is UNSPECIFIED else default_factory(namespace.default, namespace.name)
        )
        # What the loop over the leaves needs, unpacked.
        self.rows = tuple(
            (name, leaf.exact, leaf.validator is None, leaf) for name, leaf in self.leaves.items()
        )

    def complete(
        self,
        given: Mapping[str, Any],
        path: str,
        problems: list[Problem],
        missing: list[Problem],
        *,
        active: bool = True,
        fill: bool = True,
    ) -> tuple[dict[str, Any], bool]:
        """Copy ``given`` into a new dict and fill the defaults in; nothing is raised.

        :param path: the path of this namespace, for messages.
        :param problems: gets what is there and wrong.
        :param missing: gets what is required and not there.
        :param active: this namespace and all around it are required, or given.
        :param fill: whether to fill in defaults; outputs have none.
        :returns: the values, and whether there is any value in them.
        """
        result: dict[str, Any] = {}
        first_problem, first_missing = len(problems), len(missing)
        seen = 0
        get = given.get
        for name, exact, unchecked, leaf in self.rows:
            value = get(name, UNSPECIFIED)
            if value is UNSPECIFIED:
                if leaf.factory is None or not fill:
                    if leaf.port.required:
                        missing.append(leaf.missing(f'{path}.{name}'))
                    continue
                try:
                    value = leaf.factory()
                except Exception as exc:
                    problems.append(default_failed(f'{path}.{name}', leaf.port.default, exc))
                    continue
            else:
                seen += 1
            fits = unchecked and (exact is None or type(value) in exact)
            if fits or leaf.check(value, f'{path}.{name}', problems):
                result[name] = value
        filled = bool(result)
        for name, plan in self.namespaces.items():
            value = get(name, UNSPECIFIED)
            if value is not UNSPECIFIED:
                seen += 1
            child = plan.complete_at(value, f'{path}.{name}', problems, missing, active=active, fill=fill)
            if child is not None:
                result[name] = child[0]
                filled |= child[1]
        if seen != len(given):
            filled |= self._rest(given, result, path, problems)
        if len(missing) > first_missing and not given and not self.required:
            self._settle_missing(missing, first_missing, filled)
        # The validator relies on what its ports promise, so it is asked only when they keep it.
        if (
            self.validator is not None
            and (active or filled or given)
            and len(problems) == first_problem
            and len(missing) == first_missing
        ):
            verdict = self.validator(dict(result))
            if verdict is not None:
                problems.append(Problem(path, *verdict))
        return result, filled

    def complete_at(
        self,
        value: Any,
        path: str,
        problems: list[Problem],
        missing: list[Problem],
        *,
        active: bool,
        fill: bool,
    ) -> tuple[dict[str, Any], bool] | None:
        """The same for a namespace within another; ``None`` when the values do not mention it afterwards."""
        if value is None and not self.required:
            value = UNSPECIFIED
        if value is UNSPECIFIED and fill and not self.lazy and self.factory is not None:
            try:
                value = self.factory()
            except Exception as exc:
                problems.append(default_failed(path, self.port.default, exc))
                return None
        if value is UNSPECIFIED:
            present = fill and not self.lazy and bool(self.names)
            active = active and self.required
            done = self.complete({}, path, problems, missing, active=active, fill=present)
            return done if present else None
        if not isinstance(value, Mapping):
            problems.append(Problem(path, f'expected a mapping of ports to values, got {described(value)}'))
            return None
        # An optional namespace that is given empty is as good as not given.
        active = active and (self.required or len(value) > 0)
        return self.complete(value, path, problems, missing, active=active, fill=fill)

    def check_at(self, parts: list[str], value: Any, path: str) -> list[Problem]:
        """What is wrong with one value that is set at a path within this namespace.

        Missing ports of a namespace that is set as a whole are no problem yet: others may follow.
        """
        problems: list[Problem] = []
        plan: Plan = self
        for index, name in enumerate(parts):
            path = f'{path}.{name}'
            last = index == len(parts) - 1
            leaf = plan.leaves.get(name)
            if leaf is not None:
                if last:
                    leaf.check(value, path, problems)
                else:
                    problems.append(
                        Problem(path, f'this is a port and no namespace, so it has no {parts[index + 1]!r}')
                    )
                return problems
            inner = plan.namespaces.get(name)
            if inner is None:
                if plan.dynamic:
                    copied(value, plan.types, '.'.join([path, *parts[index + 1 :]]), problems)
                else:
                    problems.append(plan.unknown(name, path))
                return problems
            plan = inner
        plan.complete_at(value, path, problems, [], active=False, fill=False)
        return problems

    def unknown(self, name: Any, path: str) -> Problem:
        """A value for which there is no port, with the ports that may have been meant."""
        text = 'there is no such port'
        if isinstance(name, str):
            head, dot, rest = name.partition('.')
            if dot and head in self.namespaces:
                return Problem(
                    path, f'{text}; nest the values instead, as in {{{head!r}: {{{rest!r}: ...}}}}'
                )
            near = difflib.get_close_matches(name, self.names, n=2, cutoff=0.6)
            if near:
                return Problem(path, f'{text}; did you mean {" or ".join(map(repr, near))}?')
        if not self.names:
            return Problem(path, f'{text}, nor any other here')
        return Problem(path, f'{text}; there is {", ".join(sorted(self.names))}')

    def _rest(
        self, given: Mapping[str, Any], result: dict[str, Any], path: str, problems: list[Problem]
    ) -> bool:
        """Take over the values that have no port of their own; whether there were any."""
        any_taken = False
        for name, value in given.items():
            if name in self.names or value is UNSPECIFIED:
                continue
            here = f'{path}.{name}'
            if not self.dynamic:
                problems.append(self.unknown(name, here))
            elif not is_name(name):
                problems.append(Problem(here, f'the name of a port must be a str, not {described(name)}'))
            else:
                result[name] = copied(value, self.types, here, problems)
                any_taken = True
        return any_taken

    def _settle_missing(self, missing: list[Problem], first: int, filled: bool) -> None:
        """Nobody asked for this namespace: what it lacks counts only if defaults brought it to life."""
        if not filled:
            del missing[first:]
            return
        for index in range(first, len(missing)):
            path, message, _ = missing[index]
            missing[index] = Problem(
                path,
                f'{message}; the optional namespace {self.port.name!r} is in use because a default fills it '
                '(populate_defaults=False leaves it out unless it is given)',
            )


def copied(value: Any, types: TypeCheck | None, path: str, problems: list[Problem]) -> Any:
    """A value of a dynamic namespace, whose mappings are namespaces in turn and copied as such."""
    if types is None:
        # A subclass of dict may be a value in its own right; a mapping of another kind is just a view.
        if type(value) is dict or (isinstance(value, Mapping) and not isinstance(value, dict)):
            return {name: copied(each, None, path, problems) for name, each in value.items()}
        return value
    if types.accepts(value):
        return value
    if isinstance(value, Mapping):
        return {name: copied(each, types, f'{path}.{name}', problems) for name, each in value.items()}
    problems.append(Problem(path, wrong_type(types, value)))
    return value


def described(value: Any) -> str:
    """A value and its type, for messages."""
    return 'None' if value is None else f'{type(value).__qualname__} {show(value)}'


def wrong_type(types: TypeCheck, value: Any) -> str:
    """The message for a value of a wrong type."""
    remedy = types.remedy(value)
    return f'expected {types.text}, got {described(value)}{"; " if remedy else ""}{remedy}'


def default_failed(path: str, default: Any, exc: Exception) -> Problem:
    """A callable default that raised."""
    return Problem(path, f'its default {name_of(default)} raised {type(exc).__name__}: {exc}', exc)


def report(label: str, what: str, problems: list[Problem]) -> ValidationError:
    """One error for all problems; its cause is the first exception among theirs."""
    if len(problems) == 1:
        error = ValidationError(f'{label}: {problems[0]}')
    else:
        heading = f'{label}: {len(problems)} problems with its {what}:'
        error = ValidationError('\n  '.join([heading, *map(str, problems)]))
    error.__cause__ = next((each.cause for each in problems if each.cause is not None), None)
    return error
