from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future

import pytest

from treadle.threads import LoopThread, WrongThread, wait
from treadle.threads.relay import relay_of


def test_it_returns_the_result_or_raises_the_exception(loop_thread: LoopThread) -> None:
    async def divide(a: int, b: int) -> float:
        return a / b

    assert wait(loop_thread.bridge.submit(divide, 6, 3)) == 2
    assert wait(loop_thread.bridge.submit(divide, 6, 3), 5) == 2
    with pytest.raises(ZeroDivisionError):
        wait(loop_thread.bridge.submit(divide, 1, 0))
    done: Future[int] = Future()
    done.set_result(4)
    assert wait(done, 0) == 4
    done = Future()
    done.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        wait(done)


def test_a_timeout_leaves_the_future_and_no_trace() -> None:
    future: Future[int] = Future()
    for timeout in (0.01, 0, -1):
        with pytest.raises(TimeoutError, match=r'^run\(\) gave up after'):
            wait(future, timeout, what='run()')
    assert len(relay_of(future)) == 0
    assert len(future._done_callbacks) == 1  # type: ignore[attr-defined]
    future.set_result(1)
    assert wait(future, 0) == 1


def test_a_timeout_error_of_the_call_is_not_ours() -> None:
    future: Future[int] = Future()
    future.set_exception(TimeoutError('of the call'))
    with pytest.raises(TimeoutError, match='of the call'):
        wait(future, 1)


def test_many_threads_wait_for_one_future() -> None:
    future: Future[int] = Future()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = [pool.submit(wait, future) for _ in range(20)]
        future.set_result(3)
        assert [result.result(5) for result in results] == [3] * 20


def test_it_is_refused_on_treadles_loops(loop_thread: LoopThread) -> None:
    future: Future[int] = Future()

    def block() -> int:
        return wait(future, what='run()', instead='await engine.run_async()')

    with pytest.raises(WrongThread) as caught:
        loop_thread.bridge.call(block).result(5)
    assert str(caught.value) == "run() called on 'treadle-worker-1'; use await engine.run_async()"


def test_it_is_allowed_on_a_host_thread_with_a_running_loop(loop_thread: LoopThread) -> None:
    async def notebook_cell() -> str:
        return wait(loop_thread.bridge.submit(asyncio.sleep, 0, 'done'))

    assert asyncio.run(notebook_cell()) == 'done'


# -- Ctrl-C -----------------------------------------------------------------------------------------------------

INTERRUPTED = """
    import os, signal, sys, threading
    from concurrent.futures import Future
    from treadle.threads import LoopThread, wait

    timeout = {timeout}
    thread = LoopThread('treadle-worker-1')
    thread.start()
    future = {future}
    print('blocked', flush=True)
    try:
        wait(future, timeout)
    except KeyboardInterrupt:
        print('interrupted', future.done(), flush=True)
    thread.bridge.call({resolve}).result(5)
    print(wait(future, 5), flush=True)
    thread.stop()
    print('stopped', threading.active_count(), flush=True)
"""


@pytest.mark.parametrize('timeout', ['None', '60'])
def test_ctrl_c_gets_through_and_leaves_the_future_whole(timeout: str) -> None:
    script = INTERRUPTED.format(
        timeout=timeout, future='Future()', resolve='lambda: future.set_result("resolved")'
    )
    child = subprocess.Popen(
        [sys.executable, '-W', 'error', '-c', textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == 'blocked\n'
        # Whether the main thread is in wait() already or just before it, the interrupt must come through; the
        # kernel says when it sleeps in the lock, which is the case to test.
        while not _sleeps(child.pid):
            os.sched_yield()
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=10)
    finally:
        child.kill()
        child.wait()
    assert output == 'interrupted False\nresolved\nstopped 1\n'


def _sleeps(pid: int) -> bool:
    with open(f'/proc/{pid}/stat') as stat:
        return stat.read().rpartition(')')[2].split()[0] == 'S'


def test_interrupts_at_any_moment_leave_waiting_intact(loop_thread: LoopThread) -> None:
    """A storm of signals while the main thread crosses: nothing hangs, each future still resolves."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip('signals arrive on the main thread')
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    armed = False

    def on_signal(*_: object) -> None:
        if armed:
            raise KeyboardInterrupt

    def storm() -> None:
        while not stop.wait(0.0005):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, on_signal)
    stormer = threading.Thread(target=storm)
    stormer.start()
    interrupted = 0
    futures = []
    try:
        for number in itertools.count():
            if number >= 1500 and interrupted:
                break
            try:
                armed = True
                future = loop_thread.bridge.submit(asyncio.sleep, 0, number)
                futures.append((number, future))
                wait(future)
                armed = False
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                armed = False
    finally:
        armed = False
        stop.set()
        stormer.join()
        signal.signal(signal.SIGUSR1, before)
    for number, future in futures:
        assert wait(future, 5) == number
    assert wait(loop_thread.bridge.submit(asyncio.sleep, 0, 'alive'), 5) == 'alive'


def test_signal_handlers_may_post(loop_thread: LoopThread) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip('signals arrive on the main thread')
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: loop_thread.bridge.post(seen.append, 1))
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    sent = 0

    def storm() -> None:
        nonlocal sent
        while not stop.wait(0.0005):
            signal.pthread_kill(main, signal.SIGUSR1)
            sent += 1

    stormer = threading.Thread(target=storm)
    stormer.start()
    try:
        posted = 0
        while posted < 20_000 or not seen:
            loop_thread.bridge.post(int)
            posted += 1
    finally:
        stop.set()
        stormer.join()
        signal.signal(signal.SIGUSR1, before)
    loop_thread.bridge.call(int).result(5)
    assert sent


def test_a_ctrl_c_that_did_not_wake_the_main_thread_is_noticed() -> None:
    # What a signal does that comes just before the wait begins: it is noted, and nothing interrupts the wait.
    waiting: Future[None] = Future()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while sys._current_frames()[main].f_code.co_name != '_acquire':
            threading.Event().wait(0.001)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        wait(waiting)
    thread.join()
    assert not waiting.done()
