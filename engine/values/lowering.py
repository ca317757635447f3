"""From values to JSON's own types; what JSON lacks becomes a tagged object (``{'$': 'date', ...}``)."""

from __future__ import annotations

import binascii
import datetime as dt
import decimal
import enum
import hashlib
import math
import pathlib
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import StoreError, UnstorableValue
from .classes import DataclassPlan, is_plain_dataclass, name_of
from .files import File, Folder, source_of
from .objects import ObjectStore
from .registry import Reference, UserCodec, registry
from .trouble import MAX_DEPTH, Trouble, piece_of, too_deep_trouble

TAG = '$'
LARGE = 64 * 1024
"""Contents longer than this, in bytes, go to the object store."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_SHORT = LARGE // 4  # characters that take at most LARGE bytes

_sorting_encoder = msgspec.json.Encoder(order='deterministic')

Lower = Callable[[Any, int], Any]


class Lowerer:
    """Lowers values, in one of two manners.

    For storing, large contents go to ``objects`` (or stay inline without one). For a fingerprint they are
    only hashed, and the order of dicts does not matter.

    :param careful: whether text may hold lone surrogates, which are no UTF-8; checking costs time.
    """

    def __init__(
        self,
        objects: ObjectStore | None,
        references: Mapping[type, Reference],
        *,
        careful: bool = False,
        fingerprint: bool = False,
    ) -> None:
        self._objects = objects
        self._references = dict(references)
        self._careful = careful
        self._fingerprint = fingerprint
        self._generation = registry.generation
        self._own: dict[type, Lower] = {
            bool: _as_it_is,
            type(None): _as_it_is,
            int: _int,
            float: _float,
            str: self._str,
            dict: self._dict,
            list: self._list,
            tuple: self._tuple,
            set: self._set,
            frozenset: self._set,
            bytes: self._bytes,
            bytearray: self._bytearray,
            complex: _complex,
            dt.datetime: self._datetime,
            dt.date: _date,
            dt.time: self._time,
            dt.timedelta: _timedelta,
            dt.timezone: lambda value, depth: {TAG: 'zone', 'zone': _zone(value)},
            zoneinfo.ZoneInfo: lambda value, depth: {TAG: 'zone', 'zone': _zone(value)},
            uuid.UUID: lambda value, depth: {TAG: 'uuid', 'value': value.hex},
            decimal.Decimal: lambda value, depth: {TAG: 'decimal', 'value': str(value)},
            File: self._file,
            Folder: self._folder,
        }
        for path in (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath):
            self._own[path] = self._path
        self._table = dict(self._own)

    def lower(self, value: Any, where: str) -> Any:
        """Return ``value`` as dicts, lists, text, numbers, bools and None.

        :raises UnstorableValue: if something in it cannot be stored; the message begins with its path.
        """
        if self._generation != registry.generation:
            self._generation = registry.generation
            self._table = dict(self._own)
        try:
            return self._any(value, 0)
        except Trouble as trouble:
            raise trouble.as_error(where) from trouble.__cause__
        except RecursionError:
            raise too_deep_trouble().as_error(where) from None
        except RuntimeError as exc:  # a container complains that its size changed
            raise UnstorableValue(f'{where}: changed while it was stored ({exc}); pass a copy') from exc

    def _any(self, value: Any, depth: int) -> Any:
        return (self._table.get(type(value)) or self._find(type(value)))(value, depth)

    # Containers

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if depth >= MAX_DEPTH:
            raise too_deep_trouble()
        lowered: dict[str, Any] = {}
        key: Any = None
        table, careful = self._table, self._careful
        try:
            for key, item in value.items():
                if type(key) is not str or key == TAG or (careful and not _is_utf8(key)):
                    break
                kind = type(item)
                if (kind is int and _INT_MIN <= item <= _INT_MAX) or kind is bool or item is None:
                    lowered[key] = item
                else:
                    lowered[key] = (table.get(kind) or self._find(kind))(item, depth + 1)
            else:
                return lowered
        except Trouble as trouble:
            trouble.at(value, piece_of(key))
            raise
        return self._pairs(value, depth)

    def _pairs(self, value: dict[Any, Any], depth: int) -> Any:
        items = []
        key: Any = None
        try:
            for key, item in value.items():
                items.append([self._any(key, depth + 1), self._any(item, depth + 1)])
        except Trouble as trouble:
            trouble.at(value, piece_of(key))
            raise
        if self._fingerprint:
            items.sort(key=_sorting_encoder.encode)
        return {TAG: 'dict', 'items': items}

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        if depth >= MAX_DEPTH:
            raise too_deep_trouble()
        lowered: list[Any] = []
        table = self._table
        try:
            for item in value:
                kind = type(item)
                if (kind is int and _INT_MIN <= item <= _INT_MAX) or kind is bool or item is None:
                    lowered.append(item)
                else:
                    lowered.append((table.get(kind) or self._find(kind))(item, depth + 1))
        except Trouble as trouble:
            trouble.at(value, f'[{len(lowered)}]')
            raise
        return lowered

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return {TAG: 'tuple', 'items': self._list(value, depth)}

    def _set(self, value: set[Any] | frozenset[Any], depth: int) -> Any:
        if depth >= MAX_DEPTH:
            raise too_deep_trouble()
        items = []
        item: Any = None
        try:
            for item in value:
                items.append(self._any(item, depth + 1))
        except Trouble as trouble:
            trouble.at(value, piece_of(item))
            raise
        try:
            items.sort(key=_sorting_encoder.encode)
        except UnicodeEncodeError:
            if self._careful:
                raise
        return {TAG: type(value).__name__, 'items': items}

    # Text and bytes

    def _str(self, value: str, depth: int) -> Any:
        if not self._careful and (len(value) <= _SHORT or self._objects is None):
            return value
        try:
            size = len(value) if value.isascii() else len(value.encode())
        except UnicodeEncodeError:
            return {TAG: 'str', **self._blob(value.encode('utf-8', 'surrogatepass'))}
        if size <= LARGE or (self._objects is None and not self._fingerprint):
            return value
        return {TAG: 'str', **self._blob(value.encode())}

    def _bytes(self, value: bytes, depth: int) -> Any:
        return {TAG: 'bytes', **self._blob(value)}

    def _bytearray(self, value: bytearray, depth: int) -> Any:
        return {TAG: 'bytearray', **self._blob(bytes(value))}

    def _blob(self, data: bytes) -> dict[str, Any]:
        if len(data) > LARGE:
            if self._fingerprint:
                return {'object': hashlib.sha256(data).hexdigest()}
            if self._objects is not None:
                return {'object': self._objects.put(data)}
        return {'base64': binascii.b2a_base64(data, newline=False).decode('ascii')}

    def _path(self, value: pathlib.PurePath, depth: int) -> Any:
        return {TAG: 'path', 'type': type(value).__name__, 'value': self._str(str(value), depth)}

    # Times

    def _datetime(self, value: dt.datetime, depth: int) -> Any:
        return self._moment('datetime', value.replace(tzinfo=None, fold=0).isoformat(), value)

    def _time(self, value: dt.time, depth: int) -> Any:
        return self._moment('time', value.replace(tzinfo=None, fold=0).isoformat(), value)

    def _moment(self, tag: str, text: str, value: dt.datetime | dt.time) -> dict[str, Any]:
        lowered: dict[str, Any] = {TAG: tag, 'value': text}
        if value.tzinfo is not None:
            lowered['zone'] = _zone(value.tzinfo)
        if value.fold:
            lowered['fold'] = 1
        return lowered

    # Files

    def _file(self, value: File, depth: int) -> Any:
        return {TAG: 'file', 'name': self._str(value.name, depth), **self._content(value)}

    def _folder(self, value: Folder, depth: int) -> Any:
        files = []
        path = ''
        try:
            for path, file in value.items():
                files.append({'path': self._str(path, depth), **self._content(file)})
        except Trouble as trouble:
            trouble.at(value, piece_of(path))
            raise
        return {TAG: 'folder', 'files': files}

    def _content(self, file: File) -> dict[str, Any]:
        source = source_of(file)
        try:
            if self._fingerprint:
                return {'size': file.size, 'object': source.sha256()}
            if self._objects is not None:
                return {'size': file.size, 'object': source.store(self._objects)}
            data = file.read_bytes()
            return {'size': len(data), 'base64': binascii.b2a_base64(data, newline=False).decode('ascii')}
        except OSError as exc:
            raise Trouble(f'{file!r} cannot be stored, because it cannot be read: {exc}') from exc

    # Types that are looked up once, and then remembered

    def _find(self, cls: type) -> Lower:
        """Return how instances of ``cls`` are lowered, for a type that is not in the table yet."""
        lower = self._table[cls] = self._find_new(cls)
        return lower

    def _find_new(self, cls: type) -> Lower:
        for base in cls.__mro__:
            if (reference := self._references.get(base)) is not None:
                return self._user(reference.dump, lambda data: {TAG: reference.tag, 'data': data})
        if (codec := registry.of_class(cls)) is not None:
            return self._registered(codec)
        try:
            if issubclass(cls, enum.Enum):
                return self._enum(cls, name_of(cls))
            if is_plain_dataclass(cls):
                return self._dataclass(DataclassPlan(cls))
        except UnstorableValue as exc:
            raise Trouble(str(exc)) from exc
        if 'numpy' in sys.modules:
            # Imported here: a program that does without numpy shall start without it.
            from .arrays import lower_array, lower_scalar, numpy_kind  # noqa: PLC0415

            kind = numpy_kind(cls)
            if kind is not None:
                function = lower_array if kind == 'array' else lower_scalar
                return lambda value, depth: function(value, self._blob, self._str)
        raise Trouble(f'{cls!r} cannot be stored; register a codec with treadle.engine.register_codec')

    def _registered(self, codec: UserCodec) -> Lower:
        return self._user(codec.to_data, lambda data: {TAG: 'codec', 'name': codec.name, 'data': data})

    def _user(self, dump: Callable[[Any], Any], wrap: Callable[[Any], Any]) -> Lower:
        def lower(value: Any, depth: int) -> Any:
            if depth >= MAX_DEPTH:
                raise too_deep_trouble()
            try:
                data = dump(value)
            except (RecursionError, StoreError):
                raise
            except Exception as exc:  # code of the user's; it is named together with the value's path
                raise Trouble(f'{type(value)!r} cannot be stored; its codec failed: {exc!r}') from exc
            return wrap(self._any(data, depth + 1))

        return lower

    def _enum(self, cls: type[enum.Enum], name: str) -> Lower:
        def lower(value: enum.Enum, depth: int) -> Any:
            member = value._name_
            if cls._member_map_.get(member) is value:
                return {TAG: 'enum', 'class': name, 'name': self._str(member, depth)}
            if isinstance(value, enum.Flag) and type(value._value_) is int:
                return {TAG: 'flag', 'class': name, 'value': _int(value._value_, depth)}
            raise Trouble(f'{cls!r} cannot be stored, because the value is none of its members')

        return lower

    def _dataclass(self, plan: DataclassPlan) -> Lower:
        def lower(value: Any, depth: int) -> Any:
            if depth >= MAX_DEPTH:
                raise too_deep_trouble()
            try:
                fields, extra = plan.take_apart(value)
            except UnstorableValue as exc:
                raise Trouble(str(exc)) from exc
            name = ''
            lowered: list[dict[str, Any]] = [{}, {}]
            try:
                for target, state in zip(lowered, (fields, extra), strict=True):
                    for name, item in state.items():
                        target[name] = self._any(item, depth + 1)
            except Trouble as trouble:
                trouble.at(value, piece_of(name))
                raise
            tagged = {TAG: 'dataclass', 'class': plan.name, 'fields': lowered[0]}
            if extra:
                tagged['extra'] = lowered[1]
            return tagged

        return lower


def _as_it_is(value: Any, depth: int) -> Any:
    return value


def _int(value: int, depth: int) -> Any:
    if _INT_MIN <= value <= _INT_MAX:
        return value
    return {TAG: 'int', 'value': hex(value)}  # hex: the interpreter limits conversions to decimal


def _float(value: float, depth: int) -> Any:
    if value - value == 0.0 and (value != 0.0 or math.copysign(1.0, value) > 0.0):
        return value
    return {TAG: 'float', 'value': repr(value)}


def _complex(value: complex, depth: int) -> Any:
    return {TAG: 'complex', 'real': _float(value.real, depth), 'imag': _float(value.imag, depth)}


def _date(value: dt.date, depth: int) -> Any:
    return {TAG: 'date', 'value': value.isoformat()}


def _timedelta(value: dt.timedelta, depth: int) -> Any:
    return {TAG: 'timedelta', 'value': [value.days, value.seconds, value.microseconds]}


def _zone(zone: dt.tzinfo) -> Any:
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        lowered: dict[str, Any] = {'offset': [offset.days, offset.seconds, offset.microseconds]}
        if zone != dt.timezone(offset) or zone.tzname(None) != dt.timezone(offset).tzname(None):
            lowered['name'] = zone.tzname(None)
        return lowered
    raise Trouble(
        f'the time zone {type(zone)!r} cannot be stored; use zoneinfo.ZoneInfo or datetime.timezone'
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


RESERVED = frozenset(Lowerer(None, {})._own)
registry.reserved = RESERVED
