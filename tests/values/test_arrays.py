"""numpy arrays and scalars keep dtype, shape and every bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from treadle.engine.errors import UnstorableValue
from treadle.engine.values import Codec

CODEC = Codec()
STRUCTURED = np.dtype([('a', 'i1'), ('b', '<f8', (2,)), ('c', [('d', '>U3'), ('e', '?')])], align=True)
TITLED = np.dtype({'names': ['a'], 'formats': ['<i4'], 'titles': ['A title']})

ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::-2],
    np.array(3.5),
    np.empty((0, 3)),
    np.array([]),
    np.array([True, False]),
    np.array([1 + 2j, complex(np.nan, -0.0)]),
    np.array([np.nan, np.inf, -0.0], dtype='f4'),
    np.arange(3, dtype='>i2'),
    np.arange(3, dtype='u8'),
    np.arange(3, dtype='f2'),
    np.array(['a', 'ünï', '']),
    np.array(['a'], dtype='>U4'),
    np.array([b'a\0b', b'']),
    np.zeros(2, dtype='V5'),
    np.array(['2024-01-01', 'NaT'], dtype='M8[D]'),
    np.array([5], dtype='m8[25us]'),
    np.array([1], dtype='M8[ns]'),
    np.array([1.5, -2], dtype=np.longdouble),
    np.array([1 + 2j], dtype=np.clongdouble),
    np.zeros((2, 0), dtype='U0'),
    np.zeros((), dtype=STRUCTURED),
    np.ones(3, dtype=STRUCTURED),
    np.ones(3, dtype=TITLED),
    np.arange(100_000.0),
]


@pytest.mark.parametrize('array', ARRAYS, ids=lambda array: f'{str(array.dtype)[:20]}{array.shape}')
def test_arrays(array: np.ndarray[Any, Any]) -> None:
    back = CODEC.decode(CODEC.encode({'a': array}))['a']
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.dtype.str == array.dtype.str and back.dtype.isalignedstruct == array.dtype.isalignedstruct
    assert repr(back.tolist()) == repr(array.tolist())
    assert back.flags.writeable and back.flags.c_contiguous
    assert CODEC.fingerprint(back) == CODEC.fingerprint(array)


SCALARS = [
    np.float64(1.5),
    np.float64('nan'),
    np.float32(0.1),
    np.float16(2),
    np.longdouble(1) / 3,
    np.int8(-1),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.complex64(1 + 2j),
    np.str_('a\0'),
    np.str_('\ud800'),
    np.bytes_(b'a\0'),
    np.datetime64('2024-01-01T00:00', 'm'),
    np.datetime64('NaT', 's'),
    np.timedelta64(5, 'ns'),
    np.zeros(1, dtype=STRUCTURED)[0],
    np.void(b'abc'),
]


@pytest.mark.parametrize('scalar', SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_scalars(scalar: np.generic) -> None:
    back = CODEC.decode(CODEC.encode([scalar]))[0]
    assert type(back) is type(scalar)
    assert back.dtype == scalar.dtype
    assert repr(back) == repr(scalar)


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (np.array([object()]), r'^x\.a: an array of objects cannot be stored'),
        (np.zeros(1, dtype=[('a', 'O')]), 'array of objects'),
        (np.ma.array([1], mask=[True]), 'MaskedArray.*register a codec'),
        (np.zeros(1, dtype=[('a', 'i4')]).view(np.recarray), 'recarray'),
        (np.array(['a'], dtype=np.dtypes.StringDType()), 'convert it'),
        (np.dtype('f8'), 'cannot be stored'),
    ],
)
def test_what_is_not_stored(value: object, message: str) -> None:
    with pytest.raises(UnstorableValue, match=message):
        CODEC.encode({'a': value}, 'x')


def test_padding_does_not_make_equal_arrays_differ() -> None:
    for dtype in (STRUCTURED, np.dtype(np.longdouble), np.dtype([('a', 'i1'), ('l', 'g')], align=True)):
        size = dtype.itemsize
        prints = set()
        for filler in (b'\0', b'\xaa'):
            array = np.ndarray((2,), dtype, bytearray(filler * size * 2))
            if dtype.names:
                for name in dtype.names:
                    array[name] = np.zeros((), dtype.fields[name][0])  # type: ignore[index]
            else:
                raw = array.view(np.uint8).reshape(2, size)
                raw[:, :10] = 0
            prints.add(CODEC.fingerprint(array))
        assert len(prints) == 1
