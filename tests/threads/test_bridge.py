from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import re
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import treadle.threads
from treadle.threads import (
    Bridge,
    LoopClosed,
    LoopThread,
    WrongThread,
    call_when_done,
    wait,
    wait_on_loop,
)
from treadle.threads.bridge import BATCH
from treadle.threads.relay import relay_of

Make = Callable[..., LoopThread]
variable: contextvars.ContextVar[str] = contextvars.ContextVar('variable', default='unset')


def test_only_the_bridge_crosses() -> None:
    root = Path(treadle.threads.__file__).resolve().parents[1]
    calls = re.compile(r'\.(call_soon_threadsafe|run_coroutine_threadsafe)\b|import.*run_coroutine_threadsafe')
    found = {
        path.relative_to(root).as_posix()
        for package in ('engine', 'threads')
        for path in (root / package).rglob('*.py')
        if calls.search(path.read_text())
    }
    assert found == {'threads/bridge.py'}


def test_only_the_mailbox_imports_janus() -> None:
    root = Path(treadle.threads.__file__).resolve().parents[1]
    found = {
        path.relative_to(root).as_posix()
        for package in ('engine', 'threads')
        for path in (root / package).rglob('*.py')
        if re.search(r'^\s*(import|from) janus', path.read_text(), re.M)
    }
    assert found == {'threads/mailbox.py'}


# -- post ---------------------------------------------------------------------------------------------------


def test_posts_run_in_order_on_the_loop(loop_thread: LoopThread) -> None:
    seen: list[tuple[int, bool]] = []
    done = threading.Event()

    def note(number: int) -> None:
        seen.append((number, loop_thread.is_current()))

    for number in range(3 * BATCH):
        loop_thread.bridge.post(note, number)
    loop_thread.bridge.post(done.set)
    assert done.wait(5)
    assert seen == [(number, True) for number in range(3 * BATCH)]


def test_a_burst_costs_one_wake_up(loop_thread: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge, loop = loop_thread.bridge, loop_thread.loop
    held, release, done = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(5)

    bridge.post(hold)
    assert held.wait(5)
    wake_ups: list[object] = []
    original = loop.call_soon_threadsafe

    def count(*args: Any) -> object:
        wake_ups.append(args)
        return original(*args)

    monkeypatch.setattr(loop, 'call_soon_threadsafe', count)
    for _ in range(100):
        bridge.post(int)
    bridge.post_many([(int, ())] * 100 + [(done.set, ())])
    release.set()
    assert done.wait(5)
    assert wake_ups == []


def test_a_flood_of_posts_leaves_the_loop_to_others(loop_thread: LoopThread) -> None:
    order: list[str] = []
    done = threading.Event()

    def first() -> None:
        loop_thread.loop.call_soon(order.append, 'other')

    posts: list[tuple[Callable[..., object], tuple[object, ...]]] = [(first, ())]
    posts += [(order.append, ('post',))] * (2 * BATCH)
    loop_thread.bridge.post_many([*posts, (done.set, ())])
    assert done.wait(5)
    assert 0 < order.index('other') <= BATCH


def test_a_failing_post_is_reported_and_the_next_one_runs(
    loop_thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    loop_thread.bridge.post_many([(lambda: 1 / 0, ()), (done.set, ())])
    assert done.wait(5)
    assert 'ZeroDivisionError' in caplog.text
    caplog.clear()


def test_calls_run_in_the_context_of_the_caller(loop_thread: LoopThread) -> None:
    async def read() -> str:
        return variable.get()

    def change() -> str:
        before = variable.get()
        variable.set('changed on the loop')
        return before

    def caller() -> tuple[str, str, str]:
        variable.set('the caller')
        bridge = loop_thread.bridge
        return bridge.call(change).result(5), bridge.call(variable.get).result(5), bridge.submit(read).result(5)

    assert contextvars.copy_context().run(caller) == ('the caller',) * 3
    assert loop_thread.bridge.call(variable.get).result(5) == 'unset'


def test_post_raises_after_close(loop_thread: LoopThread) -> None:
    bridge = loop_thread.bridge
    loop_thread.stop()
    with pytest.raises(LoopClosed, match='treadle-worker-1'):
        bridge.post(int)
    with pytest.raises(LoopClosed):
        bridge.post_many([(int, ())])
    with pytest.raises(LoopClosed):
        bridge.call(int)
    with pytest.raises(LoopClosed):
        bridge.submit(asyncio.sleep, 0)
    assert bridge.closed


def test_posts_to_a_loop_that_its_owner_closed() -> None:
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop, name='host')
    accepted = bridge.submit(asyncio.sleep, 0)
    loop.run_until_complete(asyncio.sleep(0))
    begun = bridge.submit(asyncio.sleep, 0)
    loop.run_until_complete(asyncio.sleep(0.0))
    loop.run_until_complete(asyncio.wrap_future(begun, loop=loop))
    assert accepted.result(0) is None
    loop.close()
    with pytest.raises(LoopClosed, match='host'):
        bridge.post(int)
    with pytest.raises(LoopClosed):
        bridge.post(int)


def test_futures_of_a_loop_that_its_owner_closed_resolve() -> None:
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop, name='host')
    waiting = bridge.submit(asyncio.sleep, 0)
    loop.close()
    bridge.abandon()
    with pytest.raises(LoopClosed, match='host'):
        waiting.result(0)


# -- submit and call ------------------------------------------------------------------------------------------


def test_submit_and_call_return_results_and_exceptions(loop_thread: LoopThread) -> None:
    async def divide(a: int, b: int) -> float:
        await asyncio.sleep(0)
        return a / b

    bridge = loop_thread.bridge
    assert bridge.submit(divide, 6, 3).result(5) == 2
    assert bridge.call(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        bridge.submit(divide, 1, 0).result(5)
    with pytest.raises(ZeroDivisionError):
        bridge.call(divmod, 1, 0).result(5)


def test_a_base_exception_goes_to_the_future_and_spares_the_loop(loop_thread: LoopThread) -> None:
    class Lost(BaseException):
        pass

    async def lose() -> None:
        raise Lost

    def lose_at_once() -> None:
        raise Lost

    with pytest.raises(Lost):
        loop_thread.bridge.submit(lose).result(5)
    with pytest.raises(Lost):
        loop_thread.bridge.call(lose_at_once).result(5)
    assert loop_thread.bridge.call(int).result(5) == 0


def test_submitting_what_is_no_coroutine_function(loop_thread: LoopThread) -> None:
    with pytest.raises(TypeError):
        loop_thread.bridge.submit(int).result(5)  # type: ignore[arg-type]


def test_cancelling_the_future_cancels_the_task(loop_thread: LoopThread) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def sleep() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    future = loop_thread.bridge.submit(sleep)
    assert begun.wait(5)
    assert future.cancel()
    assert future.cancel()
    assert ended.wait(5)
    done, _ = concurrent.futures.wait([future], 5)
    assert done == {future}
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_cancelling_before_it_began(loop_thread: LoopThread) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(5)

    loop_thread.bridge.post(hold)
    assert held.wait(5)
    ran: list[int] = []

    async def run() -> None:
        ran.append(1)

    futures = [loop_thread.bridge.submit(run), loop_thread.bridge.call(ran.append, 2)]
    assert all(future.cancel() for future in futures)
    release.set()
    concurrent.futures.wait(futures, 5)
    loop_thread.bridge.call(int).result(5)
    assert ran == []


def test_cancelling_the_task_cancels_the_future(loop_thread: LoopThread) -> None:
    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    future = loop_thread.bridge.submit(cancel_itself)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(5)
    assert not future.cancel() or future.cancelled()


def test_cancelling_the_task_before_its_first_step_resolves_the_future(loop_thread: LoopThread) -> None:
    async def never() -> None:
        raise AssertionError

    def begin() -> concurrent.futures.Future[None]:
        before = asyncio.all_tasks()
        future = loop_thread.bridge.submit(never)
        loop_thread.bridge._run_entries(None)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        return future

    future = loop_thread.bridge.call(begin).result(5)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(5)


def test_a_future_cancelled_while_its_task_refuses_to_end_resolves(loop_thread: LoopThread) -> None:
    begun, release = threading.Event(), threading.Event()

    async def stubborn() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            while not release.is_set():  # noqa: ASYNC110  deaf on purpose
                await asyncio.sleep(0)
        return 'ignored'

    future = loop_thread.bridge.submit(stubborn)
    assert begun.wait(5)
    future.cancel()
    done, _ = concurrent.futures.wait([future], 5)
    assert done == {future}
    release.set()


class Fatal(BaseException):
    pass


def fatal(_: object) -> None:
    raise Fatal('out of a done-callback')


@pytest.mark.parametrize('how', ['submit', 'call'])
def test_a_fatal_done_callback_is_reported_and_keeps_nobody_waiting(
    make_thread: Make, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    thread = make_thread()
    thread.start()
    go = threading.Event()

    async def call() -> bool:
        return go.wait(5)

    future = thread.bridge.submit(call) if how == 'submit' else thread.bridge.call(go.wait, 5)
    future.add_done_callback(fatal)
    told = threading.Event()
    relay_of(future).add('waiter', told.set)  # registered after the callback: the standard library does not call it
    go.set()
    assert told.wait(5)
    assert wait(future, 5) is True
    with pytest.raises(Fatal):
        thread.join(5)
    assert 'crashed' in caplog.text


@pytest.mark.parametrize('by', ['caller', 'task'])
def test_a_fatal_done_callback_of_a_cancelled_call_keeps_nobody_waiting(make_thread: Make, by: str) -> None:
    thread = make_thread()
    thread.start()
    begun, go, told, ended = (threading.Event() for _ in range(4))

    async def for_ever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.get_running_loop().run_in_executor(None, go.wait, 5)
        task.cancel()
        await asyncio.sleep(0)

    future = thread.bridge.submit(for_ever if by == 'caller' else cancel_itself)
    future.add_done_callback(fatal)
    relay_of(future).add('waiter', told.set)
    if by == 'caller':
        assert begun.wait(5)
        with pytest.raises(Fatal):
            future.cancel()
        assert ended.wait(5)
        thread.stop(5)
    else:
        go.set()
        with pytest.raises(Fatal):
            thread.join(5)
    assert told.wait(5)
    assert future.cancelled()


def test_a_resolved_future_holds_no_frame_of_the_bridge(loop_thread: LoopThread) -> None:
    class Thing:
        pass

    async def fail(thing: Thing) -> None:
        raise ValueError

    thing = Thing()
    reference = weakref.ref(thing)
    future = loop_thread.bridge.submit(fail, thing)
    assert isinstance(future.exception(5), ValueError)
    loop_thread.bridge.call(int).result(5)
    loop_thread.bridge.call(int).result(5)
    gc.disable()
    try:
        del thing, future
        assert reference() is None
    finally:
        gc.enable()


def test_eager_tasks_make_no_difference(make_thread: Make) -> None:
    factory = getattr(asyncio, 'eager_task_factory', None)
    if factory is None:
        pytest.skip('eager tasks need Python 3.12')
    thread = make_thread()
    thread.start()
    thread.bridge.call(thread.loop.set_task_factory, factory).result(5)

    async def give(value: int) -> int:
        return value

    assert thread.bridge.submit(give, 3).result(5) == 3
    assert thread.bridge.submit(asyncio.sleep, 0, 4).result(5) == 4
    waiting = thread.bridge.submit(asyncio.sleep, 60)
    thread.stop()
    with pytest.raises(LoopClosed):
        waiting.result(0)


# -- wait_on_loop -----------------------------------------------------------------------------------------------


def test_wait_on_loop_gives_result_exception_and_cancellation() -> None:
    async def main() -> None:
        good: concurrent.futures.Future[int] = concurrent.futures.Future()
        bad: concurrent.futures.Future[int] = concurrent.futures.Future()
        gone: concurrent.futures.Future[int] = concurrent.futures.Future()
        waiters = [asyncio.create_task(wait_on_loop(future)) for future in (good, bad, gone)]
        await asyncio.sleep(0)

        def resolve() -> None:
            good.set_result(1)
            bad.set_exception(KeyError('x'))
            gone.cancel()

        resolver = threading.Thread(target=resolve)
        resolver.start()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        resolver.join()
        assert results[0] == 1
        assert isinstance(results[1], KeyError)
        assert isinstance(results[2], concurrent.futures.CancelledError)
        assert await wait_on_loop(good) == 1

    asyncio.run(main(), debug=True)


def test_cancelling_the_waiter_leaves_the_future_and_no_trace() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()

    async def main() -> None:
        waiters = [asyncio.create_task(wait_on_loop(future)) for _ in range(100)]
        await asyncio.sleep(0)
        assert len(relay_of(future)) == 100
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert all(waiter.cancelled() for waiter in waiters)

    asyncio.run(main())
    assert len(relay_of(future)) == 0
    assert len(future._done_callbacks) == 1  # type: ignore[attr-defined]
    assert not future.done()
    future.set_result(1)


def test_the_loop_may_close_before_the_future_resolves(caplog: pytest.LogCaptureFixture) -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    loop = asyncio.new_event_loop()
    coroutine = wait_on_loop(future)

    async def begin() -> None:
        coroutine.send(None)

    loop.run_until_complete(begin())
    loop.close()
    future.set_result(1)
    assert future.result() == 1
    assert caplog.text == ''
    coroutine.close()


def test_wait_on_loop_keeps_no_loop_alive() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        waiter = asyncio.create_task(wait_on_loop(future))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        return weakref.ref(asyncio.get_running_loop())

    reference = asyncio.run(main())
    gc.collect()
    assert reference() is None


def test_thousands_of_waiters_on_one_loop_share_their_wake_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        futures: list[concurrent.futures.Future[int]] = [concurrent.futures.Future() for _ in range(2000)]
        waiters = [asyncio.create_task(wait_on_loop(future)) for future in futures]
        await asyncio.sleep(0)
        wake_ups: list[object] = []
        original = loop.call_soon_threadsafe

        def count(*args: Any) -> object:
            wake_ups.append(args)
            return original(*args)

        monkeypatch.setattr(loop, 'call_soon_threadsafe', count)
        for number, future in enumerate(futures):
            future.set_result(number)
        assert sum(await asyncio.gather(*waiters)) == sum(range(2000))
        return len(wake_ups)

    assert asyncio.run(main()) == 1


def test_wait_on_loop_works_on_treadles_own_loop(loop_thread: LoopThread) -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    waiting = loop_thread.bridge.submit(wait_on_loop, future)
    future.set_result(5)
    assert waiting.result(5) == 5


def test_waiting_on_the_loop_that_does_the_work_is_refused() -> None:
    async def main() -> None:
        bridge = Bridge(asyncio.get_running_loop(), name='host')
        future = bridge.submit(asyncio.sleep, 0)
        with pytest.raises(WrongThread, match='host'):
            wait(future)
        await wait_on_loop(future)

    asyncio.run(main())


# -- rates ------------------------------------------------------------------------------------------------------


def test_a_crossing_costs_about_what_the_raw_call_costs(make_thread: Make) -> None:
    """The goal is 1.3 times the raw call, which the bench shows; here is a bound that noise does not break."""
    thread = make_thread()
    thread.start()

    async def nothing() -> None:
        return None

    def clock(call: Callable[[], object]) -> float:
        begin = time.perf_counter()
        for _ in range(200):
            call()
        return time.perf_counter() - begin

    raw, ours = [], []
    while len(ours) < 7 or (min(ours) >= 2 * min(raw) and len(ours) < 50):
        raw.append(clock(lambda: asyncio.run_coroutine_threadsafe(nothing(), thread.loop).result()))
        ours.append(clock(lambda: wait(thread.bridge.submit(nothing))))
    assert min(ours) < 2 * min(raw)


class TestCallWhenDone:
    """What a future on a foreign loop rests on."""

    def test_it_calls_on_the_loop_soon_after(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            future: concurrent.futures.Future[int] = concurrent.futures.Future()
            seen: list[object] = []
            call_when_done(future, loop, lambda: (seen.append(threading.get_ident()), loop.stop()))
            resolver = threading.Thread(target=future.set_result, args=(1,))
            resolver.start()
            loop.run_forever()
            resolver.join()
            assert seen == [threading.get_ident()]
            call_when_done(future, loop, lambda: (seen.append('done before'), loop.stop()))
            assert seen[1:] == []
            loop.run_forever()
            assert seen[1:] == ['done before']
        finally:
            loop.close()

    def test_forgotten_or_closed_it_is_not_called(self) -> None:
        loop = asyncio.new_event_loop()
        future: concurrent.futures.Future[int] = concurrent.futures.Future()
        seen: list[str] = []
        forget = call_when_done(future, loop, lambda: seen.append('forgotten'))
        call_when_done(future, loop, lambda: seen.append('closed'))
        forget()
        loop.close()
        future.set_result(1)
        assert seen == []
