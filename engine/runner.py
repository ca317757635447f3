"""``Runner``: drives the processes that one loop was given."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence

from ..threads import LoopThread, Mailbox
from .errors import EngineStopped
from .execution import Execution
from .faults import FaultPoint
from .parts import EngineParts
from .processes.visit import Host
from .store.records import Fence, ProcessRecord

__all__ = ['Runner']

LOGGER = logging.getLogger(__name__)


class Runner:
    """Takes claimed processes out of a mailbox and drives each as a task of the loop it runs on.

    :param name: of its thread and mailbox.
    """

    def __init__(self, *, name: str, parts: EngineParts, host: Host) -> None:
        self._parts = parts
        self._host = host
        self._mailbox: Mailbox[Sequence[ProcessRecord]] = Mailbox(f'{name}:claims')
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def give(self, claims: Sequence[ProcessRecord]) -> None:
        """Hand over claimed processes; from any thread, never blocking.

        :raises LoopClosed: the runner stops; what it was not given stays claimed until the engine releases it.
        """
        self._mailbox.put(claims)

    async def main(self, thread: LoopThread) -> None:
        """Serve until the thread is asked to stop; then every process leaves at its next checkpoint."""
        async with asyncio.TaskGroup() as group:  # so that an error of the serving is not found at the stop
            group.create_task(self._serve(thread), name=f'{thread.name}:serve')
            await thread.wait_stop()
            self._stopping.set()
            self._mailbox.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, thread: LoopThread) -> None:
        async for claims in self._mailbox:
            self._parts.faults.hit(FaultPoint.CLAIMED)
            for record in claims:
                execution = Execution(
                    record, parts=self._parts, host=self._host, bridge=thread.bridge, is_stopping=self._stopping
                )
                task = asyncio.create_task(execution.drive(), name=f'process {record.pid}')
                self._tasks.add(task)
                task.add_done_callback(functools.partial(self._done, record))

    def _done(self, record: ProcessRecord, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            LOGGER.critical('process %d: the engine itself failed', record.pid, exc_info=error)
            self._parts.park(record.pid, f'the engine itself failed: {type(error).__name__}: {error}')
            self._parts.dispatcher.left(record.pid, record.epoch)
            fence = Fence(record.pid, record.epoch, record.version)
            with contextlib.suppress(EngineStopped):  # the engine's own end releases all that it owns
                self._parts.store.call(lambda transaction: transaction.release(fence))
