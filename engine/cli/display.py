"""Stored values for people: as text in Python's spelling, made from the data alone.

Nothing is decoded with the codec: that would import the modules of Enums and dataclasses, and could fail. A
value whose class is long gone is shown like any other, and what is not understood is shown as its JSON.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..errors import CorruptValue
from ..store.records import ProcessRecord
from ..values import describe_exception
from .output import clean, shorten

__all__ = ['as_data', 'describe_value', 'describe_values', 'ending']

#: Namespaces deeper than this are shown on one line.
_DEEPEST: Final = 4
#: numpy's dtypes whose single values are shown, as formats of :mod:`struct`.
_NUMBERS: Final = {
    '<f2': '<e', '<f4': '<f', '<f8': '<d', '|b1': '?', '|i1': 'b', '|u1': 'B',
    '<i2': '<h', '<u2': '<H', '<i4': '<i', '<u4': '<I', '<i8': '<q', '<u8': '<Q',
}  # fmt: skip


def as_data(text: str | None) -> Any:
    """The stored JSON as plain data, types kept as their tags (``{'$': 'tuple', ...}``).

    What is no JSON, or nested too deep for Python, is returned as the text that it is.
    """
    if text is None:
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def describe_values(text: str | None, most: int | None) -> list[str]:
    """A namespace of values, such as the inputs, as lines ``name: value``.

    :param most: characters of one value; ``None`` for all.
    """
    tree = as_data(text)
    if not isinstance(tree, dict) or '$' in tree:
        return [shorten(describe_value(tree), most)]
    return list(_lines(tree, most, 0))


def _lines(tree: dict[str, Any], most: int | None, depth: int) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict) and value and '$' not in value and depth < _DEEPEST:
            yield f'{"  " * depth}{clean(name)}:'
            yield from _lines(value, most, depth + 1)
        else:
            yield f'{"  " * depth}{clean(name)}: {shorten(describe_value(value), most)}'


def describe_value(tree: Any) -> str:
    """One stored value as a line of text; never raises, whatever the data is."""
    try:
        return clean(_describe(tree))
    except RecursionError:
        return '<nested too deep to be shown>'


def _describe(tree: Any) -> str:
    if isinstance(tree, dict):
        if '$' not in tree:
            return '{' + ', '.join(f'{key!r}: {_describe(value)}' for key, value in tree.items()) + '}'
        try:
            return _TAGS[tree['$']](tree)
        except (KeyError, TypeError, ValueError, AttributeError, struct.error):
            return json.dumps(tree)
    if isinstance(tree, list):
        return f'[{_items(tree)}]'
    return repr(tree)


def _items(trees: list[Any]) -> str:
    return ', '.join(_describe(tree) for tree in trees)


def _tuple(tree: dict[str, Any]) -> str:
    items = tree['items']
    return f'({_items(items)},)' if len(items) == 1 else f'({_items(items)})'


def _set(tree: dict[str, Any]) -> str:
    text = '{' + _items(tree['items']) + '}' if tree['items'] else ''
    return text if text and tree['$'] == 'set' else f'{tree["$"]}({text})'


def _dict(tree: dict[str, Any]) -> str:
    return '{' + ', '.join(f'{_describe(key)}: {_describe(value)}' for key, value in tree['items']) + '}'


def _contents(tree: dict[str, Any]) -> bytes | None:
    """The bytes that stand in the data itself; ``None`` when they are in the object store."""
    if 'object' in tree:
        return None
    try:
        return base64.b64decode(tree['base64'], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _blob(tree: dict[str, Any]) -> str:
    contents = _contents(tree)
    if contents is None:
        return f'<{tree["$"]}, object {tree["object"][:12]}>'
    if tree['$'] == 'str':
        return repr(contents.decode('utf-8', 'surrogatepass'))
    return repr(contents if tree['$'] == 'bytes' else bytearray(contents))


def _class_name(tree: dict[str, Any]) -> str:
    return str(tree['class']).rpartition(':')[2]


def _dataclass(tree: dict[str, Any]) -> str:
    fields = {**tree['fields'], **tree.get('extra', {})}
    inner = ', '.join(f'{name}={_describe(value)}' for name, value in fields.items())
    return f'{_class_name(tree)}({inner})'


def _scalar(tree: dict[str, Any]) -> str:
    if 'value' in tree:
        return f'numpy {_describe(tree["value"])}'
    contents, form = _contents(tree), _NUMBERS.get(str(tree['dtype']))
    if contents is None or form is None:
        return f'<numpy scalar of {tree["dtype"]}>'
    return f'numpy {struct.unpack(form, contents)[0]!r}'


def _array(tree: dict[str, Any]) -> str:
    shape = ' x '.join(map(str, tree['shape'])) or 'no dimension'
    dtype = tree['dtype'] if isinstance(tree['dtype'], str) else 'structure'
    return f'<array, {shape}, {dtype}>'


def _folder(tree: dict[str, Any]) -> str:
    files = ', '.join(f'{_describe(file["path"])} ({file["size"]} bytes)' for file in tree['files'])
    return f'<folder: {files}>'


def _timedelta(tree: dict[str, Any]) -> str:
    days, seconds, microseconds = tree['value']
    return f"timedelta('{datetime.timedelta(days, seconds, microseconds)}')"


def _integer(tree: dict[str, Any]) -> str:
    # Not decimal when it is very long, which Python refuses.
    return str(int(tree['value'], 16)) if len(tree['value']) < 1000 else str(tree['value'])


def _named(tree: dict[str, Any]) -> str:
    return f'{tree["$"]}({tree["value"]!r})'


_TAGS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    'int': _integer,
    'float': lambda tree: str(tree['value']),
    'complex': lambda tree: f'complex({_describe(tree["real"])}, {_describe(tree["imag"])})',
    'str': _blob,
    'bytes': _blob,
    'bytearray': _blob,
    'tuple': _tuple,
    'set': _set,
    'frozenset': _set,
    'dict': _dict,
    'datetime': _named,
    'date': _named,
    'time': _named,
    'timedelta': _timedelta,
    'uuid': _named,
    'decimal': _named,
    'path': lambda tree: f'{tree["type"]}({_describe(tree["value"])})',
    'enum': lambda tree: f'{_class_name(tree)}.{tree["name"]}',
    'flag': lambda tree: f'{_class_name(tree)}({_describe(tree["value"])})',
    'dataclass': _dataclass,
    'codec': lambda tree: f'{tree["name"]}({_describe(tree["data"])})',
    'scalar': _scalar,
    'array': _array,
    'file': lambda tree: f'<file {_describe(tree["name"])}, {tree["size"]} bytes>',
    'folder': _folder,
    'node': lambda tree: f'<process {_describe(tree["data"])}>',
    'attributes': lambda tree: _describe(tree['data']),
    'frozen-attributes': lambda tree: _describe(tree['data']),
}


def ending(record: ProcessRecord) -> str:
    """How a process has ended, with its exit status and the reason."""
    if record.exception is not None:
        try:
            name, message, _ = describe_exception(record.exception)
        except CorruptValue:
            return record.state
        return f'{record.state}: {clean(name)}: {clean(message)}'
    status = '' if record.exit_status is None else f' [{record.exit_status}]'
    return f'{record.state}{status}{f": {clean(record.exit_message)}" if record.exit_message else ""}'
