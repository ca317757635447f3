"""``Worker``: a thread of the engine's with a loop of its own, and a runner on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..threads import LoopThread, Mailbox
from .config import Diagnostics
from .faults import FaultPoint
from .runner import Runner
from .store.records import ProcessRecord

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ['Worker']


class Worker:
    """Takes claimed processes out of a mailbox and has them driven on the loop of a thread of its own.

    :param name: of the thread and the mailbox.
    :param on_crash: see :class:`~treadle.threads.LoopThread`.
    :param diagnostics: asyncio's debug mode, and for how long the loop may be held.
    :ivar thread: a member of the engine's group, which starts and stops it.
    """

    def __init__(
        self,
        name: str,
        *,
        engine: Engine,
        on_crash: Callable[[LoopThread, BaseException], object],
        diagnostics: Diagnostics,
    ) -> None:
        self._engine = engine
        self._mailbox: Mailbox[Sequence[ProcessRecord]] = Mailbox(f'{name}:claims')
        self.thread = LoopThread(
            name,
            main=self._main,
            on_crash=on_crash,
            debug=diagnostics.asyncio_debug,
            slow_callback=diagnostics.watchdog or None,
        )

    def give(self, claims: Sequence[ProcessRecord]) -> None:
        """Hand over claimed processes; from any thread, never blocking.

        :raises LoopClosed: the worker stops; what it was not given stays claimed until the engine releases it.
        """
        self._mailbox.put(claims)

    async def _main(self, thread: LoopThread) -> None:
        """Serve until the thread is asked to stop; then every process leaves at its next checkpoint."""
        runner = Runner(self._engine, thread.loop, bridge=thread.bridge)
        desks = self._engine.core.desks.make_room(thread.loop, thread.bridge)
        async with asyncio.TaskGroup() as group:  # so that an error of the serving is not found at the stop
            group.create_task(self._serve(runner), name=f'{thread.name}:serve')
            await thread.wait_stop()
            runner.request_stop()
            self._mailbox.close()
            await desks.close()
        await runner.wait_drained()

    async def _serve(self, runner: Runner) -> None:
        async for claims in self._mailbox:
            self._engine.core.faults.hit(FaultPoint.CLAIMED)
            runner.drive(claims)
