from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from treadle.threads import Forked, ForkGuard, Group, LoopThread, Mailbox, Watchdog, relay, run_in_child, wait
from treadle.threads import fork as fork_module

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')


def in_child(check: Callable[[], None]) -> None:
    """Run `check` in a forked child; its failure is this test's. A child that hangs is killed."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # that threads exist is the point
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check()
            code = 0
        except BaseException:
            os.write(writable, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writable)
    try:
        ready, _, _ = select.select([readable], [], [], 10)
        report = os.read(readable, 4000).decode() if ready else 'the child hangs'
        if not ready:
            os.kill(pid, 9)
    finally:
        os.close(readable)
        _, status = os.waitpid(pid, 0)
    assert status == 0, report


def test_the_guard_names_the_thing_and_the_remedy() -> None:
    guard = ForkGuard(remedy='create an Engine in the child')
    guard.check('engine 1')
    assert not guard.forked

    def check() -> None:
        assert guard.forked
        message = rf'^engine 1 belongs to OS process {guard.pid}.*create an Engine in the child'
        with pytest.raises(Forked, match=message):
            guard.check('engine 1')

    in_child(check)


def test_an_inherited_loop_thread_refuses_at_once(loop_thread: LoopThread) -> None:
    begun = threading.Event()

    async def work() -> None:
        begun.set()

    unanswered = loop_thread.bridge.submit(work)
    assert begun.wait(5)

    def check() -> None:
        for cross in (
            lambda: loop_thread.bridge.post(int),
            lambda: loop_thread.bridge.call(int),
            lambda: loop_thread.bridge.submit(work),
        ):
            with pytest.raises(Forked, match='treadle-worker-1'):
                cross()
        loop_thread.request_stop()
        loop_thread.stop()
        unanswered.cancel()
        fresh = LoopThread('treadle-worker-1')
        fresh.start()
        assert wait(fresh.bridge.call(int), 5) == 0
        fresh.stop()

    in_child(check)
    assert loop_thread.bridge.call(int).result(5) == 0


def test_waiting_in_the_child_for_an_answer_from_the_parent_is_refused(loop_thread: LoopThread) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(5)

    future = loop_thread.bridge.call(hold)
    assert held.wait(5)

    def check() -> None:
        with pytest.raises(Forked):
            wait(future)

    in_child(check)
    release.set()
    assert wait(future, 5) is None


def test_locks_held_at_the_fork_do_not_hang_the_child(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox('numbers')
    mailbox.put(1)
    group = Group('engine', [loop_thread])
    watchdog = Watchdog([loop_thread])
    pending: Future[int] = Future()
    held, release = threading.Event(), threading.Event()

    def hold_all() -> None:
        with (
            loop_thread.bridge._lock,
            loop_thread._lock,
            group._lock,
            watchdog._lock,
            relay._lock,
            fork_module._lock,
            mailbox._queue._sync_mutex,
        ):
            held.set()
            release.wait(5)

    holder = threading.Thread(target=hold_all)
    holder.start()
    assert held.wait(5)

    def check() -> None:
        with pytest.raises(Forked):
            loop_thread.bridge.post(int)
        loop_thread.stop()
        group.stop()
        watchdog.check()
        with pytest.raises(Forked, match='numbers'):
            mailbox.put(2)
        assert mailbox.drain_remaining() == []
        with pytest.raises(TimeoutError):
            wait(pending, 0)
        run_in_child(check)

    in_child(check)
    release.set()
    holder.join()


def test_the_parent_loop_survives_the_end_of_its_copy(loop_thread: LoopThread) -> None:
    """Closing a copied loop would take its self-pipe out of the epoll instance that both processes share."""
    holder = [loop_thread]

    def check() -> None:
        holder.clear()
        gc.collect()

    in_child(check)
    held = threading.Event()
    loop_thread.bridge.post(held.set)
    assert held.wait(5)


class Thing:
    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name
        run_in_child(self.forked)

    def forked(self) -> None:
        self.log.append(self.name)
        if self.name == 'bad':
            raise ValueError('bad')


def test_callbacks_run_in_order_in_the_child_and_keep_nothing_alive() -> None:
    log: list[str] = []
    things = [Thing(log, name) for name in ('first', 'bad', 'last')]
    gone = Thing(log, 'gone')
    reference = weakref.ref(gone)
    del gone
    gc.collect()
    assert reference() is None

    def check() -> None:
        assert log == ['first', 'bad', 'last']

    in_child(check)
    assert log == []
    assert len(things) == 3


def test_the_import_is_cheap() -> None:
    """asyncio and janus, and nothing heavy."""
    code = (
        'import __future__, asyncio, janus, concurrent.futures, sys; before = set(sys.modules); '
        'import treadle.threads; '
        'print(*sorted(m for m in set(sys.modules) - before if not m.startswith("treadle")))'
    )
    output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert output.split() == []
