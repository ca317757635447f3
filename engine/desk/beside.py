"""Blocking work of a desk, beside the loop: reading the store, laying out files, user code."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from ...threads import LoopClosed, StartFailed, StepThreads, wait_on_loop

__all__ = ['folder_beside', 'run_beside']

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


@contextlib.asynccontextmanager
async def folder_beside(steps: StepThreads, prefix: str) -> AsyncIterator[Path]:
    """A temporary folder, which is removed on a thread of its own: it may hold thousands of files."""
    folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    try:
        yield Path(folder.name)
    finally:
        try:
            steps.post_beside(folder.cleanup)
        except (LoopClosed, StartFailed):  # the engine stops, or there is no thread to be had
            folder.cleanup()
