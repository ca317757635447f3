"""Dictionaries whose keys can be read as attributes: ``self.ctx.total``, ``node.outputs.energy``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn


def _no_such_key(owner: str, name: str, keys: Iterable[str]) -> str:
    there = ', '.join(sorted(map(str, keys))) or 'nothing'
    return f'{owner} holds no {name!r}; there is {there}'


class AttributeDict(dict[str, Any]):
    """A dictionary with attribute access; what ``self.ctx`` is.

    A key such as ``items``, which is a dictionary's method too, is set and read as ``ctx['items']``.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(_no_such_key('this dictionary', name, self)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(dict, name):
            raise AttributeError(f'{name!r} is a method of dictionaries; write [{name!r}] to set and to read it')
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(_no_such_key('this dictionary', name, self)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(str, self)]


def plain(value: Any) -> Any:
    """``value`` with the dictionaries of this module, nested ones included, turned into plain dictionaries."""
    if isinstance(value, (AttributeDict, FrozenAttributes)):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def thawed(value: Any) -> Any:
    """``value`` with all dictionaries and lists in it copied, and read-only namespaces made changeable."""
    if isinstance(value, (AttributeDict, FrozenAttributes)):
        return AttributeDict({key: thawed(inner) for key, inner in value.items()})
    if type(value) is dict:
        return {key: thawed(inner) for key, inner in value.items()}
    return [thawed(inner) for inner in value] if type(value) is list else value


class FrozenAttributes(Mapping[str, Any]):
    """A read-only mapping with attribute access, nested namespaces included; what inputs and outputs are.

    :param values: the values; nested namespaces are given as nested :class:`FrozenAttributes`.
    :param owner: what an error message calls it, such as ``'inputs of AddMany'``.
    """

    __slots__ = ('_owner', '_values')

    def __init__(self, values: Mapping[str, Any], owner: str = 'it') -> None:
        object.__setattr__(self, '_values', dict(values))
        object.__setattr__(self, '_owner', owner)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(_no_such_key(self._owner, name, self._values)) from None

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f'{self._owner} cannot be changed (tried to set {name!r})')

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(str, self._values)]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self._values!r})'

    def __reduce__(self) -> Any:
        return type(self), (self._values, self._owner)
