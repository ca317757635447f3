from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from treadle.threads import Group, LoopState, LoopThread, StartFailed, StopTimeout, Watchdog

Make = Callable[..., LoopThread]


class Fake:
    """A member that notes what is done to it."""

    def __init__(
        self,
        name: str,
        log: list[str],
        *,
        start_error: BaseException | None = None,
        stop_error: BaseException | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.start_error = start_error
        self.stop_error = stop_error
        self.timeouts: list[float | None] = []
        self.on_start: Callable[[], None] = lambda: None

    def start(self, timeout: float | None) -> None:
        self.log.append(f'start {self.name}')
        self.on_start()
        if self.start_error is not None:
            raise self.start_error

    def request_stop(self) -> None:
        self.log.append(f'ask {self.name}')

    def stop(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)
        self.log.append(f'stop {self.name}')
        if self.stop_error is not None:
            raise self.stop_error


def test_members_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    group = Group('engine', [Fake(name, log) for name in 'abc'])
    group.start()
    assert log == ['start a', 'start b', 'start c']
    log.clear()
    group.stop()
    assert log == ['ask c', 'stop c', 'ask b', 'stop b', 'ask a', 'stop a']


def test_members_stop_in_the_stages_given() -> None:
    log: list[str] = []
    members = [Fake(name, log) for name in ('store', 'worker-1', 'worker-2', 'communicator')]
    group = Group('engine', members, stop_order=[('worker-1', 'worker-2'), ('store',), ('communicator',)])
    group.start()
    log.clear()
    group.stop()
    assert log == [
        'ask worker-1',
        'ask worker-2',
        'stop worker-1',
        'stop worker-2',
        'ask store',
        'stop store',
        'ask communicator',
        'stop communicator',
    ]


def test_wrong_definitions_are_refused() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match='names of their own'):
        Group('engine', [Fake('a', log), Fake('a', log)])
    for order in ([('a',)], [('a',), ('b', 'a')], [('a', 'b', 'c')]):
        with pytest.raises(ValueError, match='must name each of'):
            Group('engine', [Fake('a', log), Fake('b', log)], stop_order=order)


def test_a_failed_start_stops_those_before_it() -> None:
    log: list[str] = []
    group = Group(
        'engine',
        [
            Fake('a', log, stop_error=ValueError('second failure')),
            Fake('b', log, start_error=StartFailed('b did not come up')),
            Fake('c', log),
        ],
    )
    with pytest.raises(StartFailed, match='b did not come up') as caught:
        group.start()
    assert log == ['start a', 'start b', 'ask b', 'stop b', 'ask a', 'stop a']
    assert 'second failure' in caught.value.__notes__[0]
    with pytest.raises(StartFailed, match='create another'):
        group.start()


def test_a_stop_during_the_start_ends_it() -> None:
    log: list[str] = []
    first = Fake('a', log)
    group = Group('engine', [first, Fake('b', log)])
    first.on_start = group.stop
    with pytest.raises(StartFailed, match='asked to stop'):
        group.start()
    assert 'start b' not in log
    group = Group('engine', [Fake('a', log)])
    group.stop()
    with pytest.raises(StartFailed):
        group.start()


def test_no_time_left_to_start() -> None:
    log: list[str] = []
    group = Group('engine', [Fake('a', log)])
    with pytest.raises(StartFailed, match='no time left'):
        group.start(-1)


def test_all_are_stopped_whatever_fails_and_every_failure_is_raised() -> None:
    log: list[str] = []
    late_1 = StopTimeout("'b' did not stop within 1 s; it is at b.py:1 in run", names=('b',))
    late_2 = StopTimeout("'c' did not stop within 1 s; it is at c.py:2 in run", names=('c',))
    members = [Fake('a', log), Fake('b', log, stop_error=late_1), Fake('c', log, stop_error=late_2)]
    group = Group('engine', members)
    group.start()
    with pytest.raises(StopTimeout, match=r'c\.py:2.*b\.py:1') as caught:
        group.stop()
    assert caught.value.names == ('c', 'b')
    assert log[-1] == 'stop a'
    members[0].stop_error = SystemExit(3)
    with pytest.raises(BaseExceptionGroup) as both:
        group.stop()
    assert {type(error) for error in both.value.exceptions} == {SystemExit, StopTimeout}


def test_one_deadline_leaves_time_for_the_stages_after() -> None:
    log: list[str] = []
    members = [Fake(name, log) for name in 'abc']
    group = Group('engine', members)
    group.start()
    group.stop(10)
    limits = [member.timeouts[0] for member in reversed(members)]
    assert limits == [pytest.approx(8, abs=0.5), pytest.approx(9, abs=0.5), pytest.approx(10, abs=0.5)]
    group.stop(None)
    assert members[0].timeouts[1] is None


def test_it_works_with_threads(make_thread: Make) -> None:
    first, second = make_thread('treadle-worker-1'), make_thread('treadle-worker-2')
    group = Group('engine', [Group('workers', [first, second]), Watchdog([first, second])])
    group.start()
    assert first.state.value == second.state.value == 'running'
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(30)

    second.bridge.post(hold)
    assert held.wait(20)
    with pytest.raises(StopTimeout, match=r'treadle-worker-2.*in .*wait') as caught:
        group.stop(0.2)
    assert 'treadle-worker-2' in caught.value.names  # others may not have been so quick
    first.join(20)
    assert first.state is LoopState.STOPPED
    release.set()
    group.stop()


def test_the_first_crash_stops_all_in_their_stages(make_thread: Make, caplog: pytest.LogCaptureFixture) -> None:
    groups: list[Group] = []
    names = ('treadle-worker-1', 'treadle-worker-2')
    threads = [make_thread(name, on_crash=lambda *args: groups[0].failed(*args)) for name in names]
    groups.append(Group('engine', threads))
    groups[0].start()

    def crash() -> None:
        raise SystemExit(3)

    threads[1].bridge.post(crash)
    threads[0].join(5)
    assert threads[0].state is LoopState.STOPPED
    with pytest.raises(SystemExit):
        groups[0].stop()
    assert isinstance(groups[0].failure, SystemExit)
    caplog.clear()


def test_without_a_thread_to_stop_in_the_members_are_just_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    group = Group('engine', [Fake('a', log), Fake('b', log)])
    group.start()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, 'start', refuse)
    group.request_stop()
    assert log[2:] == ['ask b', 'ask a']
