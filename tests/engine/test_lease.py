"""Who may act, and who is dead: by two clocks that know nothing of each other."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from treadle.engine import Engine
from treadle.engine.lease import Lease, Silences
from treadle.engine.store.records import EngineRecord

LEASE = 10.0


@dataclasses.dataclass
class Clock:
    """A clock that the test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def beating(engine_id: int, heartbeat: int, lease: float = LEASE) -> EngineRecord:
    """The row of an engine."""
    return EngineRecord(
        id=engine_id, uuid=str(uuid.uuid4()), name='', host='', boot_id='', os_pid=1, script=None, started_at=0.0,
        heartbeat=heartbeat, lease=lease, ended=None,
    )  # fmt: skip


class TestLease:
    def test_it_counts_from_before_the_heartbeat_was_sent(self) -> None:
        clock = Clock()
        lease = Lease(LEASE, clock)
        assert not lease.is_valid, 'nothing is confirmed yet'
        sent = lease.send()
        clock.now += 4
        lease.confirm(sent)
        clock.now += 5.9
        assert lease.is_valid
        clock.now += 0.2
        assert not lease.is_valid

    def test_a_confirmation_that_comes_late_takes_nothing_back(self) -> None:
        clock = Clock()
        lease = Lease(LEASE, clock)
        first = lease.send()
        clock.now += 1
        second = lease.send()
        lease.confirm(second)
        lease.confirm(first)
        clock.now += 9.5
        assert lease.is_valid

    def test_a_lapsed_lease_is_renewed_by_the_next_confirmation(self) -> None:
        clock = Clock()
        lease = Lease(LEASE, clock)
        lease.confirm(lease.send())
        clock.now += 100
        assert not lease.is_valid
        lease.confirm(lease.send())
        assert lease.is_valid

    def test_the_owner_stops_before_an_observer_may_declare_it_dead(self) -> None:
        """The observer sees a heartbeat at the earliest when it is in the database, hence after it was sent."""
        clock = Clock()
        lease, silences = Lease(LEASE, clock), Silences(clock)
        lease.confirm(lease.send())
        silences.look([beating(1, 1)])
        for _ in range(20):
            clock.now += 1
            silent = bool(silences.look([beating(1, 1)]))
            assert not (silent and lease.is_valid)
        assert silent


class TestSilences:
    def watch(self, silences: Silences, clock: Clock, seconds: float, *engines: EngineRecord) -> list[int]:
        silent: list[int] = []
        end = clock.now + seconds
        while clock.now < end:
            clock.now += 1
            silent = [engine.id for engine in silences.look(engines)]
        return silent

    def test_a_whole_lease_without_a_heartbeat(self) -> None:
        clock = Clock()
        silences = Silences(clock)
        silences.look([beating(1, 7)])
        assert self.watch(silences, clock, 9, beating(1, 7)) == []
        assert self.watch(silences, clock, 1, beating(1, 7)) == [1]

    def test_any_change_of_the_counter_is_a_sign_of_life(self) -> None:
        clock = Clock()
        silences = Silences(clock)
        for heartbeat in range(10):
            assert self.watch(silences, clock, 9, beating(1, heartbeat), beating(2, 0)) == ([2] if heartbeat else [])

    def test_an_observer_that_did_not_look_begins_anew(self) -> None:
        clock = Clock()
        silences = Silences(clock)
        self.watch(silences, clock, 9, beating(1, 7))
        clock.now += 3600  # it was stopped, or the database was away
        assert silences.look([beating(1, 7)]) == []
        assert self.watch(silences, clock, 9, beating(1, 7)) == []
        assert self.watch(silences, clock, 1, beating(1, 7)) == [1]

    def test_an_observer_whose_own_heartbeats_do_not_come_through_blames_nobody(self) -> None:
        """Somebody holds the database's lock: no engine can beat."""
        clock = Clock()
        lease, silences = Lease(LEASE, clock), Silences(clock)
        lease.confirm(lease.send())
        assert lease.is_fresh
        for _ in range(60):
            clock.now += 1
            assert silences.look([beating(1, 7)], in_touch=lease.is_fresh) == []
        lease.confirm(lease.send())
        assert silences.look([beating(1, 7)], in_touch=lease.is_fresh) == []
        assert self.watch(silences, clock, 9, beating(1, 7)) == []

    def test_each_engine_by_its_own_lease(self) -> None:
        clock = Clock()
        silences = Silences(clock)
        silences.look([beating(1, 0, 3.0), beating(2, 0, 20.0), beating(3, 0, 0.0)])
        engines = beating(1, 0, 3.0), beating(2, 0, 20.0), beating(3, 0, 0.0)
        assert self.watch(silences, clock, 5, *engines) == [1]
        assert self.watch(silences, clock, 30, *engines) == [1, 2], 'one without a lease is never silent'

    def test_one_that_has_ended_is_forgotten(self) -> None:
        clock = Clock()
        silences = Silences(clock)
        self.watch(silences, clock, 9, beating(1, 7))
        self.watch(silences, clock, 1)
        assert self.watch(silences, clock, 5, beating(1, 7)) == []


@pytest.mark.parametrize(('option', 'value'), [('lease', 0), ('lease', -1.0), ('max_crashes', 0)])
def test_settings_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        Engine('sqlite:////tmp/never-made.db', **{option: value})  # type: ignore[arg-type]
