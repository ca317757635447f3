"""Messages: what is one comes through unchanged, what is none is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.engine import InvalidMessage, ProcessState
from treadle.engine.communication.messages import (
    ContinueTask,
    CreateTask,
    Intent,
    IntentMessage,
    LaunchTask,
    continue_body,
    create_body,
    decode_intent,
    decode_subject,
    decode_task,
    intent_body,
    launch_body,
    state_subject,
)

names = st.text(min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary()
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
inputs = st.dictionaries(names, data, max_size=4)
pids = st.integers(min_value=1, max_value=2**63 - 1)


@given(st.sampled_from(['', *ProcessState]), st.sampled_from(list(ProcessState)))
def test_subjects_there_and_back(before, after):
    subject = state_subject(before, after)
    assert decode_subject(subject) == (before, after)


def test_subjects_are_plumpys():
    assert state_subject('running', 'finished') == 'state_changed.running.finished'
    assert state_subject('', 'created') == 'state_changed.None.created'


@given(data)
def test_whatever_comes_is_a_subject_or_refused(value):
    with pytest.raises(InvalidMessage, match='is no subject such as'):
        decode_subject(value)


@pytest.mark.parametrize(
    'subject', ['pause', 'state_changed', 'state_changed.running', 'state_changed.running.None', 'state_changed.a.b.c']
)
def test_subjects_of_something_else(subject):
    with pytest.raises(InvalidMessage):
        decode_subject(subject)


@given(st.sampled_from(list(Intent)), st.none() | st.text())
def test_intents_there_and_back(intent, message):
    assert decode_intent(intent_body(intent, message)) == IntentMessage(intent, message)


def test_intents_as_plumpy_sends_them():
    assert decode_intent({'intent': 'kill', 'message': None, 'force_kill': True}).intent is Intent.KILL
    assert decode_intent({'intent': 'play', 'message': None}).message is None
    assert decode_intent({'intent': 'status'}).intent is Intent.STATUS


@given(inputs, st.booleans())
def test_launches_there_and_back(given_inputs, nowait):
    task = decode_task(launch_body('module:Name', given_inputs, nowait=nowait))
    assert isinstance(task, LaunchTask)
    assert (task.process_class, task.inputs, task.nowait) == ('module:Name', given_inputs, nowait)


@given(inputs)
def test_creations_there_and_back(given_inputs):
    task = decode_task(create_body('module:Name', given_inputs))
    assert isinstance(task, CreateTask)
    assert (task.process_class, task.inputs) == ('module:Name', given_inputs)


@given(pids, st.booleans())
def test_continuations_there_and_back(pid, nowait):
    assert decode_task(continue_body(pid, nowait=nowait)) == ContinueTask(pid=pid, nowait=nowait)


@pytest.mark.parametrize(
    ('args', 'expected'),
    [
        ({}, {}),
        ({'init_args': None, 'init_kwargs': None}, {}),
        ({'init_args': (), 'init_kwargs': {}}, {}),
        ({'init_args': ({'x': 1},)}, {'x': 1}),
        ({'init_args': [{'x': 1}], 'init_kwargs': {'pid': None}}, {'x': 1}),
        ({'init_kwargs': {'inputs': {'x': 1}, 'logger': None}}, {'x': 1}),
        ({'init_kwargs': {'inputs': None}}, {}),
    ],
)
def test_where_the_inputs_stand(args, expected):
    for task in ('launch', 'create'):
        body = {'task': task, 'args': {'process_class': 'm:N', 'persist': False, **args}}
        assert decode_task(body).inputs == expected


@pytest.mark.parametrize(
    ('body', 'why'),
    [
        (None, 'a task is'),
        ('launch', 'a task is'),
        ({}, 'missing required field `task`'),
        ({'task': 'dance'}, "'dance' is no task; there is launch, create, continue"),
        ({'task': 7, 'args': {}}, 'Expected `str`, got `int`'),
        ({'task': 'launch', 'args': []}, 'Expected `object`'),
        ({'task': 'launch'}, 'missing required field `process_class`'),
        ({'task': 'launch', 'args': {'process_class': 3}}, 'Expected `str`, got `int` - at `[$].process_class`'),
        ({'task': 'launch', 'args': {'process_class': 'm:N', 'now': True}}, 'unknown field `now`'),
        ({'task': 'launch', 'args': {'process_class': 'm:N', 'nowait': 1}}, 'Expected `bool`'),
        ({'task': 'create', 'args': {'process_class': 'm:N', 'nowait': True}}, 'unknown field `nowait`'),
        ({'task': 'launch', 'args': {'process_class': 'm:N', 'init_args': [1]}}, 'are a mapping'),
        ({'task': 'launch', 'args': {'process_class': 'm:N', 'init_args': [{1: 2}]}}, 'are a mapping'),
        ({'task': 'launch', 'args': {'process_class': 'm:N', 'init_args': [{}, {}]}}, 'give 2 arguments'),
        ({'task': 'launch', 'args': {'process_class': 'm:N', 'init_kwargs': {'pid': 3}}}, "'pid' cannot be given"),
        ({'task': 'continue', 'args': {}}, 'missing required field `pid`'),
        ({'task': 'continue', 'args': {'pid': True}}, 'Expected `int`'),
        ({'task': 'continue', 'args': {'pid': 0}}, '>= 1'),
        ({'task': 'continue', 'args': {'pid': '7'}}, 'Expected `int`, got `str`'),
        ({'task': 'continue', 'args': {'pid': 7, 'tag': 'early'}}, "no checkpoint 'early' of process 7"),
    ],
)
def test_what_is_no_task_is_refused_with_the_reason(body, why):
    with pytest.raises(InvalidMessage, match=why):
        decode_task(body)


@pytest.mark.parametrize(
    ('body', 'why'),
    [
        (None, 'got `null`'),
        ({}, 'missing required field `intent`'),
        ({'intent': 'dance'}, "Invalid enum value 'dance'"),
        ({'intent': 'kill', 'message': 3}, 'Expected `str [|] null`, got `int`'),
    ],
)
def test_what_is_no_intent_is_refused_with_the_reason(body, why):
    with pytest.raises(InvalidMessage, match=why):
        decode_intent(body)


@given(data)
def test_whatever_comes_is_refused_or_decoded_and_nothing_else(body):
    for decode in (decode_intent, decode_task):
        for value in (body, {'task': 'launch', 'args': body}, {'task': 'continue', 'args': {'pid': body}}):
            try:
                decode(value)
            except InvalidMessage as error:
                assert str(error)


def test_a_bottomless_message():
    bottomless: list[object] = []
    bottomless.append(bottomless)
    for body in (bottomless, {'task': 'launch', 'args': {'process_class': 'm:N', 'init_args': bottomless}}):
        with pytest.raises(InvalidMessage):
            decode_task(body)
