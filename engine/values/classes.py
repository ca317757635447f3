"""Finding Enum and dataclass types by name, and dataclass instances taken apart without their code."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import sys
import types
import weakref
from collections.abc import Mapping
from typing import Any

from ..errors import CorruptValue, UnstorableValue

# Classes that no import finds (of a function, of __main__, of a notebook), by name, once they were encoded. No lock
# guards it: one that is held while the OS process forks stays held in the child, and single operations are whole.
_known: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


def module_of(target: Any) -> str:
    """The module of a class or function; for one of a script the same in every OS process.

    In children that ``multiprocessing`` starts anew, the script's module is ``__mp_main__``, and ``__main__`` as well.
    """
    module: str = target.__module__
    return '__main__' if module == '__mp_main__' else module


def name_of(cls: type) -> str:
    """Return ``module:qualname`` of ``cls`` such that :func:`find` finds it again.

    A class that cannot be imported is remembered for as long as it lives.

    :raises UnstorableValue: if the name belongs to another class.
    """
    module, qualname = module_of(cls), cls.__qualname__
    name = f'{module}:{qualname}'
    if module != '__main__' and '<locals>' not in qualname:
        found = _walk(sys.modules.get(module), qualname)
        if found is cls:
            return name
        if found is not None:
            raise UnstorableValue(
                f'{cls!r} cannot be stored: {name} is another object now; was its module reloaded?'
            )
    _known[name] = cls
    return name


def find(name: object) -> type:
    """Return the class called ``name`` (``module:qualname``), importing its module when needed.

    The caller checks what kind of class it is before it does anything with it.

    :raises CorruptValue: if there is no such class.
    """
    if type(name) is not str:
        raise CorruptValue(f'stored data names a class by {type(name).__name__}, not by text')
    module_name, _, qualname = name.partition(':')
    known = _known.get(name)
    if known is not None:
        return known
    if not all(part.isidentifier() for part in module_name.split('.')) or not qualname:
        raise CorruptValue(f'stored data names the class {name!r}, which is no module:qualname')
    module = sys.modules.get(module_name)
    if module is None:
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as exc:  # a module's own code may raise anything while it is imported
            raise CorruptValue(
                f'stored data needs the class {name}; make its module importable ({exc})'
            ) from exc
    found = _walk(module, qualname)
    if not isinstance(found, type):
        raise CorruptValue(f'stored data needs the class {name}, which is gone; was it renamed or moved?')
    return found


def _walk(start: Any, qualname: str) -> Any:
    first, *rest = qualname.split('.')
    found = getattr(start, first, None)
    for part in rest:
        if not isinstance(found, type):
            return None
        found = inspect.getattr_static(found, part, None)  # static: a descriptor's code is not run
    return found


def find_enum(name: object) -> type[enum.Enum]:
    """Return the Enum class called ``name``; anything else of that name is a :class:`CorruptValue`."""
    cls = find(name)
    if not issubclass(cls, enum.Enum):
        raise CorruptValue(f'stored data says that {name} is an Enum, but it is not')
    return cls


class DataclassPlan:
    """How the instances of one dataclass are taken apart and put together.

    Their state is read from slots and ``__dict__`` and written there, so that neither ``__init__`` nor
    ``__post_init__``, properties or ``__setattr__`` run: frozen classes, ``slots=True`` and ``InitVar`` are
    covered by that. Attributes beside the fields (a ``__post_init__`` may set some) are kept as well; what
    :func:`functools.cached_property` cached is left out, since it is computed again.
    """

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.name = name_of(cls)
        self.fields = {field.name: field for field in dataclasses.fields(cls)}
        self._slots: dict[str, Any] = {}
        self._cached: set[str] = set()
        for base in reversed(cls.__mro__):
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType):
                    self._slots[name] = member
                elif isinstance(member, functools.cached_property):
                    self._cached.add(name)
        self._has_dict = bool(cls.__dictoffset__)
        self._described = {
            name
            for name in self.fields
            if name not in self._slots and hasattr(type(inspect.getattr_static(cls, name, None)), '__set__')
        }

    def take_apart(self, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of ``value`` and its further attributes.

        :raises UnstorableValue: if a field that ``__init__`` sets was deleted.
        """
        state: dict[str, Any] = {}
        for name, slot in self._slots.items():
            try:
                state[name] = slot.__get__(value)
            except AttributeError:
                continue  # an empty slot has nothing to store
        if self._has_dict:
            state.update(object.__getattribute__(value, '__dict__'))
        fields: dict[str, Any] = {}
        for name, field in self.fields.items():
            if name in state:
                fields[name] = state.pop(name)
            elif name in self._described:
                continue  # its value is among the further attributes, where the descriptor keeps it
            elif field.default is not dataclasses.MISSING:
                fields[name] = getattr(self.cls, name, field.default)
            elif field.init:
                raise UnstorableValue(f'{self.cls!r} cannot be stored: its field {name!r} is not set')
        extra = {
            name: item
            for name, item in state.items()
            if name not in self._cached and not name.startswith('__')
        }
        return fields, extra

    def put_together(self, fields: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
        """Return a new instance with that state; a field that the class gained since takes its default.

        :raises CorruptValue: if the class no longer has a field, or gained one without a default.
        """
        state = dict(fields)
        for name in fields:
            if name not in self.fields:
                raise CorruptValue(f'{self.name} has no field {name!r} (any more), but stored data has one')
        for name, field in self.fields.items():
            if name in state or name in self._described:
                continue
            if field.default_factory is not dataclasses.MISSING:
                state[name] = field.default_factory()
            elif field.default is not dataclasses.MISSING:
                state[name] = field.default
            elif field.init:
                raise CorruptValue(f'{self.name} has a field {name!r} that is not stored; give it a default')
        for name in extra:
            if not name.isidentifier() or name.startswith('__') or name in self.fields:
                raise CorruptValue(f'{self.name} cannot have an attribute {name!r}')
        state.update(extra)
        value: Any = object.__new__(self.cls)
        for name, item in state.items():
            slot = self._slots.get(name)
            if slot is not None:
                slot.__set__(value, item)
            elif self._has_dict:
                object.__getattribute__(value, '__dict__')[name] = item
            else:
                raise CorruptValue(f'{self.name} has no room for the attribute {name!r}')
        return value


def is_plain_dataclass(cls: type) -> bool:
    """Return whether ``cls`` itself was made by ``@dataclass`` and has no state beside its attributes.

    A subclass that was not decorated, or one of ``dict``, ``str`` or an exception, would lose something.
    """
    if '__dataclass_fields__' not in vars(cls) or issubclass(cls, enum.Enum):
        return False
    return all(not _has_hidden_state(base) for base in cls.__mro__[:-1])


def _has_hidden_state(base: type) -> bool:
    # Classes of Python code are heap types (flag bit 9) and keep their state in slots and __dict__. Builtin types
    # keep theirs in C; those of extensions may be heap types as well, but then their __new__ is a C function.
    return not base.__flags__ & (1 << 9) or isinstance(vars(base).get('__new__'), types.BuiltinFunctionType)


def find_dataclass(name: object) -> type:
    """Return the dataclass called ``name``; anything else of that name is a :class:`CorruptValue`."""
    cls = find(name)
    if not is_plain_dataclass(cls) or inspect.isabstract(cls):
        raise CorruptValue(f'stored data says that {name} is a dataclass, but it is not')
    return cls
