"""Values go through text and come back with type and value."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import math
import os
import subprocess
import sys
import threading
import typing
import uuid
import zoneinfo
from collections import OrderedDict, namedtuple
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.engine.errors import CorruptValue, UnstorableValue
from treadle.engine.values import Codec, Reference

CODEC = Codec()


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias is what is tested
    BLUE = 'blue'


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = 'yes'


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)

    class Inner(enum.Enum):
        A = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    b: tuple[int, ...] = ()


@dataclasses.dataclass
class WithInit:
    base: int
    scale: dataclasses.InitVar[int]
    total: int = dataclasses.field(init=False)
    calls: typing.ClassVar[int] = 0

    def __post_init__(self, scale: int) -> None:
        type(self).calls += 1
        self.total = self.base * scale
        self.noted = 'beside the fields'

    @functools.cached_property
    def slow(self) -> object:
        return object()


T = typing.TypeVar('T')


@dataclasses.dataclass
class Box(typing.Generic[T]):
    item: T


class Undecorated(Point):
    pass


@dataclasses.dataclass
class DictDataclass(dict):  # type: ignore[type-arg]
    a: int = 0


@dataclasses.dataclass
class PartialDataclass(functools.partial):  # type: ignore[type-arg]
    a: int = 0


@dataclasses.dataclass
class Mass:
    kg: float


class Planet(Mass, enum.Enum):
    EARTH = 5.97e24


class MyInt(int):
    pass


class MyStr(str):
    pass


Pair = namedtuple('Pair', 'a b')
BERLIN = zoneinfo.ZoneInfo('Europe/Berlin')


def same(one: object, other: object) -> bool:
    """Equal in type and value, all the way down, with nan equal to nan and 0.0 not to -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        assert isinstance(other, float)
        return repr(float(one)) == repr(float(other))
    if isinstance(one, complex):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return len(one) == len(other) and all(
            same(a, c) and same(b, d) for (a, b), (c, d) in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, dt.datetime | dt.time):
        return repr(one) == repr(other) and one.fold == other.fold  # type: ignore[attr-defined]
    if isinstance(one, set | frozenset):
        assert isinstance(other, set | frozenset)
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, Box):
        return same(one.item, other.item)  # type: ignore[attr-defined]
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    return one == other


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    10**5000,
    0.0,
    -0.0,
    1.0,
    5e-324,
    1.7976931348623157e308,
    1e22,
    math.inf,
    -math.inf,
    math.nan,
    '',
    'é𝄞\0\n"\\',
    '\ud800 lone',
    'x' * 100_000,
    b'',
    b'\0\xff',
    bytearray(b'ab'),
    b'y' * 100_000,
    [],
    {},
    (),
    ((),),
    set(),
    frozenset(),
    {1, 'a', (2, 3)},
    frozenset({frozenset({1})}),
    {'\udcff': '\udcff'},
    {'$': 1, 'b': [2]},
    {'$': 'tuple', 'items': []},
    {1: 'a', 'b': 2, None: 3, (1, 2): {'$': {}}},
    {1.5: 1, True: 2},
    [[[{'a': [(1,)]}]]],
    1 + 2j,
    complex(-0.0, math.nan),
    dt.datetime(2024, 1, 2, 3, 4, 5, 6),
    dt.datetime.min,
    dt.datetime.max,
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=1))),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), 'CET')),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), 'GMT')),
    dt.date(1, 1, 1),
    dt.time(23, 59, 59, 999999),
    dt.time(1, 2, tzinfo=dt.UTC),
    dt.timedelta(days=-1, microseconds=1),
    dt.timedelta.max,
    dt.UTC,
    BERLIN,
    uuid.UUID(int=5),
    decimal.Decimal('1.10'),
    decimal.Decimal('-Infinity'),
    decimal.Decimal('sNaN123'),
    decimal.Decimal('-0E-10'),
    Path('/a/b'),
    Path('odd\udcff'),
    PurePosixPath('x'),
    PureWindowsPath('c:/x'),
    Colour.RED,
    Colour.CRIMSON,
    Colour.BLUE,
    Level.LOW,
    Word.YES,
    {Word.YES: 1},
    Access.READ | Access.WRITE,
    Access(0),
    Point.Inner.A,
    Planet.EARTH,
    Point(1.0, tags=['a']),
    Frozen(1, (2,)),
    {Frozen(1): Frozen(2)},
    Box(Box((1,))),
]


@pytest.mark.parametrize(
    'value', VALUES, ids=lambda value: repr(value)[:40] if type(value) is not int else ''
)
def test_round_trip(value: object) -> None:
    for wrapped in (value, [value], {'k': value}, (value,), {1: value}):
        text = CODEC.encode(wrapped)
        assert type(text) is str
        assert same(CODEC.decode(text), wrapped)
        assert same(CODEC.decode(text.encode()), wrapped)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(BERLIN))
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)  # a signalling nan has no hash
    | st.sampled_from(Colour)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.just('$'), inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.builds(Box, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TREES)
def test_round_trip_of_anything(value: object) -> None:
    text = CODEC.encode(value)
    back = CODEC.decode(text)
    assert same(back, value)
    assert CODEC.fingerprint(back) == CODEC.fingerprint(value)


def test_plain_values_are_plain_json() -> None:
    assert CODEC.encode({'x': 1, 'y': [2.5, None, True, 'é']}) == '{"x":1,"y":[2.5,null,true,"é"]}'


def test_decoding_gives_fresh_objects() -> None:
    text = CODEC.encode({'a': [1], 'p': Point(1.0)})
    one, other = CODEC.decode(text), CODEC.decode(text)
    assert one == other and one['a'] is not other['a'] and one['p'] is not other['p']


def test_utc_stays_the_singleton() -> None:
    assert CODEC.decode(CODEC.encode(dt.UTC)) is dt.UTC


def test_dataclass_is_put_together_without_init() -> None:
    value = WithInit(2, 3)
    assert value.slow is value.slow
    calls = WithInit.calls
    back = CODEC.decode(CODEC.encode(value))
    assert WithInit.calls == calls
    assert (back.base, back.total, back.noted) == (2, 6, 'beside the fields')
    assert 'slow' not in vars(back)


def test_dataclass_that_gained_a_field_takes_its_default() -> None:
    text = CODEC.encode(Point(1.0)).replace('"y":0.0,', '').replace(',"tags":[]', '')
    assert '"y"' not in text
    assert CODEC.decode(text) == Point(1.0)
    with pytest.raises(CorruptValue, match="field 'x' that is not stored"):
        CODEC.decode(text.replace('"x":1.0', ''))
    with pytest.raises(CorruptValue, match="no field 'z'"):
        CODEC.decode(text.replace('"x":1.0', '"x":1.0,"z":2'))


def test_local_classes_are_known_while_they_live() -> None:
    @dataclasses.dataclass
    class Local:
        a: int

    class Mode(enum.Enum):
        ON = 1

    value = [Local(1), Mode.ON]
    back = Codec().decode(Codec().encode(value))
    assert back == value and back[1] is Mode.ON


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (
            object(),
            r"^inputs: <class 'object'> cannot be stored; register a codec with treadle.engine.register_codec$",
        ),
        ({'options': {'basis': object()}}, r'^inputs\.options\.basis: <class'),
        ({'a': [1, {'b c': (0, object())}]}, r"^inputs\.a\[1\]\['b c'\]\[1\]: "),
        ({1: object()}, r'^inputs\[1\]: '),
        ({'p': Point(object())}, r'^inputs\.p\.x: '),  # type: ignore[arg-type]
        ({'s': {object()}}, r'^inputs\.s\[<object>\]: '),
        (MyInt(1), 'MyInt'),
        (MyStr('a'), 'MyStr'),
        ({MyStr('a'): 1}, r'MyStr'),
        (OrderedDict(a=1), 'OrderedDict'),
        (Pair(1, 2), 'Pair'),
        (Undecorated(1.0), 'Undecorated'),
        (DictDataclass(), 'DictDataclass'),
        (PartialDataclass.__new__(PartialDataclass, len), 'PartialDataclass'),
        (ValueError('x'), 'ValueError'),
        (len, 'builtin_function'),
        (Point, "<class 'type'>"),
        (dt.datetime(2024, 1, 1, tzinfo=type('Odd', (dt.tzinfo,), {})()), 'Odd.*use zoneinfo'),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(UnstorableValue, match=message):
        CODEC.encode(value, 'inputs')
    with pytest.raises(UnstorableValue, match=message):
        CODEC.fingerprint(value, 'inputs')


def test_containers_that_contain_themselves() -> None:
    loop: list[object] = [1]
    loop.append({'again': loop})
    with pytest.raises(UnstorableValue, match=r'^ctx\.a\[1\]\.again: contains itself'):
        CODEC.encode({'a': loop}, 'ctx')
    point = Point(1.0)
    point.tags = [point]  # type: ignore[list-item]
    with pytest.raises(UnstorableValue, match=r'value\.tags\[0\]: contains itself'):
        CODEC.encode(point)


@pytest.mark.parametrize('wrap', [lambda v: [v], lambda v: (v,), lambda v: {'a': v}, lambda v: {1: v}, Box])
def test_depth_is_limited_and_what_is_within_it_decodes(wrap: typing.Callable[[object], object]) -> None:
    value: object = 1
    for _ in range(100):
        value = wrap(value)
    back = CODEC.decode(CODEC.encode(value))
    assert CODEC.encode(back) == CODEC.encode(value)
    for levels in (1, 3000):
        for _ in range(levels):
            value = wrap(value)
        with pytest.raises(UnstorableValue, match='nested deeper than 100 levels'):
            CODEC.encode(value)


def test_little_stack_left_is_no_recursion_error() -> None:
    def descend(frames: int, call: typing.Callable[[], object]) -> object:
        return call() if frames == 0 else descend(frames - 1, call)

    value: list[object] = []
    for _ in range(90):
        value = [value]
    text = CODEC.encode(value)
    used = len(inspect.stack(0))
    deep = sys.getrecursionlimit() - used - 30
    with pytest.raises(UnstorableValue):
        descend(deep, lambda: CODEC.encode(value))
    with pytest.raises(CorruptValue):
        descend(deep, lambda: CODEC.decode(text))


def test_fingerprint_does_not_depend_on_order_or_place() -> None:
    one = {'a': 1, 'b': {'x': {3, 1, 2}, 'y': {1: 'a', 2: 'b'}}, 'big': 'x' * 100_000}
    other = {'big': 'x' * 100_000, 'b': {'y': {2: 'b', 1: 'a'}, 'x': {2, 3, 1}}, 'a': 1}
    assert CODEC.fingerprint(one) == CODEC.fingerprint(other)
    different: list[object] = [
        1,
        1.0,
        True,
        '1',
        b'1',
        [1],
        (1,),
        {1},
        {'a': 1},
        decimal.Decimal(1),
        1 + 0j,
        None,
    ]
    assert len({CODEC.fingerprint(value) for value in different}) == len(different)


SCRIPT = """
import datetime as dt, uuid
from treadle.engine.values import Codec, File
value = {'b': {'z', 'y', 'x', (1, 2)}, 'a': {2: 1, 1: 2}, 'f': File(b'abc', name='f'), 'big': b'0' * 100000,
         'd': dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), 's': '\\udcff'}
print(Codec().fingerprint(value))
"""


def test_fingerprint_is_the_same_in_another_process() -> None:
    found = set()
    for seed in ('1', '2', '3'):
        done = subprocess.run(
            [sys.executable, '-c', SCRIPT],
            env={**os.environ, 'PYTHONHASHSEED': seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        found.add(done.stdout.strip())
    assert len(found) == 1 and len(found.pop()) == 64


def test_importing_values_imports_nothing_heavy() -> None:
    code = (
        'import sys, treadle.engine.values as v; c = v.Codec(objects=v.DiskObjects("/nowhere"));'
        'c.decode(c.encode({"a": [1, (2,)]}));'
        'print([m for m in ("numpy", "sqlalchemy", "disk_objectstore") if m in sys.modules])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == '[]'


MAIN = """
import dataclasses, enum, sys
from treadle.engine.values import Codec
@dataclasses.dataclass
class P:
    a: int
class E(enum.Enum):
    A = 1
if sys.argv[1] == 'write':
    print(Codec().encode([P(1), E.A]))
else:
    assert Codec().decode(sys.argv[2]) == [P(1), E.A]
"""


def test_classes_of_main_are_found_by_another_run_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text(MAIN)
    done = subprocess.run(
        [sys.executable, script, 'write'], capture_output=True, text=True, check=True, timeout=30
    )
    subprocess.run([sys.executable, script, 'read', done.stdout], check=True, timeout=30)


class Node:
    def __init__(self, pid: int) -> None:
        self.pid = pid


class SpecialNode(Node):
    pass


def test_references_serve_subclasses_too() -> None:
    nodes: dict[int, Node] = {}
    reference = Reference('node', lambda node: node.pid, lambda pid: nodes[pid])
    codec = Codec(references={Node: reference})
    nodes[1], nodes[2] = Node(1), SpecialNode(2)
    text = codec.encode({'a': nodes[1], 'b': (nodes[2],)})
    assert text == '{"a":{"$":"node","data":1},"b":{"$":"tuple","items":[{"$":"node","data":2}]}}'
    back = codec.decode(text)
    assert back['a'] is nodes[1] and back['b'][0] is nodes[2]
    with pytest.raises(CorruptValue, match="tag 'node'"):
        codec.decode(text.replace('1', '7'))
    with pytest.raises(CorruptValue, match=r"unknown tag 'node'.*read it with"):
        CODEC.decode(text)
    with pytest.raises(ValueError, match='tag'):
        Codec(references={Node: Reference('tuple', str, str)})


def test_many_threads_share_a_codec() -> None:
    codec = Codec()
    barrier = threading.Barrier(8)
    failures: list[object] = []

    def work(seed: int) -> None:
        barrier.wait()
        for index in range(100):
            value = {'p': Point(float(index)), 'e': Colour.RED, 't': (seed, {index}), 'f': Frozen(index)}
            if codec.decode(codec.encode(value)) != value:
                failures.append(value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
