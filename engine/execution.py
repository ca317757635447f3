"""One claimed process on its way through a loop, a worker's or the user's: step, commit, step, commit, until it leaves.

The pure machine says what comes next; this carries it out. The loop is crossed once per step, when its commit is done:
what happens in between, on a step thread and on the store's, is in ``stepping.py``.

A loop may be wound up or closed by its owner at any moment. Then the process is abandoned: whoever holds it brings it
to its next checkpoint and gives the claim back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

from ..threads import Bridge, Forked, LoopClosed, StartFailed, wait_on_loop
from .claimed_row import ClaimedRow
from .custody import Custody, Holder
from .errors import EngineStopped, StepAborted, StoreError
from .faults import FaultPoint
from .parts import RETRY_FIRST, RETRY_MOST, EngineParts
from .processes.machine import (
    Claimed,
    Command,
    Committed,
    Ending,
    Event,
    Life,
    StepEnded,
    StepUnwound,
    StopRequested,
    StoreFailed,
    handle,
)
from .processes.visit import Host
from .states import ProcessState
from .stepping import Stepping, Suspended
from .store.records import ProcessRecord
from .store.store_thread import Failure

__all__ = ['Execution']

LOGGER = logging.getLogger(__name__)


class Execution:
    """One claimed process.

    :param record: its row as it was claimed.
    :param host: the engine as the process's steps see it.
    :param bridge: the way into the loop.
    :param is_stopping: whether the runner wants to stop.
    """

    __slots__ = (
        '_bridge',
        '_custody',
        '_is_stopping',
        '_life',
        '_next_answer',
        '_parts',
        '_retry_pause',
        '_row',
        '_stepping',
    )

    def __init__(
        self, record: ProcessRecord, *, parts: EngineParts, host: Host, bridge: Bridge, is_stopping: asyncio.Event
    ) -> None:
        self._parts = parts
        self._bridge = bridge
        self._is_stopping = is_stopping
        self._life = Life(ProcessState(record.state))
        self._row = ClaimedRow(record)
        self._custody = Custody()
        self._stepping = Stepping(
            self._row,
            parts=parts,
            host=host,
            bridge=bridge,
            custody=self._custody,
            is_stopping=is_stopping,
            ended=self._step_ended,
            answer=self._answer,
        )
        self._next_answer: asyncio.Future[Event | Suspended] | None = None
        self._retry_pause = RETRY_FIRST

    @property
    def record(self) -> ProcessRecord:
        """The row as it was claimed."""
        return self._row.record

    # -- on the loop --------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Run the process until it ends, waits, is taken away or the runner stops; cancelling abandons it."""
        try:
            event: Event | None = Claimed()
            while event is not None:
                if self._is_stopping.is_set() and not self._life.stopping:
                    self._life, _ = handle(self._life, StopRequested())
                self._life, commands = handle(self._life, event)
                event = None
                for command in commands:
                    event = await self._carry_out(command)
                if isinstance(event, Committed):
                    self._retry_pause = RETRY_FIRST
                    self._parts.faults.hit(FaultPoint.STEP_COMMITTED)
        except asyncio.CancelledError:
            self.abandon()
            raise

    async def _carry_out(self, command: Command) -> Event | None:
        match command:
            case Command.TAKE_STEP:
                return await self._take_step()
            case Command.TAKE_STEP_AGAIN:
                await self._pause()
                return await self._take_step()
            case Command.COMMIT_AGAIN:
                return await self._commit_again()
            case Command.END_AGAIN:
                return await self._end_again()
            case Command.RELEASE:
                # A runner that stops alone leaves the process to its engine; an engine that stops takes none.
                await self._release(take_again=self._is_stopping.is_set())
            case Command.SET_ASIDE:
                await self._release(take_again=True)
            case Command.PARK:
                # First, or the search for work might claim it in between.
                self._parts.park(self._row.pid, self._stepping.parked_because)
                await self._release()
            case Command.LEAVE:
                if self._life.state.is_terminal:
                    self._parts.faults.hit(FaultPoint.ENDED)
                self._parts.dispatcher.left(self._row.pid, self._row.record.epoch)
                self._parts.has_room()
                self._stepping.close()
            case Command.DISCARD:
                self._stepping.discard()
            case Command.COMMIT:
                raise RuntimeError('a unit is committed where its step ends')
        return None

    async def _take_step(self) -> Event:
        if not self._parts.membership.lease.is_valid and not await self._confirm_lease():
            return StepUnwound()
        answer = self._expect_answer()
        if self._stepping.starts_async():
            await self._stepping.take_async()
        else:
            try:
                self._post_to_thread(self._stepping.take)
            except (LoopClosed, StartFailed) as error:
                LOGGER.debug('process %d cannot go on now: %s', self._row.pid, error)
                return StepUnwound()
        event = await answer
        return await self._resume(event) if isinstance(event, Suspended) else event

    async def _resume(self, suspended: Suspended) -> Event:
        answer = self._expect_answer()
        await self._stepping.resume(suspended)
        return await self._event_of(answer)

    async def _confirm_lease(self) -> bool:
        """Ask the database whether this engine may go on; ``False`` when it stops meanwhile."""
        while not self._is_stopping.is_set():
            try:
                await wait_on_loop(self._parts.membership.confirm())
                return True
            except EngineStopped:
                return False
            except StoreError as error:
                LOGGER.error('process %d waits, for its lease has passed: %s', self._row.pid, error)
                await self._pause()
        return False

    async def _commit_again(self) -> Event:
        await self._pause()
        answer = self._expect_answer()
        self._stepping.post_again()
        return await self._event_of(answer)

    async def _end_again(self) -> Event:
        await self._pause()
        answer = self._expect_answer()
        try:
            self._post_to_thread(self._stepping.write_again)
        except LoopClosed:
            return StepUnwound()
        except StartFailed as error:
            LOGGER.warning('process %d: its step is written when there is a thread for it: %s', self._row.pid, error)
            return StoreFailed()
        return await self._event_of(answer)

    def _post_to_thread(self, job: Callable[[], None]) -> None:
        """Hand the process to a step thread, which answers.

        :raises LoopClosed: the engine stops; the process is still here.
        :raises StartFailed: there is no thread for it now; the process is still here.
        """
        self._custody.holder = Holder.AWAY
        try:
            self._parts.steps.post(job, nesting=self._row.record.nesting)
        except BaseException:
            self._custody.holder = Holder.LOOP
            raise

    async def _pause(self) -> None:
        pause = self._retry_pause * random.uniform(0.5, 1.0)
        self._retry_pause = min(2 * self._retry_pause, RETRY_MOST)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_stopping.wait(), pause)

    async def _release(self, *, take_again: bool = False) -> None:
        fence = self._row.fence
        while True:
            try:
                await wait_on_loop(
                    self._parts.store.call(lambda transaction: transaction.release(fence, take_again=take_again))
                )
                return
            except EngineStopped:
                return  # the engine's own end releases all that it owns
            except StoreError as error:
                LOGGER.error('process %d cannot be given back now: %s', self._row.pid, error)
                if self._is_stopping.is_set():
                    self._post_release()  # the loop may end; the store thread goes on trying
                    return
                await self._pause()

    # -- across to the loop ----------------------------------------------------------------------------------

    def _expect_answer(self) -> asyncio.Future[Event | Suspended]:
        self._next_answer = self._bridge.loop.create_future()
        return self._next_answer

    async def _event_of(self, answer: asyncio.Future[Event | Suspended]) -> Event:
        event = await answer
        if isinstance(event, Suspended):
            raise RuntimeError('a step is suspended that had begun before')
        return event

    def _step_ended(self, ending: Ending) -> None:
        self._life, _ = handle(self._life, StepEnded(ending))

    def _answer(self, event: Event | Suspended) -> None:
        """Take the process back to the loop, or give its claim back; on the thread that held it."""
        if self._custody.answered():
            self._give_back()
            return
        try:
            self._bridge.post(self._resolve, event)
        except LoopClosed:
            self.abandon()
        except Forked:
            LOGGER.debug('process %d: its step has ended in a forked child, where nobody waits', self._row.pid)

    def _resolve(self, event: Event | Suspended) -> None:
        if self._next_answer is not None and not self._next_answer.done():
            self._next_answer.set_result(event)

    # -- without its loop ------------------------------------------------------------------------------------

    def abandon(self, *, cut: bool = False) -> None:
        """The loop drives the process no more: give the claim back once nobody works for it; from any thread.

        A step on a step thread comes to its checkpoint first.

        :param cut: the coroutine of its step goes on no more either: the loop is closed, or the step is cancelled.
        """
        if self._custody.abandon(cut=cut):
            self._give_back()

    def close_step(self) -> None:
        """Let the coroutine of a step clean up whose loop is closed; on a thread where user code may run."""
        self._stepping.close_coroutine()

    def _give_back(self) -> None:
        pid, parts = self._row.pid, self._parts
        reason = StepAborted(f'the loop that drove process {pid} drives it no more; it goes on elsewhere')
        self._stepping.cut_off(reason)
        parts.homes.leave(pid)
        parts.dispatcher.left(pid, self._row.record.epoch)
        self._post_release()
        parts.has_room()

    def _post_release(self) -> None:
        fence = self._row.fence
        with contextlib.suppress(EngineStopped):  # the engine's own end releases all that it owns
            self._parts.store.post(
                lambda transaction: transaction.release(fence, take_again=True), self._is_released
            )

    def _is_released(self, answer: Any) -> None:
        if isinstance(answer, Failure) and not isinstance(answer.error, EngineStopped):
            LOGGER.error('process %d cannot be given back now: %s', self._row.pid, answer.error)
            self._parts.homes.call_later(self._post_release)
