"""numpy arrays and scalars as data: the dtype described in JSON, the elements as bytes. Imports numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CorruptValue
from .lowering import TAG
from .trouble import Trouble

Blob = Callable[[bytes], dict[str, Any]]
Text = Callable[[str, int], Any]

_DTYPE = re.compile(r'[<>|=]?(?:[biufcSUV]\d{1,10}|[mM]8(?:\[[0-9A-Za-z]{1,20}\])?)')
# An x87 long double fills 10 of its 16 (or 12) bytes; the others hold anything.
_LONG_DOUBLE_BYTES = 10 if np.finfo(np.longdouble).nmant == 63 else np.dtype(np.longdouble).itemsize


def numpy_kind(cls: type) -> str | None:
    """Return 'array' for exactly ``ndarray``, 'scalar' for numpy's own scalar types, else None."""
    if cls is np.ndarray:
        return 'array'
    if issubclass(cls, np.generic) and cls.__module__ == 'numpy' and cls is not np.object_:
        return 'scalar'
    return None


def lower_array(value: np.ndarray[Any, Any], blob: Blob, text: Text) -> dict[str, Any]:
    """Return ``value`` as tagged data, its elements in C order."""
    described = _describe(value.dtype)
    return {TAG: 'array', 'dtype': described, 'shape': list(value.shape), **blob(_clean(value).tobytes())}


def lower_scalar(value: np.generic, blob: Blob, text: Text) -> dict[str, Any]:
    """Return a numpy scalar as tagged data."""
    if isinstance(value, np.str_):
        # Not str(value), which like an array of text would lose trailing NULs.
        return {TAG: 'scalar', 'dtype': 'U', 'value': text(str.__getitem__(value, slice(None)), 0)}
    if isinstance(value, np.bytes_):
        return {TAG: 'scalar', 'dtype': 'S', **blob(bytes(value))}
    described = _describe(value.dtype)
    return {TAG: 'scalar', 'dtype': described, **blob(_clean(np.asarray(value)).tobytes())}


def lift_array(tree: dict[str, Any], lift_blob: Callable[[dict[str, Any]], bytes]) -> np.ndarray[Any, Any]:
    """Return the array of ``tree``: new, writable and in C order.

    :raises CorruptValue: if dtype, shape and data do not fit each other.
    """
    dtype = _undescribe(tree['dtype'])
    return _fill(dtype, _shape(tree['shape']), lift_blob(tree))


def lift_scalar(tree: dict[str, Any], lift_blob: Callable[[dict[str, Any]], bytes]) -> Any:
    """Return the numpy scalar of ``tree``."""
    described = tree['dtype']
    if described == 'U':
        if type(tree['value']) is not str:
            raise CorruptValue('stored data has a numpy text that is no text')
        return np.str_(tree['value'])
    if described == 'S':
        return np.bytes_(lift_blob(tree))
    dtype = _undescribe(described)
    if dtype.subdtype is not None:
        raise CorruptValue('stored data has a numpy scalar with a shape')
    return _fill(dtype, (), lift_blob(tree))[()]


def _fill(dtype: np.dtype[Any], shape: tuple[int, ...], data: bytes) -> np.ndarray[Any, Any]:
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CorruptValue(f'stored data has an array {shape} of {dtype} with {len(data)} bytes')
    # Over a buffer of its own, and not np.frombuffer, which does not take elements without bytes.
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer=bytearray(data))
    _check_elements(array)
    return array


def _check_elements(array: np.ndarray[Any, Any]) -> None:
    if array.dtype.names is not None:
        for name in array.dtype.names:
            _check_elements(array[name])
    elif array.dtype.kind == 'b' and array.size and array.view(np.uint8).max() > 1:
        raise CorruptValue('stored data has an array of bools that are neither true nor false')
    elif array.dtype.kind == 'U' and array.size and array.dtype.itemsize:
        points = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + 'u4')
        if points.max() > 0x10FFFF:
            raise CorruptValue('stored data has an array of text that is no text')


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not list or any(type(size) is not int or not 0 <= size < 2**63 for size in shape):
        raise CorruptValue('stored data has an array whose shape is no list of sizes')
    return tuple(shape)


def _describe(dtype: np.dtype[Any]) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {'base': _describe(base), 'shape': list(shape)}
    if dtype.names is not None and dtype.fields is not None:
        fields = []
        for name in dtype.names:
            field = dtype.fields[name]
            title = field[2] if len(field) > 2 else None
            if title is not None and type(title) is not str:
                raise Trouble(f'an array of {dtype} cannot be stored; use text for the titles of its fields')
            fields.append([name, _describe(field[0]), field[1], title])
        return {'fields': fields, 'size': dtype.itemsize, 'align': dtype.isalignedstruct}
    if dtype.kind == 'O':
        raise Trouble('an array of objects cannot be stored; use a list, or an array of numbers or text')
    if not _DTYPE.fullmatch(dtype.str) or np.dtype(dtype.str) != dtype:
        raise Trouble(f'an array of {dtype!r} cannot be stored; convert it to a basic dtype (astype)')
    return dtype.str


def _undescribe(described: Any, depth: int = 0) -> np.dtype[Any]:
    if depth > 50:
        raise CorruptValue('stored data has a dtype that is nested too deep')
    if type(described) is str and _DTYPE.fullmatch(described):
        return np.dtype(described)
    if type(described) is dict and 'base' in described:
        return np.dtype((_undescribe(described['base'], depth + 1), _shape(described['shape'])))
    if type(described) is dict:
        names, formats, offsets, titles = [], [], [], []
        for name, fmt, offset, title in described['fields']:
            if type(name) is not str or type(offset) is not int or not (title is None or type(title) is str):
                raise CorruptValue('stored data has a dtype with a malformed field')
            names.append(name)
            formats.append(_undescribe(fmt, depth + 1))
            offsets.append(offset)
            titles.append(title)
        size, align = described['size'], described['align']
        if type(size) is not int or type(align) is not bool or any(offset < 0 for offset in offsets):
            raise CorruptValue('stored data has a malformed dtype')
        layout = {'names': names, 'formats': formats, 'offsets': offsets, 'itemsize': size}
        if any(title is not None for title in titles):
            layout['titles'] = titles
        # numpy checks that the fields lie within the size.
        return np.dtype(layout, align=align)  # type: ignore[call-overload,no-any-return]
    raise CorruptValue(f'stored data has an array of the dtype {str(described)[:100]!r}')


def _clean(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return ``array``, or a copy in which bytes that belong to no element are zero.

    Padding holds what was in memory before; stored, it would make equal arrays differ.
    """
    if not _has_padding(array.dtype):
        return array
    clean = np.zeros(array.shape, array.dtype)
    _copy(array, clean)
    return clean


def _has_padding(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype is not None:
        return _has_padding(dtype.subdtype[0])
    return dtype.names is not None or dtype.char in 'gG'


def _copy(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
    if source.dtype.names is not None:
        for name in source.dtype.names:
            _copy(source[name], target[name])
    elif source.dtype.char in 'gG' and source.size:
        size = np.dtype(np.longdouble).itemsize
        raw = np.ascontiguousarray(source).reshape(-1).view(np.uint8).reshape(-1, size).copy()
        raw[:, _LONG_DOUBLE_BYTES:] = 0
        # Viewed as plain bytes, since an assignment of numbers need not keep the zeros.
        kept = raw.reshape(-1).view(f'V{source.dtype.itemsize}').reshape(source.shape)
        target.view(f'V{source.dtype.itemsize}')[...] = kept
    else:
        target[...] = source
