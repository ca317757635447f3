"""SIGKILL at every fault point, and anywhere: the script is run again and ends as if nothing had been."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treadle.engine.faults import FaultPoint

#: Those of jobs have tests of their own.
POINTS = [point for point in FaultPoint if not point.startswith('job.')]
#: A run that is killed first at this point leaves an engine for the next one to declare dead.
SOMEWHERE = (FaultPoint.STEP_RETURNED, 7)


@pytest.fixture(scope='session')
def uncrashed(tmp_path_factory: pytest.TempPathFactory, scripts: Callable[[str], Any], books: Any) -> Any:
    """A run that nobody kills, after one that was killed right at its start: it hits every point."""
    place = books.Place(tmp_path_factory.mktemp('uncrashed'))
    assert scripts('scenario').run(**place.order, fault=FaultPoint.ENGINE_REGISTERED, hit=1) == -signal.SIGKILL
    assert scripts('scenario').run(**place.order) == 0, scripts('scenario').stderr
    return place


@pytest.fixture
def resume(scripts: Callable[[str], Any], books: Any, uncrashed: Any) -> Callable[[Any, Any], None]:
    """Run the script to its end on a place where it was killed, and compare all there is to compare."""

    def run_and_compare(place: Any, watch: Any) -> None:
        assert scripts('scenario').run(**place.order) == 0, scripts('scenario').stderr
        watch.after_run()
        assert place.results['results'] == uncrashed.results['results']
        assert place.family() == uncrashed.family()
        assert place.logs() == uncrashed.logs()
        assert {effect.what for effect in place.effects} == {effect.what for effect in uncrashed.effects}
        books.audit(place, lambda label: label == 'Failing')

    return run_and_compare


def test_the_scenario_hits_every_point(uncrashed: Any) -> None:
    missed = [point for point in POINTS if not uncrashed.results['hits'].get(point)]
    assert not missed, f'extend scenario.py, or remove what nothing hits: {missed}'


def test_an_uncrashed_run_executes_everything_once(uncrashed: Any, books: Any) -> None:
    books.audit(uncrashed, lambda label: label == 'Failing')
    executed = [(effect.pid, effect.visit, effect.what) for effect in uncrashed.effects]
    assert len(executed) == len(set(executed))


@pytest.mark.parametrize('point', POINTS, ids=str)
def test_kill_at(
    point: FaultPoint,
    tmp_path: Path,
    kind: str,
    make_place: Callable[[Path], Any],
    scripts: Callable[[str], Any],
    books: Any,
    uncrashed: Any,
    resume: Callable[[Any, Any], None],
) -> None:
    """Killed at the point, killed there again while it recovers, then left alone."""
    hits = uncrashed.results['hits'][point]
    chosen = sorted({1, max(1, hits // 2), hits})
    if kind == 'postgresql':  # each takes longer there
        chosen = chosen[:2]
    fired = 0
    for number, hit in enumerate(chosen):
        place = make_place(tmp_path / str(number))
        watch = books.Watch(place)
        faults = [(point, hit), (point, 1)]
        if point is FaultPoint.PREDECESSOR_RELEASED:
            faults.insert(0, SOMEWHERE)
        for fault, at in faults:
            status = scripts('scenario').run(**place.order, fault=fault, hit=at)
            assert status in (-signal.SIGKILL, 0), scripts('scenario').stderr
            fired += status != 0
            watch.after_run()
        resume(place, watch)
    assert fired >= len(chosen)


def _kill_in_a_row(place: Any, watch: Any, scripts: Any, rng: random.Random, most: int, span: float) -> int:
    """Kill at random moments until a run comes to its end, or ``most`` times; returns how many died."""
    for killed in range(most):
        status = scripts('scenario').run(**place.order, die_after=rng.uniform(0.002, span))
        assert status in (0, -signal.SIGALRM), scripts('scenario').stderr
        watch.after_run()
        if status == 0:
            return killed
    return most


@pytest.mark.parametrize('seed', range(4))
def test_kill_at_random_moments_many_times_in_a_row(
    seed: int,
    tmp_path: Path,
    make_place: Callable[[Path], Any],
    scripts: Callable[[str], Any],
    books: Any,
    resume: Callable[[Any, Any], None],
) -> None:
    place = make_place(tmp_path)
    watch = books.Watch(place)
    _kill_in_a_row(place, watch, scripts, random.Random(seed), 12, 0.15)
    resume(place, watch)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('seed', range(100, 200))
def test_kill_at_random_moments_for_long(
    seed: int, tmp_path: Path, scripts: Callable[[str], Any], books: Any, resume: Callable[[Any, Any], None]
) -> None:
    place = books.Place(tmp_path)
    watch = books.Watch(place)
    rng = random.Random(seed)
    _kill_in_a_row(place, watch, scripts, rng, 60, rng.choice([0.05, 0.1, 0.3]))
    resume(place, watch)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('point', POINTS, ids=str)
def test_kill_at_every_hit(
    point: FaultPoint,
    tmp_path: Path,
    scripts: Callable[[str], Any],
    books: Any,
    uncrashed: Any,
    resume: Callable[[Any, Any], None],
) -> None:
    for hit in range(1, uncrashed.results['hits'][point] + 1):
        place = books.Place(tmp_path / str(hit))
        place.folder.mkdir()
        watch = books.Watch(place)
        if point is FaultPoint.PREDECESSOR_RELEASED:
            scripts('scenario').run(**place.order, fault=SOMEWHERE[0], hit=SOMEWHERE[1])
        scripts('scenario').run(**place.order, fault=point, hit=hit)
        watch.after_run()
        resume(place, watch)
