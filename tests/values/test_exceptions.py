"""Exceptions as data: builtin and registered ones come back, all others are described."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import pytest

from treadle.engine import errors
from treadle.engine.errors import CorruptValue, ProcessExcepted, ValidationError
from treadle.engine.values import describe_exception, dump_exception, load_exception, register_exception


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def trip(exc: BaseException) -> BaseException:
    return load_exception(dump_exception(raised(exc)))


BUILTIN: list[BaseException] = [
    ValueError('bad', 1, (2,)),
    ValueError(),
    KeyError('name'),
    KeyError(('a', 1)),
    OSError(2, 'No such file', 'a.txt'),
    OSError(2, 'No such file', 'a.txt', None, 'b.txt'),
    FileExistsError(17, 'exists'),
    OSError('odd'),
    UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid'),
    UnicodeEncodeError('utf-8', '\ud800', 0, 1, 'surrogates'),
    SyntaxError('bad', ('f.py', 1, 2, 'text')),
    StopIteration(5),
    SystemExit(3),
    KeyboardInterrupt(),
    ZeroDivisionError('x'),
    ImportError('no'),
    ValidationError('inputs.x: required'),
    errors.LeaseLost('late'),
]


@pytest.mark.parametrize('exc', BUILTIN, ids=repr)
def test_builtin_exceptions_come_back(exc: BaseException) -> None:
    back = trip(exc)
    assert type(back) is type(exc) and back.args == exc.args and str(back) == str(exc)
    for name in ('errno', 'strerror', 'filename', 'filename2', 'start', 'object', 'code', 'value', 'lineno'):
        assert getattr(back, name, None) == getattr(exc, name, None)
    assert back.__cause__ is not None and 'in raised' in str(back.__cause__)


class Registered(ValueError):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f'code {code}')
        self.code = code
        self.hint = hint
        self.handle = io.StringIO()


class RegisteredOS(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(13, 'denied', path)


class Unregistered(ValueError):
    made = 0

    def __init__(self, *args: object) -> None:
        type(self).made += 1
        super().__init__(*args)


def test_registered_exceptions_come_back_with_their_attributes() -> None:
    assert register_exception(Registered) is Registered
    register_exception(RegisteredOS)
    back = trip(Registered(5, hint='h'))
    assert isinstance(back, Registered) and back.args == ('code 5',)
    assert (back.code, back.hint) == (5, 'h') and not hasattr(back, 'handle')
    back = trip(RegisteredOS('/x'))
    assert isinstance(back, RegisteredOS) and (back.errno, back.filename) == (13, '/x')
    with pytest.raises(TypeError, match='no exception class'):
        register_exception(int)  # type: ignore[type-var]


def test_others_are_described() -> None:
    exc = Unregistered('why')
    made = Unregistered.made
    text = dump_exception(exc)
    back = load_exception(text)
    assert type(back) is ProcessExcepted and str(back) == f'{__name__}.Unregistered: why'
    assert Unregistered.made == made
    assert type(trip(ValueError(object()))) is ProcessExcepted
    assert str(trip(ValueError(io.StringIO()))).startswith('ValueError: <_io.StringIO')


def test_describe() -> None:
    name, message, text = describe_exception(dump_exception(raised(KeyError('k'))))
    assert (name, message) == ('KeyError', "'k'")
    assert text.startswith('Traceback') and text.endswith("KeyError: 'k'\n")
    assert describe_exception(dump_exception(Unregistered()))[0] == f'{__name__}.Unregistered'


def test_notes_and_causes() -> None:
    exc = ValueError('outer')
    exc.add_note('a note')
    exc.__cause__ = raised(KeyError('inner'))
    back = load_exception(dump_exception(exc))
    assert back.__notes__ == ['a note']
    assert json.loads(dump_exception(exc))['causes'] == [{'type': 'KeyError', 'message': "'inner'"}]
    assert "KeyError: 'inner'" in describe_exception(dump_exception(exc))[2]
    exc.__cause__ = exc  # a circle
    assert load_exception(dump_exception(exc)).args == ('outer',)


def test_groups() -> None:
    group = ExceptionGroup('some', [ValueError(1), ExceptionGroup('in', [KeyError('k')]), Unregistered('u')])
    back = trip(group)
    assert isinstance(back, ExceptionGroup) and back.message == 'some'
    first, second, third = back.exceptions
    assert repr(first) == 'ValueError(1)' and repr(second) == "ExceptionGroup('in', [KeyError('k')])"
    assert type(third) is ProcessExcepted
    base = trip(BaseExceptionGroup('b', [KeyboardInterrupt()]))
    assert type(base) is BaseExceptionGroup
    assert type(trip(ExceptionGroup('many', [ValueError(n) for n in range(1000)]))) is ProcessExcepted


class Nasty(Exception):
    def __str__(self) -> str:
        raise RuntimeError('no text')

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise RuntimeError('no truth')


class Nastier(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError('no arguments')

    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise RuntimeError('no notes')

    def __reduce__(self) -> Any:
        raise RuntimeError('no')


class NotText(Exception):
    def __str__(self) -> Any:
        return 5


@pytest.mark.parametrize(
    'exc', [Nasty('x'), Nastier('x'), NotText(), ValueError(Nasty()), ValueError('\ud800')]
)
def test_whatever_an_exception_does(exc: BaseException) -> None:
    outer = RuntimeError('outer')
    outer.__cause__ = raised(exc)
    for each in (exc, outer, BaseExceptionGroup('g', [exc])):
        text = dump_exception(raised(each))
        text.encode()
        assert isinstance(load_exception(text), BaseException)
        assert all(type(part) is str for part in describe_exception(text))


def test_size_is_bounded() -> None:
    exc = ValueError('head' + 'x' * 10_000_000 + 'tail')
    exc.add_note('n' * 1_000_000)
    text = dump_exception(raised(exc))
    assert len(text) < 400_000
    _, message, trace = describe_exception(text)
    assert message.startswith('head') and message.endswith('tail') and 'characters left out' in message
    assert len(trace) < 66_000 and trace.startswith('Traceback')

    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as caught:
        assert type(load_exception(dump_exception(caught))) is RecursionError


def test_rebuilt_exceptions_are_ordinary() -> None:
    back = trip(ValueError('x', [1]))
    with pytest.raises(ValueError, match='x'):
        raise back
    assert pickle.loads(pickle.dumps(trip(KeyError('k')))).args == ('k',)  # noqa: S301


def test_corrupt() -> None:
    for text in ('', '[]', '{"module": 1}'):
        with pytest.raises(CorruptValue):
            describe_exception(text)
