"""Two engines in two OS processes on one file: nothing runs twice, and the dead are taken over by whom it concerns."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COUNT = 24
OUTPUTS = [2 * (x + 1) for x in range(COUNT)]


def _once(place: Any, most: int = 1) -> None:
    executed = Counter((effect.pid, effect.visit, effect.what) for effect in place.effects)
    again = {what: count for what, count in executed.items() if count > most}
    assert not again, f'executed more than {most} times: {again}'


def _orders(place: Any, count: int, **order: Any) -> list[dict[str, Any]]:
    """Orders for several runs on one place, each with results of its own."""
    return [{**place.order, **order, 'results': str(place.folder / f'results-{number}')} for number in range(count)]


def _results(order: dict[str, Any]) -> Any:
    return json.loads(Path(order['results']).read_text())


@pytest.fixture
def place(tmp_path: Path, books: Any) -> Any:
    return books.Place(tmp_path)


@pytest.mark.parametrize('claims', ['own', 'all'])
def test_the_same_keys_submitted_by_two_engines_at_once_run_once(
    place: Any, scripts: Callable[[str], Any], books: Any, claims: str
) -> None:
    server = scripts('duel')
    orders = _orders(place, 2, role='submit', claims=claims)
    running = [server.start(**order) for order in orders]
    assert [server.wait(os_pid) for os_pid in running] == [0, 0], server.stderr
    assert [_results(order)['outputs'] for order in orders] == [OUTPUTS, OUTPUTS]
    _once(place)
    assert len(place.rows('SELECT pid FROM process')) == 2 * COUNT
    books.audit(place)


def test_an_engine_that_claims_all_helps_and_nothing_runs_twice(
    place: Any, scripts: Callable[[str], Any], books: Any
) -> None:
    """Both may claim each process at every moment of its life; the sums must come out all the same."""
    one, other = scripts('duel'), scripts('duel_other')
    orders = _orders(place, 3, role='submit', claims='all')
    running = [(server, server.start(**order)) for server, order in zip((one, other, one), orders, strict=True)]
    assert [server.wait(os_pid) for server, os_pid in running] == [0, 0, 0], one.stderr + other.stderr
    _once(place)
    books.audit(place)


@pytest.mark.parametrize('different', [False, True])
def test_two_engines_race_for_one_key(place: Any, scripts: Callable[[str], Any], different: bool) -> None:
    server = scripts('duel')
    for attempt in range(4):
        round_ = dataclasses.replace(place, folder=place.folder / str(attempt), url='')
        round_.folder.mkdir()
        orders = _orders(round_, 2, role='key')
        running = [server.start(**order, x=number * different) for number, order in enumerate(orders)]
        assert [server.wait(os_pid) for os_pid in running] == [0, 0], server.stderr
        results = [_results(order) for order in orders]
        assert round_.rows("SELECT count(*) FROM process WHERE key = 'one'") == [(1,)]
        _once(round_)
        if different:
            assert sorted('conflict' in result for result in results) == [False, True]
            (message,) = [result['conflict'] for result in results if 'conflict' in result]
            assert "the key 'one' belongs to process" in message and 'other inputs' in message
        else:
            assert [result['outputs'] for result in results] == [[2], [2]]


def _left_behind(place: Any, server: Any) -> dict[int, Any]:
    """Kill an engine in the middle of its work; what it leaves."""
    status = server.run(**place.order, role='submit', fault='step.started', hit=COUNT)
    assert status == -signal.SIGKILL, server.stderr
    left = place.rows("SELECT pid, state, epoch, version, owner FROM process WHERE state NOT IN ('finished')")
    assert left
    return {row[0]: row[1:] for row in left}


def test_a_successor_of_the_same_script_takes_over(place: Any, scripts: Callable[[str], Any], books: Any) -> None:
    server = scripts('duel')
    watch = books.Watch(place)
    left = _left_behind(place, server)
    watch.after_run()
    # Its own work is a single item; what the dead one left is taken up from the start, and finished by the next.
    assert server.run(**place.order, role='own-work') == 0, server.stderr
    watch.after_run()
    assert server.run(**place.order, role='submit') == 0, server.stderr
    watch.after_run()
    assert place.results['outputs'] == OUTPUTS
    _once(place, most=2)
    assert left
    books.audit(place)


def test_another_script_leaves_it_alone_unless_it_claims_all(
    place: Any, scripts: Callable[[str], Any], books: Any
) -> None:
    server, other = scripts('duel'), scripts('duel_other')
    left = _left_behind(place, server)
    executed = len(place.effects)
    assert other.run(**place.order, role='own-work') == 0, other.stderr
    assert {effect.what for effect in place.effects[executed:]} == {
        'item(1000).begin', 'part(1000)', 'item(1000).end'
    }
    now = {pid: tuple(rest) for pid, *rest in place.rows('SELECT pid, state, epoch, version, owner FROM process')}
    for pid, (state, epoch, version, owner) in left.items():
        # The dead engine was declared dead, so nobody owns them, and what it might yet write is refused.
        taken = owner is not None
        assert now[pid] == (state, epoch + taken, version + taken, None)
    assert other.run(**place.order, role='any-work', claims='all') == 0, other.stderr
    submitted = place.rows("SELECT count(*) FROM process WHERE process_label = 'Item' AND state = 'finished'")
    assert submitted[0][0] > 1
    _once(place, most=2)
    books.audit(place)


def test_another_script_that_attaches_by_key_takes_over_the_children_too(
    place: Any, scripts: Callable[[str], Any], books: Any
) -> None:
    server, other = scripts('duel'), scripts('duel_other')
    # The parent waits, and its child was claimed, when the engine dies.
    status = server.run(**place.order, role='submit', count=1, fault='step.started', hit=2)
    assert status == -signal.SIGKILL
    assert place.rows("SELECT state, owner FROM process WHERE process_label = 'Item'") == [('waiting', None)]
    assert other.run(**place.order, role='submit', count=1) == 0, other.stderr
    assert place.results['outputs'] == [2]
    books.audit(place)


def test_a_forked_child_that_lives_does_not_keep_its_dead_parents_lock(
    place: Any, scripts: Callable[[str], Any], books: Any
) -> None:
    server = scripts('duel')
    fifo = place.folder / 'fifo'
    os.mkfifo(fifo)
    release = threading.Event()

    def hold() -> None:
        # Opened for writing when the child has it open for reading; closed when the test is over.
        with open(fifo, 'w'):
            release.wait(30)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        assert server.run(**place.order, role='fork-and-die', fifo=str(fifo)) == -signal.SIGKILL
        assert server.run(**place.order, role='submit', count=2) == 0, server.stderr
        assert place.results['outputs'] == OUTPUTS[:2]
        assert place.rows('SELECT ended FROM engine ORDER BY id') == [('dead',), ('stopped',)]
        books.audit(place)
    finally:
        release.set()
        holding.join()
