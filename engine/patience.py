"""Calls inside of processes wait for a store that is away: that is no verdict on the process.

Plain code gets the error at its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

from ..threads import StepThreads, WrongThread, wait, wait_on_loop
from .errors import StoreError
from .parts import RETRY_FIRST, RETRY_MOST
from .processes.visit import Visit
from .store.records import Unit, Verdict
from .store.store_thread import StoreThread

__all__ = ['RUN_INSTEAD', 'Patience']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

#: What a call on a loop that would block is told to do instead.
RUN_INSTEAD = 'await engine.run_async()'


class Patience:
    """Tries again, with growing pauses, for calls that steps make.

    :param steps: where a step that pauses passes its permit on.
    """

    def __init__(self, *, store: StoreThread, steps: StepThreads) -> None:
        self._store = store
        self._steps = steps

    def commit(self, unit: Unit, visit: Visit | None) -> Verdict:
        """Write a unit and wait until it is durable."""
        return self.insist(visit, lambda: wait(self._store.commit(unit), what='run()', instead=RUN_INSTEAD))

    def insist(self, visit: Visit | None, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns, which is called until the store takes it.

        :param visit: the step that calls; ``None`` for plain code, which gets the error.
        :raises StoreError: plain code calls, or a coroutine step, which must not hold its loop.
        """
        pause = RETRY_FIRST
        while True:
            try:
                return attempt()
            except StoreError as error:
                _tell(visit, error)
                if visit is None:
                    raise
                self._pause(visit, pause, error)
            pause = min(2 * pause, RETRY_MOST)

    def _pause(self, visit: Visit, seconds: float, error: StoreError) -> None:
        never: Future[None] = Future()
        with visit.blocking_on(never), self._steps.blocked(), contextlib.suppress(TimeoutError):
            try:
                wait(never, seconds, what='run()', instead=RUN_INSTEAD)
            except WrongThread:  # a coroutine step must not hold its loop
                raise error from None

    async def insist_async(self, visit: Visit | None, attempt: Callable[[], Awaitable[T]]) -> T:
        """:meth:`insist` for a caller on a loop."""
        pause = RETRY_FIRST
        while True:
            try:
                return await attempt()
            except StoreError as error:
                _tell(visit, error)
                if visit is None:
                    raise
            never: Future[None] = Future()
            with visit.blocking_on(never), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wait_on_loop(never)
            pause = min(2 * pause, RETRY_MOST)


def _tell(visit: Visit | None, error: StoreError) -> None:
    if visit is not None:
        LOGGER.error('process %d: a call in its step waits for the store: %s', visit.pid, error)
