"""Waiting from synchronous code."""

from __future__ import annotations

import _thread
import asyncio
import threading
import time
from concurrent.futures import Future
from typing import TypeVar

from .bridge import CrossingFuture
from .errors import WrongThread
from .loop_thread import refuse_on_loop_thread
from .relay import relay_of

T = TypeVar('T')

#: Seconds after which a wait on the main thread looks for signals that came in an unlucky moment.
SIGNAL_GAP = 0.1


def wait(
    future: Future[T],
    timeout: float | None = None,
    *,
    what: str = 'wait()',
    instead: str = 'await wait_on_loop(future)',
) -> T:
    """Block this thread until `future` is done; return its result or raise its exception.

    Works on any thread but Treadle's own loops, also on one with a running loop (a notebook's, which stands
    still meanwhile). Ctrl-C on the main thread raises `KeyboardInterrupt` at once and leaves the future as
    it was: it goes on, can be waited for again, or be cancelled.

    :param timeout: seconds; None waits for ever.
    :param what: the name of the blocking call, for the message of `WrongThread`.
    :param instead: what to call on a loop, for the same message.
    :raises WrongThread: called on a loop that must not block, or on the very loop that `future` waits for.
    :raises TimeoutError: not done within `timeout`; the future goes on.
    :raises concurrent.futures.CancelledError: the future was cancelled.
    """
    refuse_on_loop_thread(what, instead)
    if not future.done():
        if isinstance(future, CrossingFuture):
            _refuse_deadlock(future, what, instead)
        # A lock per wait, not the future's condition: an interrupt inside Condition.wait() may leave that
        # without its lock. Acquiring a lock is interrupted by signals on every platform but Windows.
        done = _thread.allocate_lock()
        done.acquire()
        relay = relay_of(future)
        if relay.add(done, done.release):
            try:
                _acquire(done, timeout)
            finally:
                relay.discard(done)
            if not future.done():
                raise TimeoutError(f'{what} gave up after {timeout:g} s; the call goes on and can be waited for again')
    return future.result(0)


def _acquire(lock: _thread.LockType, timeout: float | None) -> None:
    """Wait for the lock, or for ``timeout`` seconds.

    A signal interrupts the wait only once the wait has begun: one that comes while the main thread hands over the
    GIL, just before, is noted and does not wake it. So the main thread, which runs Python's signal handlers, comes
    round now and then; a Ctrl-C in that gap, which is wide beside busy threads, is late by a moment and not by hours.
    """
    if threading.current_thread() is not threading.main_thread():
        # -1 means no timeout at all.
        lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        return
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        patience = SIGNAL_GAP if deadline is None else min(SIGNAL_GAP, deadline - time.monotonic())
        if lock.acquire(timeout=max(patience, 0.0)) or patience < SIGNAL_GAP:
            return


def _refuse_deadlock(future: CrossingFuture[T], what: str, instead: str) -> None:
    """Refuse a wait that this thread alone could end."""
    bridge = future.bridge
    if bridge.forked:
        raise bridge.refusal()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return
    if running is bridge.loop:
        raise WrongThread(f'{what} called on the loop that is to do the work ({bridge.name!r}); use {instead}')
