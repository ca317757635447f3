"""Exceptions as data: enough to show them anywhere, and to raise a builtin or registered one again."""

from __future__ import annotations

import builtins
import contextlib
import threading
import traceback
from typing import Any, TypeVar

import msgspec

from .. import errors
from ..errors import CorruptValue, ProcessExcepted, UnstorableValue
from ..tracebacks import shortened
from .classes import module_of
from .codec import Codec

MAX_TEXT = 64 * 1024
"""Characters kept of a message, of a traceback and of the arguments; head and tail of what is longer."""
_MAX_SHORT = 1024
_MAX_CAUSES = 8
_MAX_MEMBERS = 50
_MAX_DEPTH = 8

E = TypeVar('E', bound=BaseException)

_codec = Codec()


class _Cause(msgspec.Struct):
    type: str
    message: str


class _Dump(msgspec.Struct):
    module: str
    qualname: str
    message: str
    args: Any = None
    """The arguments as the codec writes them; None if they cannot be stored."""
    state: Any = None
    notes: list[str] = []
    causes: list[_Cause] = []
    traceback: str = ''
    members: list[_Dump] | None = None
    """The exceptions of a group; None for others, and for a group that is too large."""

    @property
    def name(self) -> str:
        return self.qualname if self.module == 'builtins' else f'{self.module}.{self.qualname}'


class OriginalTraceback(Exception):
    """The cause of an exception that was rebuilt from data: its text is the original traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n{self.text}'


_registered: dict[tuple[str, str], type[BaseException]] = {}
_registered_lock = threading.Lock()


def register_exception(cls: type[E]) -> type[E]:
    """Let instances of exactly ``cls`` be rebuilt from stored data; usable as a decorator.

    Rebuilding runs no code of the class: its arguments, and those attributes that can be stored, are put back.

    :raises TypeError: if ``cls`` is no exception class.
    """
    given: object = cls
    if not (isinstance(given, type) and issubclass(given, BaseException)):
        raise TypeError(f'register_exception: {cls!r} is no exception class')
    with _registered_lock:
        _registered[module_of(cls), cls.__qualname__] = cls
    return cls


for _error in list(vars(errors).values()):
    if isinstance(_error, type) and issubclass(_error, BaseException):
        register_exception(_error)


def dump_exception(exc: BaseException) -> str:
    """Return ``exc`` as JSON text, of bounded size. Never raises, whatever the exception's own methods do."""
    try:
        dump = _dump(exc, _format(exc), 0)
    except Exception as broken:  # a class may define anything, such as properties that raise
        dump = _Dump(_clean(module_of(type(exc))), _clean(type(exc).__qualname__), _message(exc))
        dump.traceback = f'<the exception cannot be read: {type(broken).__qualname__}>'
    return _encoder.encode(dump).decode()


def load_exception(text: str | bytes) -> BaseException:
    """Return the exception that :func:`dump_exception` wrote, with :class:`OriginalTraceback` as its cause.

    A builtin or registered exception whose arguments were stored is rebuilt with equal type, arguments and notes.
    Any other becomes a :class:`ProcessExcepted` that names its type and message.

    :raises CorruptValue: if ``text`` is no such data.
    """
    dump = _read(text)
    exc = _load(dump)
    if dump.traceback:
        exc.__cause__ = OriginalTraceback(dump.traceback)
    return exc


def describe_exception(text: str | bytes) -> tuple[str, str, str]:
    """Return the type's name (with its module unless builtin), the message and the traceback's text.

    :raises CorruptValue: if ``text`` was not written by :func:`dump_exception`.
    """
    dump = _read(text)
    return dump.name, dump.message, dump.traceback


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Dump)


def _read(text: str | bytes) -> _Dump:
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError) as exc:
        raise CorruptValue(f'stored data is no exception ({exc})') from exc


def _dump(exc: BaseException, text: str, depth: int) -> _Dump:
    cls = type(exc)
    dump = _Dump(_clean(module_of(cls)), _clean(cls.__qualname__), _message(exc), traceback=text)
    dump.notes = _notes(exc)
    dump.causes = _causes(exc)
    if isinstance(exc, BaseExceptionGroup):
        members = exc.exceptions
        if depth < _MAX_DEPTH and len(members) <= _MAX_MEMBERS:
            dump.members = [_dump(member, '', depth + 1) for member in members]
        dump.args = _storable([exc.message])
    else:
        dump.args = _storable(list(_arguments(exc)))
    if (module_of(cls), cls.__qualname__) in _registered:
        dump.state = _state(exc)
    return dump


def _arguments(exc: BaseException) -> tuple[Any, ...]:
    if isinstance(exc, OSError) and len(exc.args) == 2 and exc.filename is not None:
        # Its args leave the names of files out.
        second = () if exc.filename2 is None else (None, exc.filename2)
        return (*exc.args, exc.filename, *second)
    return exc.args


def _state(exc: BaseException) -> msgspec.Raw | None:
    state = {}
    for name, item in vars(exc).items():
        if not name.startswith('__') and _storable(item) is not None:
            state[name] = item
    return _storable(state)


def _storable(value: Any) -> msgspec.Raw | None:
    try:
        text = _codec.encode(value)
    except UnstorableValue:
        return None
    return msgspec.Raw(text.encode()) if len(text) <= MAX_TEXT else None


def _load(dump: _Dump) -> BaseException:
    cls = _find(dump)
    exc = _rebuild(cls, dump) if cls is not None else None
    if exc is None:
        message = f'{dump.name}: {dump.message}' if dump.message else dump.name
        exc = ProcessExcepted(message)
    for note in dump.notes:
        exc.add_note(note)
    return exc


def _find(dump: _Dump) -> type[BaseException] | None:
    registered = _registered.get((dump.module, dump.qualname))
    if registered is not None or dump.module != 'builtins':
        return registered
    cls = getattr(builtins, dump.qualname, None)
    # Not by an alias: IOError is called OSError.
    if isinstance(cls, type) and issubclass(cls, BaseException) and cls.__name__ == dump.qualname:
        return cls
    return None


def _rebuild(cls: type[BaseException], dump: _Dump) -> BaseException | None:
    """Return the exception, or None if the data does not fit its class.

    Only ``__new__`` and ``__init__`` of the builtin class run: a registered one's own may want other arguments.
    """
    if dump.args is None:
        return None
    args = _codec.decode(_encoder.encode(dump.args))
    state = _codec.decode(_encoder.encode(dump.state)) if dump.state is not None else {}
    if type(args) is not list or type(state) is not dict:
        raise CorruptValue('stored data has an exception whose arguments are no list')
    if issubclass(cls, BaseExceptionGroup):
        if dump.members is None:
            return None
        args.append([_load(member) for member in dump.members])
    builtin: Any = next(base for base in cls.__mro__ if base.__module__ == 'builtins')
    try:
        exc: BaseException = builtin.__new__(cls, *args)
        builtin.__init__(exc, *args)
    except Exception:  # arguments that the class does not take: it is described instead
        return None
    if type(exc) is not cls:
        return None
    for name, item in state.items():
        if name.isidentifier() and not name.startswith('__'):
            vars(exc)[name] = item
    return exc


def _causes(exc: BaseException) -> list[_Cause]:
    causes: list[_Cause] = []
    seen = {id(exc)}
    current = exc
    while len(causes) < _MAX_CAUSES:
        following = current.__cause__
        if following is None and not current.__suppress_context__:
            following = current.__context__
        if following is None or id(following) in seen:
            break
        seen.add(id(following))
        cls = type(following)
        name = cls.__qualname__ if cls.__module__ == 'builtins' else f'{cls.__module__}.{cls.__qualname__}'
        causes.append(_Cause(_clean(name, _MAX_SHORT), _clean(_message(following), _MAX_SHORT)))
        current = following
    return causes


def _notes(exc: BaseException) -> list[str]:
    notes = getattr(exc, '__notes__', None)
    if type(notes) is not list:
        return []
    return [_clean(note) for note in notes[:_MAX_MEMBERS] if isinstance(note, str)]


def _message(exc: BaseException) -> str:
    try:
        return _clean(str(exc))
    except Exception as broken:  # an exception's own __str__ may do anything
        return f'<{type(exc).__qualname__}.__str__ raised {type(broken).__qualname__}>'


def _format(exc: BaseException) -> str:
    try:
        return _clean(''.join(traceback.format_exception(type(exc), exc, shortened(exc))))
    except Exception as broken:  # so may what a traceback shows of it
        with contextlib.suppress(Exception):
            lines = ''.join(traceback.format_tb(exc.__traceback__))
            last = f'{type(exc).__qualname__}: {_message(exc)}\n'
            return _clean(f'Traceback (most recent call last):\n{lines}{last}')
        return f'<the traceback cannot be shown: {type(broken).__qualname__}>'


def _clean(text: object, limit: int = MAX_TEXT) -> str:
    """Return ``text`` as UTF-8 allows it, and if it is too long its head and tail."""
    if not isinstance(text, str):
        return f'<{type(text).__qualname__}>'
    if len(text) > limit:
        dropped = f'\n... {len(text) - limit} characters left out ...\n'
        text = text[: limit // 2] + dropped + text[-(limit // 2) :]
    return str.encode(text, 'utf-8', 'backslashreplace').decode()


__all__ = [
    'MAX_TEXT',
    'OriginalTraceback',
    'describe_exception',
    'dump_exception',
    'load_exception',
    'register_exception',
]
