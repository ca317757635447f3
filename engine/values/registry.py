"""Codecs for types that are not Treadle's own: global ones of users, and references of one engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar('T')


@dataclass(frozen=True, slots=True)
class Reference:
    """How one :class:`~.codec.Codec` writes instances of an engine type (and of its subclasses).

    :param tag: the tag in the stored data; must not be one of the codec's own.
    :param dump: gives storable data for an instance.
    :param load: gives the instance for that data.
    """

    tag: str
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class UserCodec:
    """One registration: how a user's type is written and read."""

    cls: type
    name: str
    to_data: Callable[[Any], Any]
    from_data: Callable[[Any], Any]


class Registry:
    """The registered types by class and by name; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_class: dict[type, UserCodec] = {}
        self._by_name: dict[str, UserCodec] = {}
        self.reserved: frozenset[type] = frozenset()
        """Types that the codec writes itself."""
        self.generation = 0
        """Raised by every registration, so that codecs know when to forget what they cached."""

    def register(self, codec: UserCodec) -> None:
        """Add ``codec``; the same class and name again replace it (a module that is reloaded).

        :raises TypeError: if the class is none, is a builtin or is written by Treadle itself, or a function
            is not callable.
        :raises ValueError: if the name is empty or belongs to another class, or the class has another name.
        """
        cls, name = codec.cls, codec.name
        given: object = cls
        if not isinstance(given, type):
            raise TypeError(f'register_codec: the first argument must be a class, not {cls!r}')
        if cls.__module__ == 'builtins' or cls in self.reserved or _is_numpy(cls):
            raise TypeError(f'register_codec: {cls!r} is stored by Treadle itself; register your own classes')
        given = name
        if not (isinstance(given, str) and given):
            raise ValueError(f'register_codec: the name for {cls!r} must be a non-empty string, not {name!r}')
        for what, function in (('to_data', codec.to_data), ('from_data', codec.from_data)):
            if not callable(function):
                raise TypeError(f'register_codec: {what} for {cls!r} must be callable, not {function!r}')
        with self._lock:
            holder = self._by_name.get(name)
            if holder is not None and not _same_class(holder.cls, cls):
                raise ValueError(
                    f'register_codec: the name {name!r} belongs to {holder.cls!r}; choose another for {cls!r}'
                )
            present = self._by_class.get(cls)
            if present is not None and present.name != name:
                raise ValueError(f'register_codec: {cls!r} is registered as {present.name!r} already')
            if holder is not None and holder.cls is not cls:
                del self._by_class[holder.cls]
            self._by_class[cls] = codec
            self._by_name[name] = codec
            self.generation += 1

    def of_class(self, cls: type) -> UserCodec | None:
        """Return the codec of exactly ``cls``, if there is one."""
        return self._by_class.get(cls)

    def of_name(self, name: str) -> UserCodec | None:
        """Return the codec that was registered as ``name``, if there is one."""
        return self._by_name.get(name)


def _same_class(one: type, other: type) -> bool:
    # A notebook cell that is run again, or a reloaded module, makes a new class of the same name.
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _is_numpy(cls: type) -> bool:
    # By name, for numpy shall not be imported for it.
    names = [f'{base.__module__}.{base.__qualname__}' for base in cls.__mro__]
    return cls.__module__ == 'numpy' and (names[0] == 'numpy.ndarray' or 'numpy.generic' in names)


registry = Registry()


def register_codec(
    cls: type[T], name: str, to_data: Callable[[T], Any], from_data: Callable[[Any], T]
) -> None:
    """Make instances of exactly ``cls`` storable, in every engine of this OS process.

    :param name: what stands for the class in stored data; keep it when the class is renamed or moved.
    :param to_data: gives plain storable data (dicts, lists, numbers, arrays, files, ...) for an instance.
    :param from_data: gives an equal instance for that data.
    :raises TypeError: if ``cls`` is no class, is a builtin, or is stored by Treadle itself.
    :raises ValueError: if the name belongs to another class, or the class has another name.
    """
    registry.register(UserCodec(cls, name, to_data, from_data))
