"""Several engines in OS processes of their own on one file: they share, stall, die, and take over from one another."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LEASE = 1.0


class Company:
    """Runs of ``company.py`` on one place.

    :ivar server: what forks the runs.
    """

    def __init__(self, place: Any, server: Any) -> None:
        self.place = place
        self.server = server
        self._runs = 0

    def start(self, role: str, **order: Any) -> tuple[int, Path]:
        """Start a run; its OS pid, and where its results will be."""
        self._runs += 1
        results = self.place.folder / f'results-{self._runs}'
        order = {**self.place.order, 'results': str(results), 'role': role, **order}
        return self.server.start(**order), results

    def end(self, run: tuple[int, Path]) -> Any:
        """Wait for the end of a run; its results, or ``None`` when a signal ended it."""
        os_pid, results = run
        status = self.server.wait(os_pid)
        assert status in (0, -signal.SIGKILL, -signal.SIGALRM), self.server.stderr
        return json.loads(results.read_text()) if status == 0 else None

    def stop(self, run: tuple[int, Path]) -> None:
        """Stop a run, as a suspended machine would be, but not in the middle of a transaction.

        There it would hold the file's lock, so nobody else could write at all.
        """
        while True:
            os.kill(run[0], signal.SIGSTOP)
            while not _is_stopped(run[0]):
                os.sched_yield()
            connection = sqlite3.connect(self.place.store, timeout=0, isolation_level=None)
            try:
                connection.execute('BEGIN IMMEDIATE')
                return
            except sqlite3.OperationalError:
                os.kill(run[0], signal.SIGCONT)
            finally:
                connection.close()

    def pipe(self, name: str) -> Path:
        """A named pipe for a run to say that it has come somewhere, or to be held by."""
        path: Path = self.place.folder / name
        os.mkfifo(path)
        return path


@pytest.fixture
def company(tmp_path: Path, books: Any, scripts: Callable[[str], Any]) -> Company:
    return Company(books.Place(tmp_path), scripts('company'))


def _is_stopped(os_pid: int) -> bool:
    """Whether all threads of an OS process stand still; a thread may end while they are looked at."""
    try:
        stats = [(task / 'stat').read_text() for task in Path(f'/proc/{os_pid}/task').iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return {stat.rpartition(')')[2].split()[0] for stat in stats} == {'T'}


def rows(place: Any) -> list[Any]:
    """All that is committed of all processes."""
    return [*place.rows('SELECT * FROM process ORDER BY pid'), *place.rows('SELECT * FROM log ORDER BY id')]


@pytest.mark.timeout(180)
def test_two_engines_share_two_thousand_processes_and_each_runs_once(company: Company, books: Any) -> None:
    begun = company.pipe('begun')
    one = company.start('share', count=2000, begun=str(begun))
    with open(begun) as stream:
        stream.read()
    other = company.start('share')
    assert company.end(one)['finished'] == company.end(other)['finished'] == 2000
    executed = Counter((effect.pid, effect.visit) for effect in company.place.effects)
    assert len(executed) == 2000 and set(executed.values()) == {1}
    books.audit(company.place)


def test_an_engine_stopped_past_its_lease_writes_nothing_and_goes_on_anew(company: Company, books: Any) -> None:
    place, begun, held = company.place, company.pipe('begun'), company.pipe('held')
    stalled = company.start('stall', lease=LEASE, begun=str(begun), held=str(held))
    with open(begun) as stream:
        pid = int(stream.read())
    company.stop(stalled)
    try:
        # The held step is run again by the other, where nothing holds it.
        assert company.end(company.start('finish', lease=LEASE))['outputs'][str(pid)] == 2
        (ended,) = place.rows('SELECT ended FROM engine WHERE id = 1')[0]
        assert ended == 'dead'
        before, executed = rows(place), len(place.effects)
        assert {effect.os_pid for effect in place.effects if effect.what == 'release(1)'} != {stalled[0]}
    finally:
        os.kill(stalled[0], signal.SIGCONT)
    with open(held, 'w'):
        pass
    results = company.end(stalled)
    later = [row for row in rows(place) if row not in before]
    assert [row for row in before if row not in rows(place)] == [], 'the stale engine has changed something'
    assert len(later) == 1, 'what it did is the one process that it ran in its new life'
    assert results['held'] == {'state': 'finished', 'y': 2}
    assert results['items'] == [2 * (x + 1) for x in range(20)]
    assert results['later'] == {'y': 1001}
    assert len(results['lives']) == 2
    # Of what it had begun, the one step that was held went on to where it made a call.
    # The processes of its new life run beside each other, in no order.
    stale = Counter(effect.what for effect in place.effects[executed:] if effect.os_pid == stalled[0])
    assert stale == Counter(['release(1)', 'part(1000)'])
    assert 'LeaseLost in hold(1)' in company.server.stderr
    assert 'was silent for its lease of 1 s and was declared dead' in company.server.stderr
    books.audit(place)


def test_a_stopped_engine_that_nobody_took_over_from_just_goes_on(company: Company, books: Any) -> None:
    begun, held = company.pipe('begun'), company.pipe('held')
    stalled = company.start('stall', lease=0.2, begun=str(begun), held=str(held))
    with open(begun) as stream:
        stream.read()
    company.stop(stalled)
    signal.sigtimedwait([], 0.5)  # its lease lapses
    os.kill(stalled[0], signal.SIGCONT)
    with open(held, 'w'):
        pass
    results = company.end(stalled)
    assert (results['held'], results['lives']) == ({'state': 'finished', 'y': 2}, [1])
    executed = Counter((effect.pid, effect.visit, effect.what) for effect in company.place.effects)
    assert set(executed.values()) == {1}
    books.audit(company.place)


@pytest.mark.timeout(180)
def test_what_an_engine_with_five_hundred_processes_leaves_is_finished_by_another(company: Company, books: Any) -> None:
    place, begun = company.place, company.pipe('begun')
    doomed = company.start('mixture', count=500, begun=str(begun))
    with open(begun) as stream:
        stream.read()
    os.kill(doomed[0], signal.SIGKILL)
    assert company.end(doomed) is None
    committed = place.committed()
    executed = len(place.effects)
    states = Counter(state for (state,) in place.rows('SELECT state FROM process'))
    outputs = company.end(company.start('finish'))['outputs']
    again = [
        effect
        for effect in place.effects[executed:]
        if effect.pid in committed and (committed[effect.pid][1] or effect.visit < committed[effect.pid][0])
    ]
    assert again == [], f'of {states}: executed although committed'
    ended = place.rows('SELECT pid, process_label, state, inputs FROM process')
    assert len([row for row in ended if row[2] == 'killed']) == states['killed'] > 0
    assert {row[2] for row in ended} == {'finished', 'killed'}
    for pid, label, state, inputs in ended:
        if state == 'finished' and str(pid) in outputs:
            expected = (json.loads(inputs)['x'] + 1) * (2 if label == 'Item' else 1)
            assert outputs[str(pid)] == expected
    parents = Counter(row[0] for row in place.rows("SELECT parent FROM process WHERE process_label = 'Part'"))
    assert max(count for parent, count in parents.items() if parent is not None) == 1, 'children exist once'


def test_a_process_that_kills_its_engines_is_set_aside_and_the_others_are_not(company: Company, books: Any) -> None:
    place = company.place
    deaths = 0
    while company.end(company.start('work', fatal=not deaths, max_crashes=4)) is None:
        deaths += 1
        assert deaths <= 4
    assert deaths == 4
    assert Counter(effect.what for effect in place.effects)['fatal'] == 4
    assert place.rows("SELECT state, paused FROM process WHERE process_label = 'Fatal'") == [('running', 1)]
    (message,) = place.rows("SELECT message FROM log WHERE logger = 'treadle.intents'")[0]
    assert message.startswith('paused: quarantined: 4 engines in a row have died while they ran it')
    assert place.rows("SELECT count(*) FROM process WHERE state = 'finished'") == [(40,)]


def _restart_often(company: Company, books: Any, restarts: int, seed: int) -> None:
    """Kill engines that work at random moments, until ``restarts`` of them are dead; then let one finish."""
    place, rng = company.place, random.Random(seed)
    watch = books.Watch(place)
    dead = 0
    while dead < restarts:
        count = rng.randrange(5, 40)
        # At a point of its work, or at any moment at all.
        end = rng.choice([{'fault': 'step.posted', 'hit': count}, {'die_after': rng.uniform(0.05, 0.4)}])
        # Who kills engines as often as this test does must not have their work set aside.
        status = company.end(company.start('share', count=count, max_crashes=1000, **end))
        dead += status is None
        watch.after_run()
    finished = company.end(company.start('share', max_crashes=1000))['finished']
    assert place.rows("SELECT count(*) FROM process WHERE state != 'finished'") == [(0,)]
    assert finished == place.rows('SELECT count(*) FROM process')[0][0]


@pytest.mark.timeout(180)
def test_ten_restarts_under_load(company: Company, books: Any) -> None:
    _restart_often(company, books, 10, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_hundred_restarts_under_load(company: Company, books: Any) -> None:
    _restart_often(company, books, 100, seed=2)
