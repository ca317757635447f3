"""From JSON's own types back to values. Nothing that stored data names is called unless it was registered."""

from __future__ import annotations

import binascii
import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CorruptValue, StoreError
from .classes import DataclassPlan, find_dataclass, find_enum
from .files import File, check_path, stored_file, stored_folder
from .lowering import TAG
from .objects import ObjectStore, check_sha256
from .registry import Reference, registry

_HEX = re.compile('-?0x[0-9a-f]+')
_PATHS = {
    'PosixPath': pathlib.PosixPath,
    'WindowsPath': pathlib.WindowsPath,
    'PurePosixPath': pathlib.PurePosixPath,
    'PureWindowsPath': pathlib.PureWindowsPath,
}


class Lifter:
    """Lifts what a :class:`~.lowering.Lowerer` made, in place: the tree that is passed is used up.

    :param objects: where large contents are.
    :param references: what lifts the engine's own types.
    """

    def __init__(self, objects: ObjectStore | None, references: Mapping[type, Reference]) -> None:
        self._objects = objects
        self._references: dict[str, Reference] = {}
        # By class, not by name: a class that was defined anew gets a plan of its own.
        self._plans: dict[type, DataclassPlan] = {}
        self._tags: dict[str, Callable[[dict[str, Any]], Any]] = {
            'int': _int,
            'float': _float,
            'complex': self._complex,
            'str': lambda tree: self._blob(tree).decode('utf-8', 'surrogatepass'),
            'bytes': self._blob,
            'bytearray': lambda tree: bytearray(self._blob(tree)),
            'tuple': lambda tree: tuple(self._items(tree)),
            'set': lambda tree: self._set(tree, set),
            'frozenset': lambda tree: self._set(tree, frozenset),
            'dict': self._dict,
            'datetime': self._datetime,
            'date': lambda tree: dt.date.fromisoformat(_text(tree, 'value')),
            'time': self._time,
            'timedelta': lambda tree: _timedelta(tree['value']),
            'zone': lambda tree: _zone(tree['zone']),
            'uuid': lambda tree: uuid.UUID(hex=_text(tree, 'value')),
            'decimal': lambda tree: decimal.Decimal(_text(tree, 'value')),
            'path': lambda tree: _PATHS[_text(tree, 'type')](self._lifted_text(tree, 'value')),
            'enum': self._enum,
            'flag': self._flag,
            'dataclass': self._dataclass,
            'codec': self._codec,
            'array': self._array,
            'scalar': self._scalar,
            'file': self._file,
            'folder': self._folder,
        }
        for reference in references.values():
            holder = self._references.get(reference.tag)
            if reference.tag in self._tags or (holder is not None and holder is not reference):
                raise ValueError(f'the tag {reference.tag!r} of a Reference is in use; choose another')
            self._references[reference.tag] = reference

    def lift(self, tree: Any) -> Any:
        """Return the value of ``tree``.

        :raises CorruptValue: if it has none.
        """
        kind = type(tree)
        if kind is dict:
            if TAG in tree:
                return self._tagged(tree)
            for key, item in tree.items():
                if type(item) is dict or type(item) is list:
                    tree[key] = self.lift(item)
        elif kind is list:
            for index, item in enumerate(tree):
                if type(item) is dict or type(item) is list:
                    tree[index] = self.lift(item)
        return tree

    def _tagged(self, tree: dict[str, Any]) -> Any:
        tag = tree[TAG]
        lift = self._tags.get(tag) if type(tag) is str else None
        if lift is None and type(tag) is str and (reference := self._references.get(tag)) is not None:
            lift = self._reference(reference)
        if lift is None:
            raise CorruptValue(
                f'stored data has the unknown tag {_short(tag)}; it is damaged or of a newer Treadle: '
                'read it with the version that wrote it'
            )
        try:
            return lift(tree)
        except (CorruptValue, StoreError, RecursionError, MemoryError):
            raise
        except KeyError as exc:
            raise CorruptValue(
                f'stored data of the tag {tag!r} does not decode: {exc!s:.99} is missing'
            ) from exc
        except Exception as exc:  # whatever a constructor says to a malformed argument
            raise CorruptValue(f'stored data of the tag {tag!r} does not decode: {exc!s:.200}') from exc

    # Containers

    def _items(self, tree: dict[str, Any]) -> list[Any]:
        items: list[Any] = self.lift(_typed(tree, 'items', list))

        return items

    def _set(self, tree: dict[str, Any], cls: type) -> Any:
        items = self._items(tree)
        value = cls(items)
        if len(value) != len(items):
            raise CorruptValue('stored data has a set with equal members')
        return value

    def _dict(self, tree: dict[str, Any]) -> dict[Any, Any]:
        pairs = _typed(tree, 'items', list)
        value = {}
        for pair in pairs:
            if type(pair) is not list:
                raise CorruptValue('stored data has a dict whose items are no pairs')
            key, item = pair
            value[self.lift(key)] = self.lift(item)
        if len(value) != len(pairs):
            raise CorruptValue('stored data has a dict with equal keys')
        return value

    # Numbers, text and bytes

    def _complex(self, tree: dict[str, Any]) -> complex:
        real, imag = self.lift(tree['real']), self.lift(tree['imag'])
        if type(real) is not float or type(imag) is not float:
            raise CorruptValue('stored data has a complex number whose parts are no floats')
        return complex(real, imag)

    def _blob(self, tree: dict[str, Any]) -> bytes:
        if 'object' not in tree:
            return binascii.a2b_base64(_text(tree, 'base64'), strict_mode=True)
        sha256 = check_sha256(tree['object'])
        with self._store().open(sha256) as stream:
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptValue(f'the object {sha256} is damaged; restore it from a backup')
        return data

    def _store(self) -> ObjectStore:
        if self._objects is None:
            raise CorruptValue(
                'stored data refers to an object store; give the Codec the one that it was written with'
            )
        return self._objects

    def _lifted_text(self, tree: dict[str, Any], key: str) -> str:
        text = self.lift(tree[key])  # text that is no UTF-8 is tagged itself
        if type(text) is not str:
            raise CorruptValue(f'stored data has {type(text).__name__} where text belongs ({key})')
        return text

    # Times

    def _datetime(self, tree: dict[str, Any]) -> dt.datetime:
        value = dt.datetime.fromisoformat(_text(tree, 'value'))
        return value.replace(tzinfo=_zone(tree['zone']) if 'zone' in tree else None, fold=_fold(tree))

    def _time(self, tree: dict[str, Any]) -> dt.time:
        value = dt.time.fromisoformat(_text(tree, 'value'))
        return value.replace(tzinfo=_zone(tree['zone']) if 'zone' in tree else None, fold=_fold(tree))

    # Classes

    def _enum(self, tree: dict[str, Any]) -> enum.Enum:
        cls = find_enum(tree['class'])
        name = self._lifted_text(tree, 'name')
        member = cls._member_map_.get(name)
        if member is None:
            raise CorruptValue(f'{cls.__qualname__} has no member {name!r} (any more), but stored data has')
        return member

    def _flag(self, tree: dict[str, Any]) -> enum.Flag:
        cls = find_enum(tree['class'])
        value = self.lift(tree['value'])
        if not issubclass(cls, enum.Flag) or type(value) is not int:
            raise CorruptValue(f'stored data says that {cls.__qualname__} is a Flag, but it is not')
        return cls(value)

    def _dataclass(self, tree: dict[str, Any]) -> Any:
        cls = find_dataclass(tree['class'])
        plan = self._plans.get(cls)
        if plan is None:
            plan = self._plans[cls] = DataclassPlan(cls)
        # Item by item: lifted as a whole, a field called '$' (of hostile data) would be taken for a tag.
        fields, extra = _typed(tree, 'fields', dict), _typed(tree, 'extra', dict) if 'extra' in tree else {}
        return plan.put_together(
            {name: self.lift(item) for name, item in fields.items()},
            {name: self.lift(item) for name, item in extra.items()},
        )

    def _codec(self, tree: dict[str, Any]) -> Any:
        name = _text(tree, 'name')
        codec = registry.of_name(name)
        if codec is None:
            raise CorruptValue(
                f'stored data needs the codec {_short(name)}; call treadle.engine.register_codec before'
            )
        value = codec.from_data(self.lift(tree['data']))
        if type(value) is not codec.cls:
            raise CorruptValue(
                f'the codec {name!r} gave {type(value)!r}, not {codec.cls!r}; mend its from_data'
            )
        return value

    def _reference(self, reference: Reference) -> Callable[[dict[str, Any]], Any]:
        return lambda tree: reference.load(self.lift(tree['data']))

    # Arrays: numpy is imported by the first one

    def _array(self, tree: dict[str, Any]) -> Any:
        from .arrays import lift_array  # noqa: PLC0415 - as the comment above says

        return lift_array(tree, self._blob)

    def _scalar(self, tree: dict[str, Any]) -> Any:
        from .arrays import lift_scalar  # noqa: PLC0415 - likewise

        if 'value' in tree:
            return lift_scalar({**tree, 'value': self.lift(tree['value'])}, self._blob)
        return lift_scalar(tree, self._blob)

    # Files

    def _file(self, tree: dict[str, Any]) -> File:
        return self._content(self._lifted_text(tree, 'name'), tree)

    def _folder(self, tree: dict[str, Any]) -> Any:
        files: dict[str, File] = {}
        for entry in _typed(tree, 'files', list):
            if type(entry) is not dict:
                raise CorruptValue('stored data has a Folder with something that is no file')
            path = self._lifted_text(entry, 'path')
            file = self._content(check_path(path)[-1], entry)
            if files.setdefault(path, file) is not file:
                raise CorruptValue(f'stored data has a Folder with {path!r} twice')
        return stored_folder(files)

    def _content(self, name: str, tree: dict[str, Any]) -> File:
        size = tree['size']
        if type(size) is not int or size < 0:
            raise CorruptValue(f'stored data has a File of the size {_short(size)}')
        if 'object' in tree:
            return stored_file(name, size, check_sha256(tree['object']), self._store())
        data = self._blob(tree)
        if len(data) != size:
            raise CorruptValue(f'stored data has a File of {size} bytes with {len(data)} of them')
        return File(data, name)


def _short(item: object) -> str:
    text = repr(item)
    return text if len(text) <= 100 else text[:97] + '...'


def _typed(tree: dict[str, Any], key: str, cls: type) -> Any:
    item = tree[key]
    if type(item) is not cls:
        raise CorruptValue(f'stored data has {type(item).__name__} where {cls.__name__} belongs ({key})')
    return item


def _text(tree: dict[str, Any], key: str) -> str:
    text: str = _typed(tree, key, str)
    return text


def _int(tree: dict[str, Any]) -> int:
    text = _text(tree, 'value')
    if not _HEX.fullmatch(text):
        raise CorruptValue(f'stored data has the integer {_short(text)}, which is not hexadecimal')
    return int(text, 16)


def _float(tree: dict[str, Any]) -> float:
    text = _text(tree, 'value')
    if text not in ('nan', 'inf', '-inf', '-0.0'):
        raise CorruptValue(f'stored data has the tagged float {_short(text)}')
    return float(text)


def _fold(tree: dict[str, Any]) -> int:
    fold = tree.get('fold', 0)
    if type(fold) is not int:
        raise CorruptValue(f'stored data has the fold {_short(fold)}')
    return fold


def _timedelta(parts: Any) -> dt.timedelta:
    if type(parts) is not list or len(parts) != 3 or any(type(part) is not int for part in parts):
        raise CorruptValue('stored data has a timedelta that is not days, seconds and microseconds')
    return dt.timedelta(*parts)


def _zone(zone: Any) -> dt.tzinfo:
    if type(zone) is str:
        try:
            return zoneinfo.ZoneInfo(zone)
        except (ValueError, OSError, KeyError) as exc:
            raise CorruptValue(
                f'stored data needs the time zone {_short(zone)}, which is not known here; install tzdata'
            ) from exc
    if type(zone) is not dict:
        raise CorruptValue('stored data has a time zone that is neither a name nor an offset')
    offset = _timedelta(zone['offset'])
    return dt.timezone(offset, _text(zone, 'name')) if 'name' in zone else dt.timezone(offset)
