"""Blocking work of a desk, beside the loop: reading the store, laying out files, user code."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ...threads import StepThreads, wait_on_loop

__all__ = ['run_beside']

T = TypeVar('T')


async def run_beside(steps: StepThreads, function: Callable[[], T]) -> T:
    """Await what a function returns that blocks, called on a thread where user code may run.

    Cancelling does not end the function; what it returns then is dropped.

    :raises LoopClosed: the engine stops.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    steps.post_beside(run)
    return await wait_on_loop(done)
