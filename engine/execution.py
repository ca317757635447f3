"""One claimed process on its way through a loop, a worker's or the user's: step, commit, step, commit, until it leaves.

The pure machine says what comes next; this carries it out. A step runs on a step thread, which also encodes the
result and posts it to the store, so the loop is crossed once per step, when the commit is done. The fields
are handed from thread to thread and never shared: whoever holds the process at a moment is the only one to touch them.

A loop may be wound up or closed by its owner at any moment. Then the process is abandoned: whoever holds it brings it
to its next checkpoint and gives the claim back.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import logging
import random
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any

import msgspec

from ..threads import Bridge, Forked, LoopClosed, StartFailed, wait_on_loop
from .custody import Custody, Holder
from .errors import EngineStopped, ProcessParked, ReplayMismatch, StepAborted, StoreError, TreadleError
from .faults import FaultPoint
from .loading import load, why_not_loaded
from .parts import RETRY_FIRST, RETRY_MOST, EngineParts, keep_log_of_killed
from .processes.machine import (
    Claimed,
    Command,
    Committed,
    Ending,
    Event,
    LeaseLapsed,
    Life,
    PausedBefore,
    Refused,
    StepEnded,
    StepParked,
    StopRequested,
    StoreFailed,
    Unreadable,
    handle,
)
from .processes.machine import StepAborted as StepWasAborted
from .processes.process import Process, StepResult
from .processes.visit import Host, Visit, entered
from .states import ProcessState
from .store.records import Advance, Fence, Held, ProcessRecord, Unit, storable
from .store.store_thread import Failure
from .values import dump_exception

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Suspended:
    """A step has turned out to be a coroutine function: its call is to be awaited on the loop, in that context."""

    step: Awaitable[Any]
    context: contextvars.Context


class Execution:
    """One claimed process.

    :param record: its row as it was claimed.
    :param host: the engine as the process's steps see it.
    :param bridge: the way into the loop.
    :param is_stopping: whether the runner wants to stop.
    """

    def __init__(
        self, record: ProcessRecord, *, parts: EngineParts, host: Host, bridge: Bridge, is_stopping: asyncio.Event
    ) -> None:
        self._record = record
        self._parts = parts
        self._host = host
        self._bridge = bridge
        self._is_stopping = is_stopping
        self._life = Life(ProcessState(record.state))
        self._process: Process | None = None
        self._visit: Visit | None = None
        self._visits = record.visit
        self._outputs = record.outputs
        self._checkpoint = record.checkpoint
        self._is_stale = False
        self._version = record.version
        self._unit: Unit | None = None
        self._unwritten: StepResult | None = None
        self._next_event: asyncio.Future[Any] | None = None  # of an Event, or that the step is suspended
        self._suspended: _Suspended | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._custody = Custody()
        self._parked_because = ''
        self._retry_pause = RETRY_FIRST
        # Only the first step after a claim can be one that was begun before.
        self._may_be_replay = record.epoch > 1

    @property
    def record(self) -> ProcessRecord:
        """The row as it was claimed."""
        return self._record

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
                self._parts.park(self._record.pid, self._parked_because)
                await self._release()
            case Command.LEAVE:
                if self._life.state.is_terminal:
                    self._parts.faults.hit(FaultPoint.ENDED)
                self._parts.dispatcher.left(self._record.pid, self._record.epoch)
                self._parts.has_room()
            case Command.DISCARD:
                self._unit = None
            case Command.COMMIT:
                raise RuntimeError('a unit is committed where its step ends')
        return None

    async def _take_step(self) -> Event:
        if not self._parts.membership.lease.is_valid and not await self._confirm_lease():
            return StepWasAborted()
        self._next_event = self._bridge.loop.create_future()
        if self._process is not None and self._process._starts_async():
            if self._begin():
                await self._run_async(self._process, None)
        else:
            self._custody.holder = Holder.AWAY
            try:
                self._parts.steps.post(self._step_on_thread, nesting=self._record.nesting)
            except (LoopClosed, StartFailed) as error:
                self._custody.holder = Holder.LOOP
                LOGGER.debug('process %d cannot go on now: %s', self._record.pid, error)
                return StepWasAborted()
        answer: Event | _Suspended = await self._next_event
        return await self._resume(answer) if isinstance(answer, _Suspended) else answer

    async def _resume(self, suspended: _Suspended) -> Event:
        if self._process is None:
            raise RuntimeError('a step has begun without a process')
        self._next_event = self._bridge.loop.create_future()
        await self._run_async(self._process, suspended)
        event: Event = await self._next_event
        return event

    async def _confirm_lease(self) -> bool:
        """Ask the database whether this engine may go on; ``False`` when it stops meanwhile."""
        while not self._is_stopping.is_set():
            try:
                await wait_on_loop(self._parts.membership.confirm())
                return True
            except EngineStopped:
                return False
            except StoreError as error:
                LOGGER.error('process %d waits, for its lease has passed: %s', self._record.pid, error)
                await self._pause()
        return False

    async def _commit_again(self) -> Event:
        unit = self._unit
        if unit is None:
            raise RuntimeError('there is no unit to commit again')
        await self._pause()
        self._next_event = self._bridge.loop.create_future()
        self._post(unit)
        event: Event = await self._next_event
        return event

    async def _end_again(self) -> Event:
        result = self._unwritten
        if result is None:
            raise RuntimeError('there are no results to write again')
        await self._pause()
        self._next_event = self._bridge.loop.create_future()
        self._custody.holder = Holder.AWAY
        try:
            self._parts.steps.post(functools.partial(self._write, result), nesting=self._record.nesting)
        except LoopClosed:
            self._custody.holder = Holder.LOOP
            return StepWasAborted()
        except StartFailed as error:
            self._custody.holder = Holder.LOOP
            LOGGER.warning('process %d: its step is written when there is a thread for it: %s', self._record.pid, error)
            return StoreFailed()
        event: Event = await self._next_event
        return event

    async def _pause(self) -> None:
        pause = self._retry_pause * random.uniform(0.5, 1.0)
        self._retry_pause = min(2 * self._retry_pause, RETRY_MOST)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_stopping.wait(), pause)

    async def _release(self, *, take_again: bool = False) -> None:
        fence = Fence(self._record.pid, self._record.epoch, self._version)
        while True:
            try:
                await wait_on_loop(
                    self._parts.store.call(lambda transaction: transaction.release(fence, take_again=take_again))
                )
                return
            except EngineStopped:
                return  # the engine's own end releases all that it owns
            except StoreError as error:
                LOGGER.error('process %d cannot be given back now: %s', self._record.pid, error)
                if self._is_stopping.is_set():
                    return
                await self._pause()

    # -- on a step thread --------------------------------------------------------------------------------

    def _step_on_thread(self) -> None:
        # A context of its own: what one process's code puts into context variables is not seen by another's.
        contextvars.Context().run(self._step)

    def _step(self) -> None:
        if not self._begin():
            return
        process, visit = self._process, self._visit
        if process is None or visit is None:
            raise RuntimeError('a step has begun without a process')
        try:
            with entered(visit):
                returned = process._begin_step()
                if not isinstance(returned, StepResult):
                    self._suspended = _Suspended(returned, contextvars.copy_context())
                    self._answer(self._suspended)
                    return
        except BaseException as error:
            self._failed(error)
            return
        self._ended(returned)

    def _begin(self) -> bool:
        """Load the process if need be and open a visit; ``False`` when there is nothing to run."""
        if self._is_stopping.is_set():
            self._answer(StepWasAborted())
            return False
        if not self._parts.membership.lease.is_valid:  # it has waited long for its permit
            self._answer(LeaseLapsed())
            return False
        try:
            if self._process is None or self._is_stale:
                self._process = self._load()
        except BaseException as error:  # such as SystemExit of a module that is imported
            self._cannot_load(error)
            return False
        replayed, self._may_be_replay = self._may_be_replay, False
        visit = Visit(
            host=self._host,
            fence=Fence(self._record.pid, self._record.epoch, self._version),
            number=self._visits,
            origin=self._record.origin,
            nesting=self._record.nesting,
            replayed=replayed,
        )
        self._visit = self._process._visit = visit
        if not self._parts.dispatcher.begin_visit(visit):
            self._parts.dispatcher.end_visit(visit)
            self._answer(StepWasAborted())
            return False
        if self._parts.dispatcher.is_paused(visit):
            self._parts.dispatcher.end_visit(visit)
            self._answer(PausedBefore())
            return False
        self._parts.faults.hit(FaultPoint.STEP_STARTED)
        return True

    def _load(self) -> Process:
        process = load(self._record, self._parts.source, outputs=self._outputs, checkpoint=self._checkpoint)
        self._is_stale = False
        return process

    def _cannot_load(self, error: BaseException) -> None:
        pid = self._record.pid
        if isinstance(error, StoreError):  # such as a disk that is gone for a while
            LOGGER.error('process %d cannot be loaded now, it is tried again: %s', pid, error)
            self._answer(Unreadable())
            return
        if not isinstance(error, (TreadleError, TypeError)):
            LOGGER.warning('process %d cannot be loaded', pid, exc_info=error)
        self._park(why_not_loaded(error, self._record, self._parts.source.reader))

    def _park(self, reason: str) -> None:
        self._parked_because = reason
        self._answer(StepParked())

    async def _run_async(self, process: Process, suspended: _Suspended | None) -> None:
        """Await a step written as a coroutine function, on the loop; it ends like any other."""
        visit = self._visit
        if visit is None:
            raise RuntimeError('a step has begun without a visit')
        self._custody.holder = Holder.COROUTINE
        self._suspended = None
        try:
            if suspended is None:
                with entered(visit):
                    begun = process._begin_step()
                    context = contextvars.copy_context()
            else:
                begun, context = suspended.step, suspended.context
            if not isinstance(begun, StepResult):
                returned = await self._cancelled_with(visit, begun, context)
                with entered(visit):
                    begun = process._end_step(returned)
        except GeneratorExit:
            raise  # its loop was closed in the middle of the step, and the process was abandoned
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                self._unwound()
                raise  # the loop winds up
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                self._unwound()  # a Ctrl-C that hit the user's loop in this step says nothing of the process
            else:
                self._failed(error)
        else:
            self._ended(begun)

    async def _cancelled_with(self, visit: Visit, step: Awaitable[Any], context: contextvars.Context) -> Any:
        """Await the step as a task of its own, which is cancelled when the step's result can no longer count."""
        coroutine = self._coroutine = step if isinstance(step, Coroutine) else _awaiting(step)
        task = asyncio.create_task(coroutine, name=f'step of process {visit.pid}', context=context)

        def cancel() -> None:
            with contextlib.suppress(LoopClosed, Forked):
                self._bridge.post(task.cancel)

        visit.add_abort_callback(cancel)
        try:
            return await task
        finally:
            visit.remove_abort_callback(cancel)

    # -- the end of a step, wherever it ran ----------------------------------------------------------------

    def _ended(self, result: StepResult) -> None:
        self._leave_step()
        self._parts.faults.hit(FaultPoint.STEP_RETURNED)
        if self._visit is not None and self._visit.is_dead:
            self._unwound()
            return
        self._write(result)

    def _write(self, result: StepResult) -> None:
        try:
            unit = self._unit_of(result)
        except StoreError as error:  # the disk does not take a large value; that is no verdict on the process
            LOGGER.error('process %d: its step could not be written: %s', self._record.pid, error)
            self._unwritten = result
            self._end_visit()  # only its writing goes on, for which nobody needs to wait
            self._answer(StoreFailed())
            return
        except BaseException as error:  # a value in ctx or outputs that cannot be stored
            self._failed(error)
            return
        self._commit(result.ending, unit)

    def _failed(self, error: BaseException) -> None:
        self._leave_step()
        if isinstance(error, (ReplayMismatch, ProcessParked)):  # a parked child's fate is still open, and so is its own
            self._end_visit()
            self._park(str(error))
            return
        pid = self._record.pid
        visit = self._visit
        if visit is not None and visit.is_unwound_by(error):
            self._unwound()
            return
        # A step that raises leaves no children behind, but what it has logged is kept.
        unit = Unit(
            fence=Fence(pid, self._record.epoch, self._version),
            advance=Advance(
                state=ProcessState.EXCEPTED, visit=self._visits + 1, exception=dump_exception(error)
            ),
            log=tuple(visit.log) if visit is not None else (),
            kept_calls=frozenset(visit.asked) if visit is not None and visit.replayed else None,
        )
        self._parts.terminations.keep_exception(pid, error)
        self._commit(Ending.RAISE, unit)

    def _unwound(self) -> None:
        self._end_visit()
        self._keep_log()
        self._answer(StepWasAborted())

    def _keep_log(self) -> None:
        if self._visit is not None:
            keep_log_of_killed(self._parts, self._visit)

    def _leave_step(self) -> None:
        """What the step has left running cannot add to its unit any more, and is told so when it tries."""
        if self._process is not None:
            self._process._visit = None

    def _unit_of(self, result: StepResult) -> Unit:
        process, visit, codec = self._process, self._visit, self._parts.source.codec
        if process is None or visit is None:
            raise RuntimeError('a step has ended without a process')
        ended = result.ending is Ending.FINISH
        saved = None if ended else process._save()
        # Nothing is noted here of what was encoded: if the rest cannot be, all of it is encoded anew.
        outputs = codec.encode(process._outputs, 'outputs') if process._outputs_changed else None
        advance = Advance(
            state=result.ending.value,
            visit=self._visits + 1,
            step=result.next_step,
            checkpoint=None if saved is None else codec.encode(saved, 'self'),
            outputs=outputs,
            exit_status=result.exit_code.status if ended else None,
            exit_message=storable(result.exit_code.message) if ended and result.exit_code.message else None,
            awaiting=result.awaiting,
        )
        return Unit(
            fence=visit.fence,
            advance=advance,
            create=tuple(visit.children),
            log=tuple(visit.log),
            kept_calls=frozenset(visit.asked) if visit.replayed else None,
            pauses=visit.pauses,
            emitted=tuple(visit.emitted),
        )

    def _commit(self, ending: Ending, unit: Unit) -> None:
        self._end_visit()
        self._life, _ = handle(self._life, StepEnded(ending))
        self._unit = unit
        self._post(unit)
        self._parts.faults.hit(FaultPoint.STEP_POSTED)

    def _end_visit(self) -> None:
        if self._visit is not None:
            self._visit.log_is_complete = True
            self._parts.dispatcher.end_visit(self._visit)

    def _post(self, unit: Unit) -> None:
        self._custody.holder = Holder.AWAY
        try:
            self._parts.store.post(unit, self._written)
        except EngineStopped as error:
            self._written(Failure(error))

    # -- on the store thread -------------------------------------------------------------------------------

    def _written(self, verdict: Any) -> None:
        if isinstance(verdict, Held):
            advance = None if self._unit is None else self._unit.advance
            if advance is not None:
                self._checkpoint = advance.checkpoint
                if advance.outputs is not None:
                    self._outputs = advance.outputs
                if self._life.state.is_terminal:
                    self._tell_end(advance, verdict)
            self._is_stale = True
            self._version = verdict.version
            self._visits += 1
            self._unit = None
            self._retry_pause = RETRY_FIRST
            self._answer(Committed(satisfied=verdict.satisfied, paused=verdict.paused))
        elif isinstance(verdict, Failure) and not isinstance(verdict.error, (StoreError, EngineStopped)):
            # Nothing that the store may get over: trying again would go on for ever.
            LOGGER.error('process %d: its step cannot be written', self._record.pid, exc_info=verdict.error)
            self._park(f'its step cannot be written: {type(verdict.error).__name__}: {verdict.error}')
        elif isinstance(verdict, Failure):
            if not isinstance(verdict.error, EngineStopped):
                LOGGER.error('process %d: its step could not be written: %s', self._record.pid, verdict.error)
            self._answer(StoreFailed())
        else:
            self._keep_log()
            self._answer(Refused())

    def _tell_end(self, advance: Advance, held: Held) -> None:
        """Whoever waits in this OS process need not read the row that has just been written."""
        self._parts.terminations.keep_final(
            msgspec.structs.replace(
                self._record,
                state=advance.state,
                visit=advance.visit,
                step=None,
                exit_status=advance.exit_status,
                exit_message=advance.exit_message,
                exception=advance.exception,
                checkpoint=None,
                outputs=self._outputs,
                owner=None,
                version=held.version,
                changed_at=held.at,
            )
        )

    # -- across to the loop ----------------------------------------------------------------------------------

    def _answer(self, event: Event | _Suspended) -> None:
        if self._custody.answered():
            self._give_back()
            return
        try:
            self._bridge.post(self._resolve, event)
        except LoopClosed:
            self.abandon()
        except Forked:
            LOGGER.debug('process %d: its step has ended in a forked child, where nobody waits', self._record.pid)

    def _resolve(self, event: Event | _Suspended) -> None:
        if self._next_event is not None and not self._next_event.done():
            self._next_event.set_result(event)

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
        if self._coroutine is not None:
            try:
                self._coroutine.close()
            except BaseException:
                LOGGER.exception('process %d: its step was cut off, and failed to clean up', self._record.pid)

    def _give_back(self) -> None:
        pid, epoch, parts = self._record.pid, self._record.epoch, self._parts
        if self._suspended is not None and isinstance(self._suspended.step, Coroutine):
            self._suspended.step.close()  # it has not begun
        if self._visit is not None:
            reason = StepAborted(f'the loop that drove process {pid} drives it no more; it goes on elsewhere')
            parts.aborts.abort(self._visit, reason, parts.steps.post_beside)
            self._end_visit()
        parts.homes.leave(pid)
        parts.dispatcher.left(pid, epoch)
        self._post_release()
        parts.has_room()

    def _post_release(self) -> None:
        fence = Fence(self._record.pid, self._record.epoch, self._version)
        with contextlib.suppress(EngineStopped):  # the engine's own end releases all that it owns
            self._parts.store.post(
                lambda transaction: transaction.release(fence, take_again=True), self._is_released
            )

    def _is_released(self, answer: Any) -> None:
        if isinstance(answer, Failure) and not isinstance(answer.error, EngineStopped):
            LOGGER.error('process %d cannot be given back now: %s', self._record.pid, answer.error)
            self._parts.homes.call_later(self._post_release)


async def _awaiting(step: Awaitable[Any]) -> Any:
    return await step
