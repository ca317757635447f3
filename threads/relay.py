"""Waking many waiters of one `concurrent.futures.Future`, and forgetting those that gave up.

`Future.add_done_callback` has no inverse, so each wait that timed out would leave its callback on the future
until that resolves; a process that runs for days and is polled would gather millions. Here each future has at
most one callback, its `Relay`, and waiters come and go on that. Waiting on a relay also keeps a Ctrl-C away
from the future's own condition variable, which an interrupted `Future.result()` may leave with a stale
waiter.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from .fork import run_in_child

# Reentrant locks: a coroutine that the collector closes, or a signal handler, may come in on the same thread.
_lock = threading.RLock()
_relays: weakref.WeakKeyDictionary[Future[Any], Relay] = weakref.WeakKeyDictionary()


class Relay:
    """The waiters of one future; called by the future when it is done, in whatever thread resolves it."""

    __slots__ = ('__weakref__', '_done', '_lock', '_wakes')

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wakes: dict[Hashable, Callable[[], object]] = {}
        self._done = False

    def __call__(self, future: Future[Any]) -> None:
        with self._lock:
            self._done = True
            wakes = list(self._wakes.values())
            self._wakes.clear()
        for wake in wakes:
            wake()

    def __len__(self) -> int:
        return len(self._wakes)

    def add(self, key: Hashable, wake: Callable[[], object]) -> bool:
        """Have `wake()` called once when the future is done; False, without calling it, when it is done
        already.

        `wake` runs in the resolving thread and must neither block nor raise.
        """
        with self._lock:
            if not self._done:
                self._wakes[key] = wake
                return True
        return False

    def discard(self, key: Hashable) -> None:
        """Forget the waiter `key`; it may still be woken when the future resolves at this moment."""
        with self._lock:
            self._wakes.pop(key, None)


def relay_of(future: Future[Any]) -> Relay:
    """The relay of `future`, made at the first call."""
    with _lock:
        relay = _relays.get(future)
        if relay is None:
            relay = Relay()
            # Attached before it is known to others: an interrupt between the two leaves a spare callback,
            # whereas a known but unattached relay would let every later waiter hang.
            future.add_done_callback(relay)
            _relays[future] = relay
        return relay


def wake_waiters(future: Future[Any]) -> None:
    """Wake those who wait on the relay of `future`, which is done; again does nothing.

    For when one of its done-callbacks has raised a `BaseException`: the standard library lets that through at once and
    calls none of those that were registered later, the relay perhaps among them.
    """
    with _lock:
        relay = _relays.get(future)
    if relay is not None:
        relay(future)


def _after_fork() -> None:
    global _lock, _relays
    _lock = threading.RLock()
    _relays = weakref.WeakKeyDictionary()


run_in_child(_after_fork)
