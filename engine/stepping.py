"""The steps of a claimed process: one is begun, runs on a step thread or on the loop, and ends in a unit to commit.

A step thread also encodes what its step has changed and posts it to the store. The fields are handed from thread to
thread and never shared: whoever holds the process at a moment (see ``custody.py``) is the only one to touch them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ..threads import Bridge, Forked, LoopClosed
from .claimed_row import ClaimedRow
from .custody import Custody, Holder
from .errors import EngineStopped, ProcessParked, ReplayMismatch, StepAborted, StoreError, TreadleError
from .faults import FaultPoint
from .loading import load, why_not_loaded
from .parts import EngineParts, keep_log_of_killed
from .processes.machine import (
    Committed,
    Ending,
    Event,
    LeaseLapsed,
    PausedBefore,
    Refused,
    StepParked,
    StepUnwound,
    StoreFailed,
    Unreadable,
)
from .processes.process import Process, StepResult
from .processes.visit import Host, Visit, entered
from .states import TERMINAL_STATES
from .store.records import Held, Unit
from .store.store_thread import Failure
from .units import unit_of_error, unit_of_step

__all__ = ['Stepping', 'Suspended']

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Suspended:
    """A step has turned out to be a coroutine function: its call is to be awaited on the loop, in that context."""

    step: Awaitable[Any]
    context: contextvars.Context


class Stepping:
    """Takes the steps of one claimed process, one after the other as it is told.

    :param host: the engine as the process's steps see it.
    :param bridge: the way into the loop.
    :param is_stopping: whether the runner wants to stop.
    :param ended: told how a step has ended, before its unit is posted.
    :param answer: told once what has become of each step, on whichever thread knows it.
    :ivar parked_because: why the process cannot go on here, once the answer was that it cannot.
    """

    __slots__ = (
        '_answer', '_bridge', '_coroutine', '_custody', '_host', '_is_stale', '_is_stopping', '_may_be_replay',
        '_parts', '_process', '_row', '_suspended', '_tell_ending', '_unit', '_unwritten', '_visit', 'parked_because',
    )  # fmt: skip

    def __init__(
        self,
        row: ClaimedRow,
        *,
        parts: EngineParts,
        host: Host,
        bridge: Bridge,
        custody: Custody,
        is_stopping: asyncio.Event,
        ended: Callable[[Ending], None],
        answer: Callable[[Event | Suspended], None],
    ) -> None:
        self._row = row
        self._parts = parts
        self._host = host
        self._bridge = bridge
        self._custody = custody
        self._is_stopping = is_stopping
        self._tell_ending = ended
        self._answer = answer
        self._process: Process | None = None
        self._is_stale = False
        self._visit: Visit | None = None
        self._suspended: Suspended | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._unwritten: StepResult | None = None
        self._unit: Unit | None = None
        # Only the first step after a claim can be one that was begun before.
        self._may_be_replay = row.record.epoch > 1
        self.parked_because = ''

    # -- the beginning -------------------------------------------------------------------------------------

    def starts_async(self) -> bool:
        """Whether the next step is known to be a coroutine function."""
        return self._process is not None and self._process._starts_async()

    def take(self) -> None:
        """Take the next step; on a step thread."""
        # A context of its own: what one process's code puts into context variables is not seen by another's.
        contextvars.Context().run(self._take)

    def _take(self) -> None:
        if not self._begin():
            return
        process, visit = self._present()
        try:
            with entered(visit):
                returned = process._begin_step()
                if not isinstance(returned, StepResult):
                    self._suspended = Suspended(returned, contextvars.copy_context())
                    self._answer(self._suspended)
                    return
        except BaseException as error:
            self._failed(error)
            return
        self._returned(returned)

    def _begin(self) -> bool:
        """Load the process if need be and open a visit; ``False`` when there is nothing to run."""
        if self._is_stopping.is_set():
            self._answer(StepUnwound())
            return False
        if self._has_lapsed():  # it has waited long for its permit
            self._answer(LeaseLapsed())
            return False
        try:
            if self._process is None or self._is_stale:
                self._process = self._load()
            self._process._read_ahead(self._host)
        except BaseException as error:  # such as SystemExit of a module that is imported
            self._cannot_load(error)
            return False
        if self._has_lapsed():  # the store was long away
            self._answer(LeaseLapsed())
            return False
        visit = self._process._visit = self._visit = self._make_visit()
        dispatcher = self._parts.dispatcher
        if not dispatcher.begin_visit(visit):
            dispatcher.end_visit(visit)
            self._answer(StepUnwound())
            return False
        if dispatcher.is_paused(visit):
            dispatcher.end_visit(visit)
            self._answer(PausedBefore())
            return False
        self._parts.faults.hit(FaultPoint.STEP_STARTED)
        return True

    def _has_lapsed(self) -> bool:
        return not self._parts.membership.lease.is_valid

    def _load(self) -> Process:
        row = self._row
        process = load(row.record, self._parts.source, outputs=row.outputs, checkpoint=row.checkpoint)
        self._is_stale = False
        return process

    def _cannot_load(self, error: BaseException) -> None:
        pid = self._row.pid
        if isinstance(error, StoreError):  # such as a disk that is gone for a while
            LOGGER.error('process %d cannot be loaded now, it is tried again: %s', pid, error)
            self._answer(Unreadable())
            return
        if not isinstance(error, (TreadleError, TypeError)):
            LOGGER.warning('process %d cannot be loaded', pid, exc_info=error)
        self._park(why_not_loaded(error, self._row.record, self._parts.source.reader))

    def _make_visit(self) -> Visit:
        replayed, self._may_be_replay = self._may_be_replay, False
        return Visit(
            host=self._host,
            fence=self._row.fence,
            number=self._row.visits,
            origin=self._row.record.origin,
            nesting=self._row.record.nesting,
            replayed=replayed,
        )

    def _present(self) -> tuple[Process, Visit]:
        if self._process is None or self._visit is None:
            raise RuntimeError('no step has begun')
        return self._process, self._visit

    # -- steps that are coroutine functions, on the loop ---------------------------------------------------

    async def take_async(self) -> None:
        """Take the next step here, which is a coroutine function."""
        if self._begin():
            await self._await_step(None)

    async def resume(self, suspended: Suspended) -> None:
        """Go on here with a step that a step thread has begun."""
        await self._await_step(suspended)

    async def _await_step(self, suspended: Suspended | None) -> None:
        """Await a step; it ends like any other."""
        process, visit = self._present()
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
            self._returned(begun)

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

    def close_coroutine(self) -> None:
        """Let the coroutine of a step clean up whose loop is closed; on a thread where user code may run."""
        if self._coroutine is not None:
            try:
                self._coroutine.close()
            except BaseException:
                LOGGER.exception('process %d: its step was cut off, and failed to clean up', self._row.pid)

    # -- the end of a step, wherever it ran ------------------------------------------------------------------

    def _returned(self, result: StepResult) -> None:
        process, visit = self._present()
        process._visit = None  # what the step has left running cannot add to its unit, and is told so when it tries
        self._parts.faults.hit(FaultPoint.STEP_RETURNED)
        if visit.is_dead:
            self._unwound()
        else:
            self._write(result)

    def _write(self, result: StepResult) -> None:
        process, visit = self._present()
        try:
            unit = unit_of_step(process, visit, result, self._parts.source.codec)
        except StoreError as error:  # the disk does not take a large value; that is no verdict on the process
            LOGGER.error('process %d: its step could not be written: %s', self._row.pid, error)
            self._unwritten = result
            self._end_visit()  # only its writing goes on, for which nobody needs to wait
            self._answer(StoreFailed())
            return
        except BaseException as error:  # a value in ctx or outputs that cannot be stored
            self._failed(error)
            return
        self._commit(result.ending, unit)

    def _failed(self, error: BaseException) -> None:
        process, visit = self._present()
        process._visit = None
        if isinstance(error, (ReplayMismatch, ProcessParked)):  # a parked child's fate is still open, and so is its own
            self._end_visit()
            self._park(str(error))
        elif visit.is_unwound_by(error):
            self._unwound()
        else:
            unit = unit_of_error(visit, error)
            self._parts.terminations.keep_exception(self._row.pid, error)
            self._commit(Ending.RAISE, unit)

    def _unwound(self) -> None:
        self._end_visit()
        self._keep_log()
        self._answer(StepUnwound())

    def _park(self, reason: str) -> None:
        self.parked_because = reason
        self._answer(StepParked())

    def _keep_log(self) -> None:
        if self._visit is not None:
            keep_log_of_killed(self._parts, self._visit)

    def _end_visit(self) -> None:
        if self._visit is not None:
            self._visit.log_is_complete = True
            self._parts.dispatcher.end_visit(self._visit)

    def cut_off(self, reason: StepAborted) -> None:
        """The claim is given back: what goes on of a step counts for nothing, and is told so."""
        if self._suspended is not None and isinstance(self._suspended.step, Coroutine):
            self._suspended.step.close()  # it has not begun
        if self._visit is not None:
            self._parts.aborts.abort(self._visit, reason, self._parts.steps.post_beside)
            self._end_visit()

    def close(self) -> None:
        """The process has left: whoever was told is let go, so that nothing of it waits for the garbage collector."""
        self._tell_ending = self._answer = _tell_nobody

    # -- its unit --------------------------------------------------------------------------------------------

    def _commit(self, ending: Ending, unit: Unit) -> None:
        self._end_visit()
        self._tell_ending(ending)
        self._unit = unit
        self._post(unit)
        self._parts.faults.hit(FaultPoint.STEP_POSTED)

    def _post(self, unit: Unit) -> None:
        self._custody.holder = Holder.AWAY
        try:
            self._parts.store.post(unit, self._written)
        except EngineStopped as error:
            self._written(Failure(error))

    def post_again(self) -> None:
        """Post the unit that the store has not taken."""
        if self._unit is None:
            raise RuntimeError('there is no unit to commit again')
        self._post(self._unit)

    def write_again(self) -> None:
        """Encode and post the results that could not be written; on a step thread."""
        if self._unwritten is None:
            raise RuntimeError('there are no results to write again')
        self._write(self._unwritten)

    def discard(self) -> None:
        """The unit was refused, and counts for nothing."""
        self._unit = None

    def _written(self, verdict: Any) -> None:
        """The store's answer to a unit; on the store thread."""
        if isinstance(verdict, Held):
            self._committed(verdict)
        elif isinstance(verdict, Failure) and not isinstance(verdict.error, (StoreError, EngineStopped)):
            # Nothing that the store may get over: trying again would go on for ever.
            LOGGER.error('process %d: its step cannot be written', self._row.pid, exc_info=verdict.error)
            self._park(f'its step cannot be written: {type(verdict.error).__name__}: {verdict.error}')
        elif isinstance(verdict, Failure):
            if not isinstance(verdict.error, EngineStopped):
                LOGGER.error('process %d: its step could not be written: %s', self._row.pid, verdict.error)
            self._answer(StoreFailed())
        else:
            self._keep_log()
            self._answer(Refused())

    def _committed(self, held: Held) -> None:
        advance = None if self._unit is None else self._unit.advance
        if advance is None:
            raise RuntimeError('a unit that was never posted is committed')
        row = self._row
        row.advanced(advance, held)
        if row.record.crashes:
            self._parts.dispatcher.acquit(row.pid, row.record.epoch)
            self._parts.has_room()
        if advance.state in TERMINAL_STATES:
            # Whoever waits in this OS process need not read the row that has just been written.
            self._parts.terminations.keep_final(row.final(advance, held))
        if self._unit is not None and self._unit.job is not None:
            self._parts.desks.open([self._unit.job.computer])
        self._is_stale = True
        self._unit = None
        self._answer(Committed(satisfied=held.satisfied, paused=held.paused))


def _tell_nobody(what: Ending | Event | Suspended) -> None:
    """Nothing is told any more."""


async def _awaiting(step: Awaitable[Any]) -> Any:
    return await step
