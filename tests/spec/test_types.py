"""What ``valid_type`` may be and what then fits."""

from __future__ import annotations

import datetime
import enum
import numbers
import re
import typing
from collections.abc import Mapping

import numpy as np
import pytest

from treadle.engine.errors import SpecError
from treadle.engine.spec.types import TypeCheck


class Word(str):
    pass


class Level(enum.IntEnum):
    LOW = 1


Charge = typing.NewType('Charge', int)


@pytest.mark.parametrize(
    ('valid_type', 'fits', 'does_not'),
    [
        (int, [0, -5, Level.LOW], ['5', 1.0, None, True, False, np.int64(1)]),
        (float, [1.0, 1, float('nan'), np.float64(1)], ['1.0', True, np.float32(1), None]),
        (bool, [True, False], [0, 1]),
        ((int, bool), [1, True], [1.0]),
        (str, ['', Word('x')], [b'', 1]),
        ((str, int), ['a', 1], [1.0, None]),
        ([str, int], ['a', 1], [1.0]),
        (str | int, ['a', 1], [1.0]),
        (typing.Union[str, int], ['a', 1], [1.0]),  # noqa: UP007
        (typing.Optional[int], [None, 1], ['a']),  # noqa: UP045
        ((int, None), [None, 1], ['a']),
        (int | None, [None, 1], [True]),
        (None, [None], [0, '']),
        (typing.Any, [None, True, object()], []),
        (object, [None, True, object()], []),
        (numbers.Integral, [1, True, np.int64(1)], [1.0]),
        (list[int], [[1], ['not looked into']], [(1,)]),
        (dict[str, int], [{}], [[]]),
        (Mapping, [{}], [[]]),
        (typing.Annotated[int, 'eV'], [1], ['a']),
        (Charge, [1], ['a']),
        (Level, [Level.LOW], [1]),
        (np.ndarray, [np.zeros(2)], [[0.0, 0.0]]),
        (datetime.date, [datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)], ['2020-01-01']),
    ],
)
def test_what_fits(valid_type, fits, does_not):
    check = TypeCheck(valid_type)
    for value in fits:
        assert check.accepts(value), value
    for value in does_not:
        assert not check.accepts(value), value
    # The fast path must never take what the full check refuses.
    for value in does_not:
        assert type(value) not in check.exact, value


@pytest.mark.parametrize(
    'valid_type', [5, 'int', (), [], (int, 'str'), typing.Literal['a'], typing.TypeVar('T')]
)
def test_what_is_no_type_is_refused(valid_type):
    with pytest.raises(SpecError, match='valid_type'):
        TypeCheck(valid_type)


def test_a_protocol_that_cannot_be_checked_is_refused_at_once():
    class Closable(typing.Protocol):
        def close(self) -> None: ...

    with pytest.raises(SpecError, match='cannot be checked'):
        TypeCheck(Closable)


def test_types_are_named_as_people_write_them():
    assert TypeCheck(int | None).text == 'int or None'
    assert TypeCheck((float, datetime.date)).text == 'float or datetime.date'


def test_with_none():
    check = TypeCheck(float).with_none()
    assert check.accepts(None)
    assert check.accepts(1)
    assert check.text == 'float or None'


@pytest.mark.parametrize(
    ('valid_type', 'value', 'remedy'),
    [
        (int, True, 'bool'),
        (int, np.int64(3), r'\.item\(\)'),
        (int, '3', 'convert'),
        (Level, Level, 'instance'),
    ],
)
def test_the_remedy_fits_the_mistake(valid_type, value, remedy):
    assert re.search(remedy, TypeCheck(valid_type).remedy(value))


def test_a_numpy_array_is_not_told_to_become_a_scalar():
    assert TypeCheck(int).remedy(np.zeros(3)) == ''
