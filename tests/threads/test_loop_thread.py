from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from treadle.threads import (
    Bridge,
    LoopClosed,
    LoopState,
    LoopThread,
    StartFailed,
    StopTimeout,
    WrongThread,
    current_loop_thread,
)

Make = Callable[..., LoopThread]


class Fatal(BaseException):
    pass


async def for_ever() -> None:
    await asyncio.Event().wait()


# -- life -------------------------------------------------------------------------------------------------------


def test_it_runs_a_loop_of_its_own_on_a_named_daemon_thread(make_thread: Make) -> None:
    thread = make_thread('treadle-worker-7', debug=True)
    assert thread.state.value == 'new'
    with pytest.raises(LoopClosed, match=r'start\(\)'):
        _ = thread.bridge
    with pytest.raises(LoopClosed):
        _ = thread.loop
    thread.start()
    assert thread.state.value == 'running'
    assert thread.thread.name == 'treadle-worker-7'
    assert thread.thread.daemon
    assert thread.loop.get_debug()
    assert not thread.is_current()
    assert current_loop_thread() is None
    assert thread.bridge.call(current_loop_thread).result(5) is thread
    assert thread.bridge.call(asyncio.get_running_loop).result(5) is thread.loop
    thread.stop()
    assert str(thread.state) == 'LoopState.STOPPED'
    assert thread.loop.is_closed()
    thread.stop()
    thread.join()


def test_the_global_policy_is_not_asked(make_thread: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> asyncio.AbstractEventLoop:
        raise AssertionError

    monkeypatch.setattr(asyncio, 'new_event_loop', refuse)
    monkeypatch.setattr(asyncio, 'set_event_loop', refuse)
    thread = make_thread()
    thread.start()
    thread.stop()


def test_it_starts_once(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    with pytest.raises(StartFailed, match='create another'):
        thread.start()
    thread.stop()
    with pytest.raises(StartFailed):
        thread.start()


def test_stopping_before_the_start_forbids_it(make_thread: Make) -> None:
    thread = make_thread()
    thread.join()
    thread.stop()
    assert thread.state is LoopState.STOPPED
    with pytest.raises(StartFailed):
        thread.start()


def test_a_thread_that_cannot_be_had_fails_the_start(make_thread: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = make_thread()

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(thread.thread, 'start', refuse)
    with pytest.raises(StartFailed, match='new thread') as caught:
        thread.start()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert thread.state is LoopState.STOPPED
    thread.stop()


def test_a_loop_that_cannot_be_had_fails_the_start(make_thread: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> asyncio.AbstractEventLoop:
        raise OSError(24, 'Too many open files')

    monkeypatch.setattr(asyncio, 'SelectorEventLoop', refuse)
    thread = make_thread()
    with pytest.raises(StartFailed, match='Too many open files') as caught:
        thread.start()
    assert isinstance(caught.value.__cause__, OSError)
    assert thread.state is LoopState.STOPPED
    thread.stop()


def test_a_start_that_takes_too_long_fails(make_thread: Make) -> None:
    release = threading.Event()

    async def main(_: LoopThread) -> None:
        release.wait(5)

    thread = make_thread(main=main)
    with pytest.raises(StartFailed, match=r'within 0.05 s.*in .*main|within 0.05 s'):
        thread.start(0.05)
    release.set()
    thread.stop()


def test_tasks_are_cancelled_and_may_clean_up(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    log: list[str] = []

    async def work() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            await asyncio.create_task(asyncio.sleep(0))
            log.append('clean')

    begun = thread.bridge.submit(work)
    bare = thread.bridge.call(lambda: thread.loop.create_task(work())).result(5)
    thread.stop()
    assert log == ['clean', 'clean']
    assert bare.cancelled()
    with pytest.raises(LoopClosed, match='before this call ended'):
        begun.result(0)


def test_clean_up_may_wait_for_replies_of_other_threads(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    asked, begun = threading.Event(), threading.Event()
    replies: list[str] = []
    reply: list[asyncio.Future[str]] = []

    async def work() -> None:
        begun.set()
        try:
            await for_ever()
        finally:
            reply.append(asyncio.get_running_loop().create_future())
            asked.set()
            replies.append(await reply[0])

    thread.bridge.submit(work)
    assert begun.wait(5)
    thread.request_stop()
    with pytest.raises(LoopClosed, match='is stopping'):
        thread.bridge.submit(work)
    assert asked.wait(5)
    thread.bridge.post(lambda: reply[0].set_result('stored'))
    thread.join(5)
    assert replies == ['stored']


def test_async_generators_are_closed(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    closed: list[bool] = []
    kept: list[AsyncIterator[int]] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    async def begin() -> int:
        kept.append(numbers())
        return await anext(kept[0])

    assert thread.bridge.submit(begin).result(5) == 1
    thread.stop()
    assert closed == [True]


def test_everything_accepted_before_the_stop_resolves(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    held, release = threading.Event(), threading.Event()
    ran: list[str] = []

    def hold() -> None:
        held.set()
        release.wait(5)

    thread.bridge.post(hold)
    assert held.wait(5)
    thread.bridge.post(ran.append, 'post')
    call = thread.bridge.call(ran.append, 'call')
    task = thread.bridge.submit(for_ever)
    thread.request_stop()
    thread.bridge.post(ran.append, 'late post')
    release.set()
    thread.join(5)
    assert ran == ['post', 'call', 'late post']
    assert call.result(0) is None
    assert isinstance(task.exception(0), LoopClosed)


def test_stop_names_what_does_not_stop(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(5)

    thread.bridge.post(hold)
    assert held.wait(5)
    with pytest.raises(StopTimeout, match=r"'treadle-worker-1' did not stop within 0.05 s; it is at .*wait") as caught:
        thread.stop(0.05)
    assert caught.value.names == ('treadle-worker-1',)
    release.set()
    thread.stop()


def test_stop_names_the_tasks_that_do_not_end(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    begun = threading.Event()
    release: list[asyncio.Event] = []

    async def stubborn() -> None:
        release.append(asyncio.Event())
        begun.set()
        try:
            await for_ever()
        finally:
            await release[0].wait()

    thread.bridge.submit(stubborn)
    assert begun.wait(5)
    with pytest.raises(StopTimeout, match='stubborn'):
        thread.stop(0.1)
    thread.bridge.post(release[0].set)
    thread.join(5)


def test_it_does_not_wait_for_itself(loop_thread: LoopThread) -> None:
    for method in (loop_thread.stop, loop_thread.join):
        with pytest.raises(WrongThread, match=r"called on 'treadle-worker-1'"):
            loop_thread.bridge.call(method).result(5)
    loop_thread.bridge.call(loop_thread.request_stop).result(5)
    loop_thread.join(5)


def test_the_default_executor_ends_with_the_loop(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()

    async def on_executor() -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert thread.bridge.submit(on_executor).result(5) != thread.name
    thread.stop()


# -- main -------------------------------------------------------------------------------------------------------


def test_main_gets_the_thread_and_its_return_stops_it(make_thread: Make) -> None:
    go: list[asyncio.Event] = []
    given: list[LoopThread] = []

    async def main(thread: LoopThread) -> None:
        given.append(thread)
        go.append(asyncio.Event())
        await go[0].wait()

    thread = make_thread(main=main)
    thread.start()
    assert given == [thread]
    thread.bridge.post(go[0].set)
    thread.join(5)
    assert thread.state is LoopState.STOPPED


def test_main_is_cancelled_on_stop(make_thread: Make) -> None:
    log: list[str] = []

    async def main(_: LoopThread) -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            log.append('cancelled')
            raise

    thread = make_thread(main=main)
    thread.start()
    thread.stop()
    assert log == ['cancelled']


def test_main_that_waits_for_the_stop_ends_by_itself(make_thread: Make) -> None:
    log: list[str] = []

    async def main(thread: LoopThread) -> None:
        await thread.wait_stop()
        await asyncio.sleep(0)
        log.append('ended')

    thread = make_thread(main=main)
    thread.start()
    thread.stop()
    assert log == ['ended']


def test_main_that_fails_at_once_fails_the_start(make_thread: Make) -> None:
    async def main(_: LoopThread) -> None:
        raise ConnectionError('nobody there')

    thread = make_thread(main=main)
    with pytest.raises(StartFailed, match='nobody there') as caught:
        thread.start()
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert thread.state is LoopState.STOPPED
    thread.stop()


def test_main_that_exits_at_once_fails_the_start(make_thread: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def main(_: LoopThread) -> None:
        raise SystemExit(3)

    thread = make_thread(main=main)
    with pytest.raises(StartFailed) as caught:
        thread.start()
    assert isinstance(caught.value.__cause__, SystemExit)
    thread.stop()
    gc.collect()
    caplog.clear()


def test_main_that_fails_later_crashes_the_thread(make_thread: Make) -> None:
    go: list[asyncio.Event] = []

    async def main(_: LoopThread) -> None:
        go.append(asyncio.Event())
        await go[0].wait()
        raise ConnectionError('gone')

    crashes: list[BaseException] = []
    thread = make_thread(main=main, on_crash=lambda _, error: crashes.append(error))
    thread.start()
    thread.bridge.post(go[0].set)
    with pytest.raises(ConnectionError, match='gone'):
        thread.join(5)
    assert isinstance(crashes[0], ConnectionError)


# -- crashes ----------------------------------------------------------------------------------------------------


def crash_by_post(thread: LoopThread, error: BaseException) -> None:
    def fail() -> None:
        raise error

    thread.bridge.post(fail)


def crash_by_loop_callback(thread: LoopThread, error: BaseException) -> None:
    def fail() -> None:
        raise error

    thread.bridge.post(thread.loop.call_soon, fail)


def crash_by_task(thread: LoopThread, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    def begin() -> None:
        keep.add(asyncio.ensure_future(fail()))

    keep: set[asyncio.Future[None]] = set()
    thread.bridge.post(begin)


@pytest.mark.parametrize('crash', [crash_by_post, crash_by_loop_callback, crash_by_task])
@pytest.mark.parametrize('kind', [Fatal, SystemExit, KeyboardInterrupt])
def test_a_crash_resolves_reports_and_is_raised(
    make_thread: Make,
    caplog: pytest.LogCaptureFixture,
    crash: Callable[[LoopThread, BaseException], None],
    kind: type[BaseException],
) -> None:
    error = kind('a crash')
    if crash is crash_by_task and kind is Fatal:
        pytest.skip('asyncio keeps it in the task: see test_an_unseen_fatal_task_crashes')
    crashes: list[tuple[LoopThread, BaseException]] = []
    thread = make_thread(on_crash=lambda crashed, error: crashes.append((crashed, error)))
    thread.start()
    ran: list[str] = []
    begun = thread.bridge.submit(for_ever)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(5)

    thread.bridge.post(hold)
    assert held.wait(5)
    crash(thread, error)
    thread.bridge.post(ran.append, 'after the crash')
    later = thread.bridge.submit(for_ever)
    release.set()
    with pytest.raises(type(error)) as caught:
        thread.join(5)
    assert caught.value is error
    assert crashes == [(thread, error)]
    assert ran == ['after the crash']
    for future in (begun, later):
        lost = future.exception(0)
        assert isinstance(lost, LoopClosed)
    assert begun.exception(0).__cause__ is error  # type: ignore[union-attr]
    with pytest.raises(LoopClosed, match='crashed') as refused:
        thread.bridge.post(int)
    assert refused.value.__cause__ is error
    with pytest.raises(type(error)):
        thread.stop()
    assert "'treadle-worker-1' crashed" in caplog.text
    gc.collect()
    caplog.clear()


def test_an_exit_in_a_submitted_coroutine_reaches_its_caller_and_crashes(make_thread: Make) -> None:
    async def leave() -> None:
        raise SystemExit(4)

    thread = make_thread()
    thread.start()
    with pytest.raises(SystemExit):
        thread.bridge.submit(leave).result(5)
    with pytest.raises(SystemExit):
        thread.join(5)


def test_an_unseen_fatal_task_crashes(make_thread: Make) -> None:
    async def fail() -> None:
        raise Fatal

    async def begin() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        assert task.done()

    thread = make_thread()
    thread.start()
    thread.bridge.submit(begin).result(5)
    gc.collect()
    with pytest.raises(Fatal):
        thread.join(5)


def test_two_crashes_report_the_first_and_log_the_second(
    make_thread: Make, caplog: pytest.LogCaptureFixture
) -> None:
    thread = make_thread()
    thread.start()
    first, second = Fatal('first'), Fatal('second')

    def fail(error: BaseException) -> None:
        raise error

    thread.bridge.post_many([(fail, (first,)), (fail, (second,))])
    with pytest.raises(Fatal, match='first'):
        thread.join(5)
    assert 'second' in caplog.text
    caplog.clear()


def test_a_crash_while_stopping_still_ends_in_order(make_thread: Make) -> None:
    crashes: list[BaseException] = []
    thread = make_thread(on_crash=lambda _, error: crashes.append(error))
    thread.start()
    clean: list[str] = []

    async def exit_late() -> None:
        try:
            await for_ever()
        finally:
            raise SystemExit(5)

    async def tidy() -> None:
        try:
            await for_ever()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            clean.append('tidy')

    def begin() -> list[asyncio.Task[None]]:
        return [thread.loop.create_task(exit_late()), thread.loop.create_task(tidy())]

    tasks = thread.bridge.call(begin).result(5)
    thread.bridge.submit(asyncio.sleep, 0).result(5)
    with pytest.raises(SystemExit):
        thread.stop()
    assert clean == ['tidy']
    assert len(crashes) == 1
    assert all(task.done() for task in tasks)
    assert isinstance(tasks[0].exception(), SystemExit)


def test_a_failing_on_crash_is_logged(make_thread: Make, caplog: pytest.LogCaptureFixture) -> None:
    def on_crash(_: LoopThread, error: BaseException) -> None:
        raise RuntimeError('the reporter failed')

    thread = make_thread(on_crash=on_crash)
    thread.start()
    crash_by_post(thread, Fatal())
    with pytest.raises(Fatal):
        thread.join(5)
    assert 'the reporter failed' in caplog.text


def test_a_task_that_fails_in_its_clean_up_is_reported(make_thread: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def clumsy() -> None:
        try:
            await for_ever()
        finally:
            raise ValueError('clumsy')

    thread = make_thread()
    thread.start()
    thread.bridge.call(lambda: setattr(thread, 'kept', thread.loop.create_task(clumsy()))).result(5)
    thread.bridge.submit(asyncio.sleep, 0).result(5)
    with caplog.at_level(logging.ERROR):
        thread.stop()
    assert 'while' in caplog.text
    assert 'clumsy' in caplog.text
    caplog.clear()


def test_a_fatal_done_callback_keeps_no_other_future_open(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop, name='host')
    futures = [bridge.submit(for_ever) for _ in range(3)]

    def fail(_: object) -> None:
        raise Fatal

    for future in futures:
        future.add_done_callback(fail)
    loop.close()
    bridge.abandon()
    assert all(isinstance(future.exception(0), LoopClosed) for future in futures)
    assert 'done-callback' in caplog.text


def test_an_interpreter_may_exit_beside_running_threads() -> None:
    code = """
from treadle.threads import LoopThread, Watchdog
import asyncio
thread = LoopThread('treadle-worker-1')
thread.start()
Watchdog([thread]).start()
begun = thread.bridge.submit(asyncio.sleep, 60)
thread.bridge.call(int).result(5)
print('done')
"""
    ended = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, 'done\n', '')


def test_stopping_the_loop_itself_stops_the_thread(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    waiting = thread.bridge.submit(for_ever)
    thread.bridge.post(thread.loop.stop)
    thread.join(5)
    assert isinstance(waiting.exception(0), LoopClosed)
