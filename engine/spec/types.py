"""What ``valid_type`` may be, and whether a value fits it."""

from __future__ import annotations

import types
import typing
from typing import Any

from ..errors import SpecError


class TypeCheck:
    """A ``valid_type`` made ready: a type, a tuple or list of types, a union or ``None``.

    Parametrized generics are checked by their origin alone (``list[int]`` takes any list), annotated
    types by the type they annotate. Two rules differ from :func:`isinstance`:

    * A ``bool`` does not fit ``int`` or ``float``. It is an ``int`` to Python, but ``steps=True`` is
      next to always a mistake, and what reads the stored value later would get another type than
      the spec promises. A port that means it lists ``bool``.
    * An ``int`` fits ``float`` and is kept as given, as everywhere in Python's typing.
    """

    __slots__ = ('_bool_types', 'exact', 'given', 'text', 'types')

    def __init__(self, valid_type: Any) -> None:
        self.given: tuple[type, ...] = tuple(dict.fromkeys(_flatten(valid_type)))
        #: What is looked up: the types given, and ``int`` where ``float`` is one of them.
        self.types = (*self.given, int) if float in self.given else self.given
        self._bool_types = tuple(each for each in self.given if each is not int)
        #: Types whose direct instances fit without a further look: the fast path.
        self.exact: frozenset[type] = frozenset(self.types)
        self.text = ' or '.join(_name(each) for each in self.given)

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` fits."""
        if isinstance(value, bool):
            return isinstance(value, self._bool_types)
        return isinstance(value, self.types)

    def with_none(self) -> TypeCheck:
        """The same, and ``None`` fits too."""
        return TypeCheck((*self.given, None))

    def remedy(self, value: Any) -> str:
        """What to do about a value that does not fit, or an empty string."""
        if isinstance(value, bool):
            return 'a bool is not taken for a number; pass int(...), or list bool in valid_type'
        if type(value).__module__ == 'numpy' and getattr(value, 'shape', None) == ():
            return 'convert the numpy scalar with .item()'
        if isinstance(value, str) and {int, float} & self.exact:
            return 'convert the text before passing it'
        if isinstance(value, type) and issubclass(value, self.types):
            return f'this is the class itself; pass an instance, {value.__name__}(...)'
        return ''


def _flatten(valid_type: Any) -> list[type]:
    """The plain types in a ``valid_type``; ``None`` and ``NoneType`` mean the value ``None``."""
    if valid_type is None:
        return [types.NoneType]
    if valid_type is Any:
        return [object]
    if isinstance(valid_type, (tuple, list)):
        if not valid_type:
            raise SpecError('valid_type is an empty tuple, which no value fits; leave it out to take any')
        return [each for item in valid_type for each in _flatten(item)]
    origin = typing.get_origin(valid_type)
    if origin is typing.Union or origin is types.UnionType:
        return [each for item in typing.get_args(valid_type) for each in _flatten(item)]
    if origin is typing.Annotated:
        return _flatten(typing.get_args(valid_type)[0])
    if isinstance(origin, type):
        return [origin]
    if isinstance(valid_type, typing.NewType):
        return _flatten(valid_type.__supertype__)
    if isinstance(valid_type, type):
        try:
            isinstance(None, valid_type)
        except TypeError as exc:
            raise SpecError(f'valid_type {valid_type!r} cannot be checked: {exc}') from exc
        return [valid_type]
    raise SpecError(
        f'valid_type {valid_type!r} is no type; give a type, a tuple of types or a union such as int | str, '
        'and check anything finer with a validator'
    )


def _name(cls: type) -> str:
    if cls is types.NoneType:
        return 'None'
    if cls.__module__ == 'builtins':
        return cls.__qualname__
    return f'{cls.__module__}.{cls.__qualname__}'
