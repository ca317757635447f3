"""Coroutines that can be interrupted from outside at the points where they allow it.

The vocabulary is that of ``aiida.engine``. Everything here belongs to one loop and is called on that loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from ..threads import WrongThread

__all__ = ['InterruptableFuture', 'interruptable_task']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

#: A loop refers to its tasks only weakly; what runs is kept here until it is done.
_tasks: set[asyncio.Task[None]] = set()


class InterruptableFuture(asyncio.Future[T], Generic[T]):
    """A future whose interruption ends what is awaited through it."""

    def interrupt(self, reason: BaseException) -> bool:
        """Fail the future, and whatever is inside :meth:`with_interrupt`, with ``reason``.

        :returns: whether it had any effect; it has none once the future is done.
        """
        if self.done():
            return False
        self.set_exception(reason)
        return True

    async def with_interrupt(self, awaitable: Awaitable[Any]) -> Any:
        """Await something until it is done or this future is interrupted.

        A coroutine that is given here is cancelled by the interruption, and has ended when this raises. A future or
        task may have others waiting for it and is left alone.

        :returns: the awaitable's result.
        :raises BaseException: the reason of the interruption, also when it came at the very end; otherwise what the
            awaitable raised.
        :raises RuntimeError: the future was given a result meanwhile.
        """
        inner = asyncio.ensure_future(awaitable)
        is_ours = inner is not awaitable
        try:
            await asyncio.wait({self, inner}, return_when=asyncio.FIRST_COMPLETED)
            if is_ours and not inner.done():
                inner.cancel()
                await asyncio.wait({inner})
        except asyncio.CancelledError:
            if is_ours:
                inner.cancel()
            raise
        if not self.done():
            return inner.result()
        if is_ours and not inner.cancelled() and inner.exception() is not None:
            LOGGER.warning('raised by what an interruption had ended', exc_info=inner.exception())
        result = self.result()  # raises the reason
        raise RuntimeError(
            f'this interruptable future was given the result {result!r} by someone else; what was awaited through it '
            f'is given up'
        )


def interruptable_task(
    coro: Callable[[InterruptableFuture[Any]], Awaitable[T]], loop: asyncio.AbstractEventLoop | None = None
) -> InterruptableFuture[T]:
    """Start a coroutine that can be interrupted.

    :param coro: a coroutine function; it is given the future, and awaits through
        :meth:`~InterruptableFuture.with_interrupt` wherever it allows itself to be interrupted.
    :param loop: where it runs; by default the running loop.
    :returns: the future of its result. ``interrupt`` fails it at once; cancelling it cancels the coroutine.
    :raises RuntimeError: no loop is given and none is running.
    :raises WrongThread: the loop runs on another thread.
    """
    running = asyncio._get_running_loop()
    if loop is None:
        if running is None:
            raise RuntimeError(
                'interruptable_task() needs a loop: call it in a coroutine, or give it loop=...'
            )
        loop = running
    if loop.is_running() and loop is not running:
        raise WrongThread('interruptable_task() was given a loop that runs on another thread; call it there')
    future: InterruptableFuture[T] = InterruptableFuture(loop=loop)
    task = loop.create_task(_drive(coro, future))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    future.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)
    return future


async def _drive(
    coro: Callable[[InterruptableFuture[Any]], Awaitable[T]], future: InterruptableFuture[T]
) -> None:
    """Run the coroutine and resolve the future, unless that has happened already."""
    try:
        result = await coro(future)
    except asyncio.CancelledError:
        future.cancel()
        raise
    except BaseException as error:
        if not future.done():
            future.set_exception(error)
        elif future.cancelled() or future.exception() is not error:
            LOGGER.warning('raised after its interruptable future was done', exc_info=error)
        if not isinstance(error, Exception):
            raise  # the loop lets KeyboardInterrupt and SystemExit out
    else:
        if not future.done():
            future.set_result(result)
