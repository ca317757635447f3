"""What a body is on the wire: read by kiwipy as it was written, and read here without ever running anything."""

from __future__ import annotations

import datetime
import sys
import uuid
from functools import partial

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from treadle.engine import InvalidMessage
from treadle.engine.communication import wire
from treadle.engine.communication.wire import decode, encode

TEXT = st.text(st.characters(exclude_categories=['Cs']))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(TEXT | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
#: As kiwipy decodes.
kiwipy_decode = partial(yaml.load, Loader=yaml.FullLoader)
#: As kiwipy encodes.
kiwipy_encode = partial(yaml.dump, encoding='utf-8')


def same(one, two):
    """Equal, types included: 1, 1.0 and True are three things."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@given(VALUES)
def test_what_is_written_is_read_here_and_by_kiwipy(value):
    body = encode(value)
    assert same(decode(body), value)
    assert same(kiwipy_decode(body), value)


@given(VALUES)
def test_what_kiwipy_writes_is_read(value):
    assert same(decode(kiwipy_encode(value)), value)


@pytest.mark.parametrize(
    'value',
    [
        1e22, 1e-7, float('inf'), 'yes', 'null', '0x10', '1:30', '2025-01-01', '~', '<<', '=', 'a\x85b', '\x7f',
        '\u2028', '\ufeff', '\uffff',
        '\U0001f600', '\x00', {'k' * 2000: 1}, {'': ''}, 10**400,
        datetime.date(2025, 1, 1), datetime.datetime(2025, 1, 1, 12, 30, tzinfo=datetime.UTC),
        {1: 2}, {(1, 2): 3}, {1, 2},
    ],
)  # fmt: skip
def test_values_that_are_easily_mistaken(value):
    assert same(decode(encode(value)), value)
    assert same(kiwipy_decode(encode(value)), value)


def test_uuids_travel_with_kiwipys_tag():
    value = uuid.uuid4()
    assert decode(encode([value])) == [value]
    assert decode(kiwipy_encode({'a': value})) == {'a': value}
    assert yaml.compose(encode(value)).tag == yaml.compose(kiwipy_encode(value)).tag


def test_plain_data_is_written_as_json():
    assert encode({'a': [1, 2.5, None, True, 'é']}) == '{"a": [1, 2.5, null, true, "é"]}'.encode()


@pytest.mark.parametrize('value', [object(), [int], {'a': {'b': print}}, '\ud800', {'a': ValueError('x')}])
def test_what_is_no_data_is_not_written(value):
    with pytest.raises(InvalidMessage, match='this cannot be sent, since it is more than plain data'):
        encode(value)


def test_what_is_too_deep_is_not_written():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidMessage):
        encode(deep)


class TestRefusals:
    @pytest.mark.parametrize(
        ('body', 'why'),
        [
            (b'\xff', 'it is no UTF-8'),
            (b'[' * 10_000, 'it is nested more than 100 deep'),
            (b'{"a":' * 10_000, 'it is nested more than 100 deep'),
            (b'"[[["' + b'[' * 0 + b': ' + b'[' * 101 + b']' * 101, 'it is nested more than 100 deep'),
            (b'- ' * 10_000, 'it is nested more than 100 deep'),
            (b'? ' * 10_000, 'it is nested more than 100 deep'),
            (b'!!python/object/apply:os.system [ls]', 'could not determine a constructor'),
            (b'!!python/object/new:os.system [ls]', 'could not determine a constructor'),
            (b'!!python/name:os.system', 'could not determine a constructor'),
            (b'!!python/module:os', 'could not determine a constructor'),
            (b'!!python/object:uuid.UUID {int: -1}', 'out of range'),
            (b'!!python/object:uuid.UUID {}', "'int'"),
            (b'!!python/object:uuid.SafeUUID {}', 'could not determine a constructor'),
            (b'!mine {}', 'could not determine a constructor'),
            (b'&a {b: *a}', 'it refers to itself'),
            (b'*a', 'undefined alias'),
            (b'a: b: c', 'mapping values are not allowed'),
            (b'x' * (wire.LARGEST_YAML + 1), 'are read of JSON alone'),
            (b'"' + b'x' * wire.LARGEST + b'"', 'more than 16777216 are not read'),
        ],
    )
    def test_each_with_its_reason(self, body, why):
        with pytest.raises(InvalidMessage, match=why):
            decode(body)

    def test_references_that_stand_for_too_much(self):
        lines = ['- &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]']
        lines += [f'- &a{number + 1} [{", ".join([f"*a{number}"] * 9)}]' for number in range(8)]
        with pytest.raises(InvalidMessage, match='it stands for more than 1000000 values'):
            decode('\n'.join(lines).encode())
        assert decode('\n'.join(lines[:3]).encode())[2][8][8][8] == 'ha', 'a few are as good as any'

    def test_nothing_that_a_body_names_is_imported(self):
        sys.modules.pop('antigravity', None)
        for tag in ('module:antigravity', 'name:antigravity.fly', 'object/apply:antigravity.geohash'):
            with pytest.raises(InvalidMessage):
                decode(f'!!python/{tag} ""'.encode())
        assert 'antigravity' not in sys.modules

    @given(st.binary(max_size=200))
    def test_any_bytes_at_all(self, body):
        try:
            decode(body)
        except InvalidMessage:
            pass

    @given(st.text('[]{}&*!?:-,|>%@`#"\' \n\tab1', max_size=60))
    def test_any_yaml_at_all(self, text):
        try:
            decode(text.encode())
        except InvalidMessage:
            pass

    def test_deep_but_not_too_deep(self):
        body = b'[' * 100 + b']' * 100
        assert decode(body) is not None
        assert decode(b'- ' * 99 + b'x') is not None
        assert decode(b'["[[[[' + b'[' * 200 + b'"]') == ['[[[[' + '[' * 200], 'brackets in a text nest nothing'
