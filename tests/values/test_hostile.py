"""Data that nobody wrote with the codec gives CorruptValue: never another error, never code that is run."""

from __future__ import annotations

import dataclasses
import enum
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.engine.errors import CorruptValue
from treadle.engine.values import Codec, DiskObjects, describe_exception, load_exception

CODEC = Codec()
HERE = __name__
touched: list[str] = []


class Plain:
    def __new__(cls, *args: object) -> Plain:
        touched.append('new')
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        touched.append('init')


@dataclasses.dataclass
class Guarded:
    a: int

    def __post_init__(self) -> None:
        touched.append('post_init')

    def __setattr__(self, name: str, value: object) -> None:
        touched.append('setattr')
        super().__setattr__(name, value)


class Heir(Guarded):
    pass


class Kind(enum.Enum):
    A = 1


def tagged(tag: object, **content: object) -> object:
    return {'$': tag, **content}


SHAPES = [
    tagged('nonsense'),
    tagged(None),
    tagged(1),
    tagged([]),
    tagged({'$': 'x'}),
    tagged('tuple'),
    tagged('tuple', items=None),
    tagged('tuple', items={'a': 1}),
    tagged('tuple', items=tagged('tuple', items=[])),
    tagged('set', items=[[]]),
    tagged('set', items=[1, 1.0]),
    tagged('set', items=[{}]),
    tagged('dict', items=[1]),
    tagged('dict', items=[[1]]),
    tagged('dict', items=[[1, 2, 3]]),
    tagged('dict', items=[[[], 1]]),
    tagged('dict', items=[[1, 1], [1, 2]]),
    tagged('int', value=1),
    tagged('int', value='12'),
    tagged('int', value='__import__'),
    tagged('float', value='1.5'),
    tagged('float', value=1),
    tagged('complex', real=1, imag='x'),
    tagged('complex', real=1.0),
    tagged('bytes', base64='!'),
    tagged('bytes', base64='YQ'),
    tagged('bytes', base64=1),
    tagged('bytes', object='0' * 64),
    tagged('bytes', object='../../etc/passwd'),
    tagged('str', base64='/w=='),
    tagged('datetime', value='yesterday'),
    tagged('datetime', value=1),
    tagged('datetime', value='2024-01-01T00:00:00', fold=2),
    tagged('datetime', value='2024-01-01T00:00:00', fold='x'),
    tagged('datetime', value='2024-01-01T00:00:00', zone='No/Such'),
    tagged('datetime', value='2024-01-01T00:00:00', zone='../../../etc/passwd'),
    tagged('datetime', value='2024-01-01T00:00:00', zone='America'),
    tagged('datetime', value='2024-01-01T00:00:00', zone='a\0b'),
    tagged('datetime', value='2024-01-01T00:00:00', zone=None),
    tagged('datetime', value='2024-01-01T00:00:00', zone={'offset': [99, 0, 0]}),
    tagged('datetime', value='2024-01-01T00:00:00', zone={'offset': [0, 0, 0], 'name': 1}),
    tagged('date', value='2024-13-01'),
    tagged('time', value='25:00'),
    tagged('timedelta', value=[1, 2]),
    tagged('timedelta', value=[10**10, 0, 0]),
    tagged('timedelta', value=['1', 0, 0]),
    tagged('uuid', value='x'),
    tagged('uuid', value=5),
    tagged('decimal', value='x'),
    tagged('path', type='Path', value='x'),
    tagged('path', type='PosixPath', value=1),
    tagged('path', type='WindowsPath', value='x'),
    tagged('enum', **{'class': f'{HERE}:Kind', 'name': 'B'}),
    tagged('enum', **{'class': f'{HERE}:Kind', 'name': '__class__'}),
    tagged('enum', **{'class': f'{HERE}:Plain', 'name': 'A'}),
    tagged('enum', **{'class': 'os:system', 'name': 'A'}),
    tagged('enum', **{'class': 'no.such.module:A', 'name': 'A'}),
    tagged('enum', **{'class': '', 'name': 'A'}),
    tagged('enum', **{'class': ':', 'name': 'A'}),
    tagged('enum', **{'class': '..:A', 'name': 'A'}),
    tagged('enum', **{'class': '../x:A', 'name': 'A'}),
    tagged('enum', **{'class': 1, 'name': 'A'}),
    tagged('enum', **{'class': 'enum:Enum', 'name': 'A'}),
    tagged('flag', **{'class': f'{HERE}:Kind', 'value': 1}),
    tagged('flag', **{'class': 're:RegexFlag', 'value': 'x'}),
    tagged('dataclass', **{'class': 'subprocess:Popen', 'fields': {'args': 'touch /tmp/x'}}),
    tagged('dataclass', **{'class': f'{HERE}:Plain', 'fields': {}}),
    tagged('dataclass', **{'class': f'{HERE}:Heir', 'fields': {'a': 1}}),
    tagged('dataclass', **{'class': f'{HERE}:Kind', 'fields': {}}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': {}}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': {'a': 1, 'b': 2}}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': {'a': 1}, 'extra': {'__class__': 1}}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': {'a': 1}, 'extra': {'b c': 1}}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': {'a': 1}, 'extra': []}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': tagged('dict', items=[['a', 1]])}),
    tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': [1]}),
    tagged('codec', name='no such codec', data=1),
    tagged('codec', name=1, data=1),
    tagged('array', dtype='O', shape=[1], base64=''),
    tagged('array', dtype='|O8', shape=[1], base64='AAAAAAAAAAA='),
    tagged('array', dtype='<f8', shape=[2], base64='AAAAAAAAAAA='),
    tagged('array', dtype='<f8', shape=[-1], base64='AAAAAAAAAAA='),
    tagged('array', dtype='<f8', shape=[True], base64='AAAAAAAAAAA='),
    tagged('array', dtype='<f8', shape=[0, 2**62, 2**62], base64=''),
    tagged('array', dtype='<f8', shape=[1] * 100, base64='AAAAAAAAAAA='),
    tagged('array', dtype='<f8', shape=2**62, base64=''),
    tagged('array', dtype='<f3', shape=[0], base64=''),
    tagged('array', dtype='<U9999999999', shape=[0], base64=''),
    tagged('array', dtype='<M8[nonsense]', shape=[0], base64=''),
    tagged('array', dtype='|b1', shape=[1], base64='Ag=='),
    tagged('array', dtype='<U1', shape=[1], base64='/////w=='),
    tagged(
        'array', dtype={'fields': [['a', '<f8', 8, None]], 'size': 8, 'align': False}, shape=[0], base64=''
    ),
    tagged(
        'array', dtype={'fields': [['a', '<f8', -8, None]], 'size': 8, 'align': False}, shape=[0], base64=''
    ),
    tagged(
        'array', dtype={'fields': [['a', '|O8', 0, None]], 'size': 8, 'align': False}, shape=[0], base64=''
    ),
    tagged('array', dtype={'fields': 1, 'size': 8, 'align': False}, shape=[0], base64=''),
    tagged('array', dtype={'base': '<f8', 'shape': ['x']}, shape=[0], base64=''),
    tagged('array', dtype={}, shape=[0], base64=''),
    tagged('scalar', dtype={'base': '<f8', 'shape': [1]}, base64='AAAAAAAAAAA='),
    tagged('scalar', dtype='U', value=1),
    tagged('scalar', dtype='<f8', base64=''),
    tagged('file', name='../x', size=1, base64='YQ=='),
    tagged('file', name='a/b', size=1, base64='YQ=='),
    tagged('file', name='', size=1, base64='YQ=='),
    tagged('file', name=1, size=1, base64='YQ=='),
    tagged('file', name='a', size=2, base64='YQ=='),
    tagged('file', name='a', size=-1, object='0' * 64),
    tagged('file', name='a', size=1, object='0' * 64),
    tagged('file', name='a', size=1, object='/etc/passwd'),
    tagged('folder', files={}),
    tagged('folder', files=[1]),
    tagged('folder', files=[{'path': '/etc/passwd', 'size': 1, 'base64': 'YQ=='}]),
    tagged('folder', files=[{'path': 'a/../../b', 'size': 1, 'base64': 'YQ=='}]),
    tagged('folder', files=[{'path': 'a', 'size': 1, 'base64': 'YQ=='}] * 2),
    tagged('folder', files=[{'path': p, 'size': 1, 'base64': 'YQ=='} for p in ('a', 'a/b')]),
]


@pytest.mark.parametrize('shape', SHAPES, ids=lambda shape: json.dumps(shape)[:70])
def test_malformed_data(shape: object) -> None:
    touched.clear()
    for text in (json.dumps(shape), json.dumps([{'a': shape}])):
        with pytest.raises(CorruptValue):
            CODEC.decode(text)
    assert not touched


def test_dataclass_runs_none_of_its_code() -> None:
    touched.clear()
    text = json.dumps(tagged('dataclass', **{'class': f'{HERE}:Guarded', 'fields': {'a': 1}}))
    assert CODEC.decode(text).a == 1
    assert not touched


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        'nan',
        '[1,]',
        '1e999',
        b'\xff',
        b'"\xff"',
        '"\ud800"',
        '[' * 100_000,
        '{"$":' * 100_000,
        None,
        5,
        [],
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_is_no_json(text: object) -> None:
    with pytest.raises(CorruptValue):
        CODEC.decode(text)  # type: ignore[arg-type]
    with pytest.raises(CorruptValue):
        load_exception(text)  # type: ignore[arg-type]


def test_objects_are_only_named_by_hashes(tmp_path: object) -> None:
    codec = Codec(objects=DiskObjects(f'{tmp_path}/objects'))
    for name in ('../../../../etc/passwd', 'A' * 64, '0' * 63, '0' * 64 + '\n', 1, None):
        for tag in (tagged('bytes', object=name), tagged('file', name='a', size=1, object=name)):
            with pytest.raises(CorruptValue):
                codec.decode(json.dumps(tag))


TAGS = sorted(CODEC._lifter._tags)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5) | st.sampled_from(
        [f'{HERE}:Guarded', f'{HERE}:Kind', f'{HERE}:Plain', '<f8', 'YQ==', '0' * 64, 'A', '2024-01-01']
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ['$', 'items', 'value', 'class', 'fields', 'extra', 'name', 'data', 'dtype', 'shape', 'base64',
                 'object', 'size', 'files', 'path', 'zone', 'offset', 'type', 'real', 'imag', 'fold', 'a']
            ),
            inner,
            max_size=4,
        )
        | st.builds(
            lambda tag, items: {'$': tag, **items},
            st.sampled_from(TAGS),
            st.dictionaries(st.sampled_from(['items', 'value', 'class', 'fields', 'base64', 'size']), inner),
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(JSON)
def test_any_json_decodes_or_is_corrupt(data: object) -> None:
    touched.clear()
    try:
        CODEC.decode(json.dumps(data))
    except CorruptValue:
        pass
    assert not touched


@pytest.mark.parametrize(
    'data',
    [
        [],
        {},
        {'module': 'builtins'},
        {'module': 1, 'qualname': 'ValueError', 'message': ''},
        {'module': 'builtins', 'qualname': 'ValueError', 'message': '', 'notes': [1]},
        {'module': 'builtins', 'qualname': 'ValueError', 'message': '', 'args': {'a': 1}},
        {'module': 'builtins', 'qualname': 'ValueError', 'message': '', 'args': [{'$': 'what'}]},
        {'module': 'builtins', 'qualname': 'ExceptionGroup', 'message': '', 'members': [1]},
    ],
)
def test_malformed_exceptions(data: object) -> None:
    with pytest.raises(CorruptValue):
        load_exception(json.dumps(data))


@pytest.mark.parametrize(
    'name', ['builtins:eval', 'builtins:int', 'os:system', f'{HERE}:Plain', 'builtins:IOError']
)
def test_exceptions_are_never_of_another_class(name: str) -> None:
    touched.clear()
    module, qualname = name.split(':')
    text = json.dumps({'module': module, 'qualname': qualname, 'message': 'm', 'args': ['1']})
    assert type(load_exception(text)).__name__ == 'ProcessExcepted'
    assert describe_exception(text)[1] == 'm'
    assert not touched
