"""What a message's body is on the wire: the YAML that ``kiwipy`` reads and writes, as data and never as code.

Writing: JSON text is YAML as long as it keeps to what both mean alike, and is many times quicker to write and to read,
so that is what is written wherever it can be. Tuples and UUIDs carry the tags that ``kiwipy`` gives them.

Reading: messages come from anyone. What is too large, too deep, refers to itself, blows up when its references are
followed, is no UTF-8, or asks for any object but those two is refused with the reason.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Final

import msgspec
import yaml

from ..errors import InvalidMessage

__all__ = ['DEEPEST', 'LARGEST', 'decode', 'encode']

#: Bytes of a body that is sent or read, no more than RabbitMQ 4 takes as it comes: of JSON, and of YAML that is none,
#: whose parser takes seconds for each megabyte.
LARGEST: Final = 16 * 1024 * 1024
LARGEST_YAML: Final = 1024 * 1024
#: How deep lists and mappings in it may be nested.
DEEPEST: Final = 100
#: How many values it may stand for once its references are followed.
MOST_VALUES: Final = 1_000_000

_TUPLE: Final = 'tag:yaml.org,2002:python/tuple'
_UUID: Final = 'tag:yaml.org,2002:python/object:uuid.UUID'

# libyaml's, which are several times quicker, where the YAML package was built with it.
_SAFE_LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_SAFE_DUMPER: Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


class _Loader(_SAFE_LOADER):  # type: ignore[misc]
    """Data, tuples and UUIDs."""


class _Dumper(_SAFE_DUMPER):  # type: ignore[misc]
    """Data, tuples and UUIDs."""


def _tuple_of(loader: Any, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _uuid_of(loader: Any, node: Any) -> uuid.UUID:
    state = loader.construct_mapping(node, deep=True)
    return uuid.UUID(int=state['int'])


_Loader.add_constructor(_TUPLE, _tuple_of)
_Loader.add_constructor(_UUID, _uuid_of)
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_sequence(_TUPLE, value))
_Dumper.add_representer(uuid.UUID, lambda dumper, value: dumper.represent_mapping(_UUID, {'int': value.int}))


# -- writing -----------------------------------------------------------------------------------------------

#: A key that is longer is no "simple key" of YAML's.
_LONGEST_KEY: Final = 200
#: Characters that YAML does not take as they are, or takes for line breaks, though JSON does.
_ESCAPED: Final = re.compile('[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]')


def encode(value: Any) -> bytes:
    """The body of a message that says ``value``.

    :raises InvalidMessage: it holds something that is no data, or is too large.
    """
    body = _written(value)
    if len(body) > LARGEST:
        raise InvalidMessage(
            f'this cannot be sent, since it has {len(body)} bytes, and more than {LARGEST} are not read; leave what is '
            f'large in the store, or in a file, and send where it is'
        )
    return body


def _written(value: Any) -> bytes:
    try:
        if _reads_alike(value):
            text = json.dumps(value, ensure_ascii=False)
            if not text.isascii() or '\x7f' in text:
                text = _ESCAPED.sub(lambda found: f'\\u{ord(found[0]):04x}', text)
            return text.encode('utf-8')
        written: bytes = yaml.dump(value, Dumper=_Dumper, encoding='utf-8', allow_unicode=False)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidMessage(f'this cannot be sent, since it is more than plain data: {_in_a_line(error)}') from error
    return written


def _reads_alike(value: Any) -> bool:
    """Whether YAML readers take the JSON text of the value for the value."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return True
    if kind is float:
        # What has an exponent and no point is a text to YAML, and what is not finite is no JSON.
        return 'e' not in (text := repr(value)) and 'n' not in text
    if kind is dict:
        return all(
            type(key) is str and len(key) <= _LONGEST_KEY and _reads_alike(each) for key, each in value.items()
        )
    return kind is list and all(map(_reads_alike, value))


# -- reading -----------------------------------------------------------------------------------------------


def decode(body: bytes) -> Any:
    """What the body of a message says.

    :raises InvalidMessage: it is refused; says why.
    """
    if len(body) > LARGEST:
        raise InvalidMessage(f'it has {len(body)} bytes; more than {LARGEST} are not read')
    try:
        text = body.decode('utf-8')
    except UnicodeDecodeError as error:
        raise InvalidMessage(f'it is no UTF-8: {error}') from error
    if text[:1] in ('{', '['):
        _refuse_deep_json(text)
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            pass  # YAML that begins like JSON
    return _decode_yaml(text)


_JSON_PART: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')


def _refuse_deep_json(text: str) -> None:
    if text.count('[') + text.count('{') <= DEEPEST:
        return
    depth = 0
    for found in _JSON_PART.finditer(text):
        part = found[0]
        if part in '[{':
            depth += 1
            if depth > DEEPEST:
                raise InvalidMessage(_too_deep())
        elif part in ']}':
            depth -= 1


def _decode_yaml(text: str) -> Any:
    if len(text) > LARGEST_YAML:
        raise InvalidMessage(
            f'it has {len(text)} characters; more than {LARGEST_YAML} are read of JSON alone, and this is none'
        )
    try:
        _refuse_deep_yaml(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if '&' in text:
                _refuse_expansion(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except InvalidMessage:
        raise
    except Exception as error:  # what the YAML package's constructors raise is not only its own errors
        raise InvalidMessage(f'it does not decode: {_in_a_line(error)}') from error


def _refuse_deep_yaml(text: str) -> None:
    # The parser keeps a stack of its own, whereas composing what it finds recurs, in C, past every check.
    # Each level of nesting is begun by one of these.
    if sum(map(text.count, '[{?')) + text.count('-') + text.count(':') <= DEEPEST:
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise InvalidMessage(_too_deep())
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _too_deep() -> str:
    return f'it is nested more than {DEEPEST} deep'


def _refuse_expansion(node: Any) -> None:
    """Refuse what refers to itself, and what becomes too much when each reference is followed."""
    sizes: dict[int, int | None] = {}

    def size(each: Any) -> int:
        if isinstance(each, yaml.ScalarNode):
            return 1
        known = sizes.get(id(each), 0)
        if known is None:
            raise InvalidMessage('it refers to itself')
        if known:
            return known
        sizes[id(each)] = None
        parts = each.value if isinstance(each, yaml.SequenceNode) else [part for pair in each.value for part in pair]
        total = 1 + sum(map(size, parts))
        if total > MOST_VALUES:
            raise InvalidMessage(f'it stands for more than {MOST_VALUES} values')
        sizes[id(each)] = total
        return total

    size(node)


def _in_a_line(error: BaseException) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:300]}...'
