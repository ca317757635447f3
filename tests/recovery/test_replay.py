"""A step that dies behind its recorded calls: what the same code gets back, and what other code is told."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def crashed(tmp_path: Path, scripts: Callable[[str], Any], books: Any) -> Any:
    """A place where the parent's step died behind six calls that came back and one child that goes on."""
    place = books.Place(tmp_path)
    assert scripts('replay').run(**place.order, variant='die') == -signal.SIGKILL, scripts('replay').stderr
    return place


def _run(scripts: Any, place: Any, variant: str) -> Any:
    assert scripts('replay').run(**place.order, variant=variant, end=True) == 0, scripts('replay').stderr
    return place.results


def test_the_same_code_gets_what_was_recorded_and_nothing_executes_twice(
    crashed: Any, scripts: Callable[[str], Any]
) -> None:
    before = len(crashed.effects)
    results = _run(scripts, crashed, 'same')
    assert [effect.what for effect in crashed.effects[before:]] == ['parent.call as same', 'parent.show']
    values = results['first']
    assert values[:3] == [1, 2, 25]
    # A builtin exception comes back as itself; one that is not registered by name.
    assert values[3] == ['ValueError', "(-1, 'is negative')"]
    assert values[4] == ['KeyError', "('built in', 1)"]
    assert values[5][0] == 'ProcessExcepted' and 'OwnError' in values[5][1]
    assert results['second'] == values
    labels = [row[0] for row in crashed.rows('SELECT process_label FROM process ORDER BY pid')]
    assert sorted(labels) == sorted(
        ['Parent', 'Leaf', 'Leaf', 'square', 'square', 'Raising', 'Raising', 'Endless']
    )


@pytest.mark.parametrize('variant', ['inputs', 'class', 'submitted', 'function'])
def test_other_calls_park_the_process_and_touch_nothing(
    crashed: Any, scripts: Callable[[str], Any], variant: str
) -> None:
    columns = 'pid, uuid, class_name, state, visit, checkpoint, outputs, exception, exit_status'
    before = crashed.rows(f"SELECT {columns} FROM process WHERE process_label != 'Endless' ORDER BY pid")
    executed = len(crashed.effects)
    results = _run(scripts, crashed, variant)
    for attempt in ('first', 'second'):
        kind, message = results[attempt]
        assert kind == 'ProcessParked'
        assert 'call number 1' in message
        assert 'Leaf with inputs {"x":2}' in message, 'the call on record'
        new = {
            'inputs': 'Leaf with inputs {"x":3}',
            'class': 'Other with inputs {"x":2}',
            'submitted': 'Leaf with inputs {"x":3}',
            'function': 'square with inputs {"x":2}',
        }[variant]
        assert new in message, 'the call that is made now'
        assert 'restore the code' in message
    after = crashed.rows(f"SELECT {columns} FROM process WHERE process_label != 'Endless' ORDER BY pid")
    assert after == before
    assert [effect.what for effect in crashed.effects[executed:]] == [f'parent.call as {variant}']
    assert crashed.rows("SELECT owner FROM process WHERE process_label = 'Parent'") == [(None,)]
    # The code that it began with goes on where it was.
    assert _run(scripts, crashed, 'same')['first'][:3] == [1, 2, 25]


def test_a_recorded_child_that_is_not_asked_for_again_is_killed(
    crashed: Any, scripts: Callable[[str], Any]
) -> None:
    assert crashed.rows("SELECT count(*) FROM process WHERE process_label = 'Endless'") == [(1,)]
    results = _run(scripts, crashed, 'fewer')
    assert results['first'][:3] == [1, 2, 25]
    ((state, message),) = crashed.rows("SELECT state, exit_message FROM process WHERE process_label = 'Endless'")
    assert state == 'killed'
    assert message == 'the step that had called it was run again and did not ask for it'
