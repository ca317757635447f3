"""Validators and defaults made ready: what is asked of a signature is asked once, at definition."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import inspect
import reprlib
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import SpecError

if TYPE_CHECKING:
    from .ports import Port


class Unspecified(enum.Enum):
    """The type of :data:`UNSPECIFIED`; an enum, so that there is one object even after a copy."""

    UNSPECIFIED = enum.auto()

    def __repr__(self) -> str:
        return 'UNSPECIFIED'

    def __bool__(self) -> bool:
        return False


#: Stands for a value that was not given, where ``None`` would be a value.
UNSPECIFIED: Final = Unspecified.UNSPECIFIED


class Problem(NamedTuple):
    """One thing that does not fit."""

    path: str
    message: str
    #: What a validator or a default raised, if that is the problem.
    cause: Exception | None = None

    def __str__(self) -> str:
        return f'{self.path}: {self.message}'


class Validator:
    """A user's ``validator(value, port)`` or ``validator(value)``, with one way to call it."""

    __slots__ = ('_function', '_port', '_with_port')

    def __init__(self, function: Callable[..., Any], port: Port) -> None:
        self._function = function
        self._port = port
        self._with_port = _takes_port(function, port.name)

    def __call__(self, value: Any) -> tuple[str, Exception | None] | None:
        """``None`` when the value is fine, else the message and what the validator raised, if it did."""
        try:
            verdict = self._function(value, self._port) if self._with_port else self._function(value)
        except Exception as exc:
            return f'the validator {name_of(self._function)} raised {type(exc).__name__}: {exc}', exc
        if verdict is None:
            return None
        if not isinstance(verdict, str):
            return (
                f'the validator {name_of(self._function)} returned {show(verdict)}; '
                'it must return None when the value is fine, else a message',
                None,
            )
        return verdict or f'refused by the validator {name_of(self._function)}, which gave no reason', None


def _takes_port(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        # Some callables written in C tell no signature; they know nothing of ports either.
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keyword_required = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if keyword_required or required > 2 or (not positional and not variadic):
        raise SpecError(
            f'port {name!r}: the validator {name_of(function)} must be callable as validator(value, port) '
            'or validator(value)'
        )
    # A second parameter with a default is an option of the function, unless its name says otherwise.
    second = positional[1] if len(positional) > 1 else None
    return variadic or required == 2 or (second is not None and second.name == 'port')


#: Values of exactly these types cannot be changed, so that one object can serve every process.
_IMMUTABLE = frozenset(
    {
        int, float, complex, bool, str, bytes, type(None),
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID,
    }
)  # fmt: skip


def default_factory(default: Any, name: str) -> Callable[[], Any]:
    """What makes the default's value for one process: the callable, or a copy that nobody shares.

    :raises SpecError: the value cannot be copied.
    """
    if callable(default):
        return default  # type: ignore[no-any-return]
    if type(default) not in _IMMUTABLE:
        try:
            copy.deepcopy(default)
        except Exception as exc:
            raise SpecError(
                f'port {name!r}: the default {show(default)} cannot be copied for each process ({exc}); '
                'give a callable that makes it'
            ) from exc
        return lambda: copy.deepcopy(default)
    return lambda: default


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def show(value: Any) -> str:
    """A short ``repr`` for messages; never raises and never floods."""
    try:
        return _repr.repr(value)
    except Exception:
        # A broken __repr__ must not hide the problem that is being reported.
        return f'<{type(value).__qualname__}>'


def is_name(name: object) -> bool:
    """Whether ``name`` is a str with something in it."""
    return isinstance(name, str) and name != ''


def name_of(function: Any) -> str:
    """How to call a function in a message."""
    return str(getattr(function, '__qualname__', None) or show(function))
