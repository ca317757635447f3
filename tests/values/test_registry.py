"""Types that users register."""

from __future__ import annotations

import dataclasses
import fractions
from collections.abc import Callable

import pytest

from treadle.engine.errors import CorruptValue, UnstorableValue
from treadle.engine.values import Codec, File, register_codec


class Basis:
    def __init__(self, name: str) -> None:
        self.name = name


class Other:
    pass


def test_a_registered_type_goes_round() -> None:
    class Mine(Basis):
        pass

    codec = Codec()
    with pytest.raises(UnstorableValue, match='register a codec'):
        codec.encode(Mine('a'))
    register_codec(Mine, 'test-mine', lambda mine: {'n': (mine.name,)}, lambda data: Mine(data['n'][0]))
    text = codec.encode([Mine('a')])
    assert text == '[{"$":"codec","name":"test-mine","data":{"n":{"$":"tuple","items":["a"]}}}]'
    assert codec.decode(text)[0].name == 'a'


def test_a_registration_goes_before_what_was_cached() -> None:
    @dataclasses.dataclass
    class Late:
        a: int

    codec = Codec()
    assert 'dataclass' in codec.encode(Late(1))
    register_codec(Late, 'test-late', lambda late: late.a, Late)
    assert codec.encode(Late(1)) == '{"$":"codec","name":"test-late","data":1}'


def test_codecs_that_fail_are_named() -> None:
    class Bad:
        pass

    codec = Codec()
    register_codec(Bad, 'test-bad', lambda bad: 1 // 0, lambda data: 5)  # type: ignore[arg-type,return-value]
    with pytest.raises(UnstorableValue, match=r'value\.a: .*Bad.*its codec failed: ZeroDivisionError'):
        codec.encode({'a': Bad()})
    with pytest.raises(CorruptValue, match=r"'test-bad' gave <class 'int'>"):
        codec.decode('{"$":"codec","name":"test-bad","data":1}')
    register_codec(Bad, 'test-bad', lambda bad: {'self': bad}, lambda data: data)
    with pytest.raises(UnstorableValue, match=r'contains itself|nested deeper'):
        codec.encode(Bad())


def test_a_class_that_was_defined_anew_takes_over_the_name() -> None:
    def define() -> type:
        class Cell:
            pass

        return Cell

    for _ in range(2):
        cell = define()
        register_codec(cell, 'test-cell', lambda value: None, lambda data, cls=cell: cls())  # type: ignore[misc]
        codec = Codec()
        assert type(codec.decode(codec.encode(cell()))) is cell


def nothing(value: object) -> None:
    return None


@pytest.mark.parametrize(
    ('call', 'error', 'message'),
    [
        (lambda: register_codec(int, 'x', nothing, nothing), TypeError, 'stored by Treadle itself'),  # type: ignore[arg-type]
        (lambda: register_codec(File, 'x', nothing, nothing), TypeError, 'stored by Treadle itself'),  # type: ignore[arg-type]
        (lambda: register_codec(5, 'x', nothing, nothing), TypeError, 'must be a class'),  # type: ignore[arg-type]
        (lambda: register_codec(Other, '', nothing, nothing), ValueError, 'non-empty'),  # type: ignore[arg-type]
        (lambda: register_codec(Other, 'x', None, nothing), TypeError, 'to_data'),  # type: ignore[arg-type]
        (lambda: register_codec(Other, 'x', nothing, 3), TypeError, 'from_data'),  # type: ignore[arg-type]
    ],
)
def test_misuse(call: Callable[[], None], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_names_are_not_shared() -> None:
    register_codec(fractions.Fraction, 'test-fraction', str, fractions.Fraction)
    with pytest.raises(ValueError, match='belongs to'):
        register_codec(Other, 'test-fraction', nothing, nothing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='is registered as'):
        register_codec(fractions.Fraction, 'test-other', str, fractions.Fraction)
    codec = Codec()
    assert codec.decode(codec.encode(fractions.Fraction(1, 3))) == fractions.Fraction(1, 3)
