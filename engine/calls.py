"""Starting processes and waiting for their ends: from plain code, and from inside steps.

A call from inside a step is put on record before it has any effect, under the step's visit and the call's number. When
the step is replayed after a crash, the recorded outcome is returned, or raised, instead of calling again. So is what a
child did kept, also while the step that asked for it has to be run again.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from ..threads import WrongThread, wait, wait_on_loop
from .errors import (
    EngineStopped,
    KilledError,
    LeaseLost,
    ProcessParked,
    ReplayMismatch,
    StepAborted,
    StoreError,
)
from .execution import RETRY_FIRST, RETRY_MOST, EngineParts
from .exit_code import ExitCode
from .faults import FaultPoint
from .launch import compose, merge_inputs
from .node import ProcessNode
from .pids import PidBlocks
from .processes.functions import (
    FunctionProcess,
    ProcessFunction,
    as_outputs,
    as_returned,
    process_class_of,
)
from .processes.visit import Host, Visit, current_visit, entered
from .states import TERMINAL_STATES, ProcessState
from .store.records import Advance, Fence, Held, Lost, ProcessRecord, Unit, Verdict
from .store.store_thread import Failure
from .terminations import End
from .values import dump_exception, load_exception

__all__ = ['Calls']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

_RUN_INSTEAD = 'await engine.run_async()'

#: Seconds that what a killed step has started gets to end, after Ctrl-C.
UNWINDING_PATIENCE = 5.0


class Calls:
    """What an engine does for callers, in their own threads."""

    def __init__(self, *, parts: EngineParts, host: Host, pids: PidBlocks, engine_id: int) -> None:
        self._parts = parts
        self._host = host
        self._pids = pids
        self._engine_id = engine_id
        #: Whether a second Ctrl-C came while the first one was being dealt with.
        self.in_haste = False

    # -- starting ------------------------------------------------------------------------------------------

    def _compose(
        self, target: Any, given: Mapping[str, Any], visit: Visit | None, number: int, *, blocking: bool
    ) -> ProcessRecord:
        if visit is None:
            call, origin, nesting = None, self._engine_id, 0
        else:
            call, origin = (visit.pid, visit.number, number), visit.origin
            nesting = visit.nesting + 1 if blocking else visit.nesting
        return self._patiently(
            visit,
            lambda: compose(
                target,
                given,
                codec=self._parts.source.codec,
                pid=self._pids.take(),
                origin=origin,
                nesting=nesting,
                call=call,
            ),
        )

    def submit_child(
        self, visit: Visit, target: Any, inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
    ) -> ProcessNode:
        """Make a child part of the visit's unit; one with a key must be looked up at once, so it commits early."""
        given = merge_inputs(inputs, kwargs)
        if 'key' in (given.get('metadata') or {}):
            node, ended = self.start(target, given, blocking=False)
            self._parts.terminations.forget(node.pid, ended)
            return node
        if visit.is_dead:
            visit.check()
        record = self._compose(target, given, visit, visit.take_call_number(), blocking=False)
        recorded = self._recorded(visit, record)
        if recorded is not None:  # the step made this call with run() before, whose children are there at once
            return ProcessNode(recorded.pid, self._parts.source, recorded)
        visit.children.append(record)
        return ProcessNode(record.pid, self._parts.source, record)

    def start(self, target: Any, given: Mapping[str, Any], *, blocking: bool) -> tuple[ProcessNode, End]:
        """Commit a new process, or attach to the one that is there under the same key or call number.

        :param blocking: whether the calling thread is about to wait for it.
        :returns: its node, and the future of its end.
        """
        visit = self._visit()
        number = -1 if visit is None else visit.take_call_number()
        record = self._compose(target, given, visit, number, blocking=blocking)
        recorded = self._recorded(visit, record)
        if recorded is not None:
            return self._attach(recorded)
        node = ProcessNode(record.pid, self._parts.source, record)
        unit = Unit(fence=None if visit is None else visit.fence, create=(record,))
        if record.key is not None or not blocking:
            held = self._held(visit, self._commit(unit, visit))
            self._parts.faults.hit(FaultPoint.CALL_RECORDED if visit else FaultPoint.SUBMIT_POSTED)
            if held.attached is not None:
                return self._attach(held.attached)
            return node, self.end_of(node)
        return node, self._post_and_expect(visit, record, unit)

    async def start_async(self, target: Any, given: Mapping[str, Any]) -> tuple[ProcessNode, End]:
        """:meth:`start` for a caller on a loop: validated here and now, and posted."""
        visit = self._visit()
        number = -1 if visit is None else visit.take_call_number()
        record = self._compose(target, given, visit, number, blocking=False)
        recorded = self._recorded(visit, record)
        if recorded is not None:
            return self._attach(recorded)
        node = ProcessNode(record.pid, self._parts.source, record)
        unit = Unit(fence=None if visit is None else visit.fence, create=(record,))
        if record.key is not None:
            held = self._held(visit, await wait_on_loop(self._parts.store.commit(unit)))
            if held.attached is not None:
                return self._attach(held.attached)
            return node, self.end_of(node)
        return node, self._post_and_expect(visit, record, unit)

    def _post_and_expect(self, visit: Visit | None, record: ProcessRecord, unit: Unit) -> End:
        """Post a new process; an answer that it exists would only wake the caller once more."""
        pid, terminations = record.pid, self._parts.terminations
        ended = terminations.expect(pid)

        def written(verdict: Any) -> None:
            if isinstance(verdict, Failure):
                terminations.fail(pid, verdict.error)
            elif isinstance(verdict, Lost) and visit is not None:
                terminations.fail(pid, _lost(visit.pid, verdict))

        try:
            self._parts.store.post(unit, written)
        except BaseException:
            terminations.forget(pid, ended)
            raise
        self._parts.faults.hit(FaultPoint.CALL_RECORDED if visit else FaultPoint.SUBMIT_POSTED)
        return ended

    def _visit(self) -> Visit | None:
        visit = current_visit()
        if visit is None or visit.host is not self._host:
            return None
        visit.check()
        return visit

    def _commit(self, unit: Unit, visit: Visit | None) -> Verdict:
        return self._patiently(
            visit, lambda: wait(self._parts.store.commit(unit), what='run()', instead=_RUN_INSTEAD)
        )

    def _patiently(self, visit: Visit | None, attempt: Callable[[], T]) -> T:
        """Inside a process a store that cannot write is waited for, since that is no verdict on the process.

        Plain code gets the error; nothing of the attempt counts then.
        """
        pause = RETRY_FIRST
        while True:
            try:
                return attempt()
            except StoreError as error:
                if visit is None:
                    raise
                LOGGER.error('process %d: a call in its step waits for the store: %s', visit.pid, error)
                self._pause(visit, pause, error)
            pause = min(2 * pause, RETRY_MOST)

    def _pause(self, visit: Visit, seconds: float, error: StoreError) -> None:
        never: Future[None] = Future()
        with visit.blocking_on(never), self._parts.steps.blocked(), contextlib.suppress(TimeoutError):
            try:
                wait(never, seconds, what='run()', instead=_RUN_INSTEAD)
            except WrongThread:  # a coroutine step must not hold its loop
                raise error from None

    def _held(self, visit: Visit | None, verdict: Verdict) -> Held:
        if isinstance(verdict, Held):
            return verdict
        if visit is None:
            raise RuntimeError('a unit without a fence was refused')
        raise _lost(visit.pid, verdict)

    def _recorded(self, visit: Visit | None, record: ProcessRecord) -> ProcessRecord | None:
        """What an earlier execution of this step recorded for the same call."""
        if visit is None or not visit.replayed or record.call_number is None:
            return None
        recorded = self._parts.source.reader.call(visit.pid, visit.number, record.call_number)
        if recorded is None or recorded.fingerprint == record.fingerprint:
            return recorded
        raise ReplayMismatch(
            f'process {visit.pid} is replayed, and call number {record.call_number} of its step does not match the '
            f'one on record: it was {recorded.class_name} with inputs {recorded.inputs}, and is now '
            f'{record.class_name} with inputs {record.inputs}. A step must make the same calls in the same order; '
            f'restore the code it began with'
        )

    def _attach(self, record: ProcessRecord) -> tuple[ProcessNode, End]:
        node = ProcessNode(record.pid, self._parts.source, record)
        return node, self.end_of(node)

    # -- waiting -------------------------------------------------------------------------------------------

    def end_of(self, node: ProcessNode) -> End:
        """A future of the node's end; done already when it has ended."""
        ended = self._parts.terminations.expect(node.pid)
        if node.is_terminated:
            self._parts.terminations.ended([node.pid])
        elif (reason := self._parts.why_parked(node.pid)) is not None:
            self._parts.terminations.fail(node.pid, ProcessParked(f'process {node.pid} is parked: {reason}'))
        return ended

    def wait_for(self, node: ProcessNode, ended: End, timeout: float | None, what: str, instead: str) -> None:
        """Block until the process has ended; a step gives its permit back meanwhile.

        :raises TimeoutError: it has not ended in time.
        """
        visit = self._visit()
        self.refuse_unborn(node, what)
        try:
            if visit is None:
                wait(ended, timeout, what=what, instead=instead)
            else:
                try:
                    with visit.blocking_on(ended), self._parts.steps.blocked():
                        wait(ended, timeout, what=what, instead=instead)
                except StoreError as error:
                    LOGGER.error('process %d: the child that it called could not be written: %s', visit.pid, error)
                    self._start_again(visit, node)
                    return
            node._use(ended.result())
        finally:
            if ended.done():
                self._parts.faults.hit(FaultPoint.CALL_RETURNED)

    def _start_again(self, visit: Visit, node: ProcessNode) -> None:
        """Write a child whose creation was posted and which the store could not take then, and wait for it."""
        self._held(visit, self._commit(Unit(fence=visit.fence, create=(node._fixed(),)), visit))
        ended = self.end_of(node)
        try:
            with visit.blocking_on(ended), self._parts.steps.blocked():
                wait(ended, what='run()', instead=_RUN_INSTEAD)
            node._use(ended.result())
        finally:
            self._parts.terminations.forget(node.pid, ended)

    def refuse_unborn(self, node: ProcessNode, what: str) -> None:
        """A step must not wait for what begins when the step has ended.

        :raises RuntimeError: it would.
        """
        visit = self._visit()
        if visit is not None and any(record.pid == node.pid for record in visit.children):
            raise RuntimeError(
                f'{what} would wait for ever: process {node.pid} begins when the step that submitted it has ended; '
                f'return ToContext(name=node) to have it in the next step, or use run()'
            )

    def outcome(self, node: ProcessNode) -> dict[str, Any]:
        """The outputs of an ended process, or what it raised.

        :raises KilledError: it was killed.
        :raises Exception: what the process raised; the same object in the OS process where it was raised.
        """
        record = node._row()
        if record.state == ProcessState.EXCEPTED:
            raised = self._parts.terminations.exception(node.pid)
            raise raised if raised is not None else load_exception(record.exception or '{}')
        if record.state == ProcessState.KILLED:
            raise KilledError(f'process {node.pid} ({record.process_label}) was killed: {record.exit_message}')
        return {} if record.outputs is None else dict(self._parts.source.codec.decode(record.outputs))

    def returned(self, node: ProcessNode) -> Any:
        """What an ended process function had returned, or what it raised."""
        outputs = self.outcome(node)
        return as_returned(outputs if node._row().outputs is not None else None)

    # -- process functions -----------------------------------------------------------------------------------

    def call_function(
        self, function: ProcessFunction[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ProcessNode]:
        """Run a process function in the calling thread; only its records are posted.

        :returns: what the function returned (on a replay or an attached key: what it had returned), see
            :func:`~.processes.functions.calcfunction`, and its node.
        """
        given = function.bind(tuple(args), kwargs)
        visit = self._visit()
        number = -1 if visit is None else visit.take_call_number()
        composed = self._compose(function, given, visit, number, blocking=True)
        recorded = self._recorded(visit, composed)
        if recorded is None:
            record = msgspec.structs.replace(
                composed,
                driven=0 if visit is None else 1,
                state=ProcessState.RUNNING,
                owner=self._engine_id,
                epoch=1,
            )
            unit = Unit(fence=None if visit is None else visit.fence, create=(record,))
            # Before the commit: whoever kills it from then on finds the visit to be told.
            inner = self._visit_of(record)
            self._parts.dispatcher.begin_visit(inner)
            try:
                held = self._held(visit, self._commit(unit, visit))
            except BaseException as error:
                self._parts.dispatcher.left(*inner.claim)
                if isinstance(error, KeyboardInterrupt):
                    self.interrupted(record.pid)
                raise
            self._parts.faults.hit(FaultPoint.CALL_RECORDED)
            if held.attached is None:
                return self._drive(function, record, inner)
            self._parts.dispatcher.left(*inner.claim)
            recorded = held.attached
        elif recorded.state not in TERMINAL_STATES:
            pid = recorded.pid
            claimed = self._patiently(
                visit, lambda: self._parts.store.call(lambda transaction: transaction.claim_driven(pid)).result()
            )
            if claimed is not None:
                return self._drive(function, claimed, self._visit_of(claimed))
        node, ended = self._attach(recorded)
        try:
            self.wait_for(node, ended, None, f'{function.__name__}()', 'await asyncio.to_thread(...)')
            return self.returned(node), node
        finally:
            self._parts.terminations.forget(node.pid, ended)

    def _visit_of(self, record: ProcessRecord) -> Visit:
        return Visit(
            host=self._host,
            fence=Fence(record.pid, record.epoch, record.version),
            number=record.visit,
            origin=record.origin,
            nesting=record.nesting,
            replayed=record.epoch > 1,
        )

    def _drive(
        self, function: ProcessFunction[..., Any], record: ProcessRecord, visit: Visit
    ) -> tuple[Any, ProcessNode]:
        """Run a claimed function here, as a visit of its own inside the caller's."""
        codec, pid = self._parts.source.codec, record.pid
        node = ProcessNode(pid, self._parts.source, record)
        process_class = process_class_of(function)
        process = process_class(node=node, inputs=codec.decode(record.inputs), outputs={})
        if not isinstance(process, FunctionProcess):
            raise TypeError(f'{function!r} is no process function')
        process._visit = visit
        try:
            try:
                if not self._parts.dispatcher.begin_visit(visit) or self._was_killed(record):
                    raise StepAborted(f'process {pid} must not begin')
                return self._drive_visit(process, visit), node
            finally:
                self._parts.dispatcher.left(*visit.claim)
        except KeyboardInterrupt:
            self.interrupted(pid)
            raise
        except StepAborted as abort:
            # The caller may go on without it, or be parked: whoever replays the caller must be able to take it.
            with contextlib.suppress(EngineStopped):  # the engine's own end releases all that it owns
                self._parts.store.call(lambda transaction: transaction.release(visit.fence))
            raise self._as_seen_outside(pid, abort) from abort

    def _was_killed(self, record: ProcessRecord) -> bool:
        """Whether a function that was claimed anew was killed before its visit could be told."""
        if record.epoch == 1:
            return False
        return self._parts.source.reader.process(record.pid).state == ProcessState.KILLED

    def _as_seen_outside(self, pid: int, abort: StepAborted) -> BaseException:
        """What the caller of a function is told whose result does not count: an abort unwinds only what is aborted."""
        caller = current_visit()
        if caller is not None and caller.aborted is not None:
            return abort
        record = self._parts.source.reader.process(pid)
        if record.state == ProcessState.KILLED:
            return KilledError(f'process {pid} ({record.process_label}) was killed: {record.exit_message}')
        if caller is None and self._parts.dispatcher.is_closed:
            return EngineStopped(
                f'the engine stopped before process {pid} ({record.process_label}) ended; it stays runnable in the '
                f'store and goes on when an engine claims it'
            )
        return abort

    def _drive_visit(self, process: FunctionProcess, visit: Visit) -> Any:
        try:
            with entered(visit):
                returned = contextvars.copy_context().run(process.call)
                exit_code = returned if isinstance(returned, ExitCode) else ExitCode()
                if not isinstance(returned, ExitCode):
                    process.out_many(as_outputs(returned))
            self._parts.faults.hit(FaultPoint.FUNCTION_RETURNED)
            # Without a row's outputs a replay returns None, as the function did.
            values = None if returned is None else process._outputs
            outputs = None if values is None else self._encoded(visit, values)
        except (StepAborted, KeyboardInterrupt):
            raise
        except BaseException as error:
            if visit.is_dead:
                visit.check()
            self._end(visit, Advance(ProcessState.EXCEPTED, visit.number + 1, exception=dump_exception(error)))
            raise
        if visit.is_dead:
            visit.check()
        self._end(
            visit,
            Advance(
                ProcessState.FINISHED,
                visit.number + 1,
                outputs=outputs,
                exit_status=exit_code.status,
                exit_message=exit_code.message,
            ),
        )
        return as_returned(values)

    def _encoded(self, visit: Visit, values: Mapping[str, Any]) -> str:
        return self._patiently(visit, lambda: self._parts.source.codec.encode(values, 'outputs'))

    def _end(self, visit: Visit, advance: Advance) -> None:
        unit = Unit(
            fence=visit.fence,
            advance=advance,
            create=tuple(visit.children) if advance.state == ProcessState.FINISHED else (),
            log=tuple(visit.log),
            kept_calls=frozenset(visit.asked) if visit.replayed else None,
        )
        verdict = self._commit(unit, visit)
        if isinstance(verdict, Lost):
            raise _lost(visit.pid, verdict)
        self._parts.faults.hit(FaultPoint.ENDED)

    # -- intents -----------------------------------------------------------------------------------------------

    def kill(self, pids: Sequence[int], message: str) -> Future[list[int]]:
        """Kill processes with all their descendants; the future resolves when it is durable."""
        return self._parts.store.call(lambda transaction: transaction.kill(pids, message))

    def interrupted(self, pid: int) -> None:
        """After Ctrl-C: kill the process durably, then let what its steps have started come to an end.

        A second Ctrl-C comes out at once. Whatever else goes wrong is logged: the caller raises its KeyboardInterrupt.
        """
        try:
            killed = wait(self.kill([pid], 'interrupted (Ctrl-C)'), what='run()', instead=_RUN_INSTEAD)
            late = self._parts.aborts.wait(killed, UNWINDING_PATIENCE)
        except KeyboardInterrupt:
            self.in_haste = True
            raise
        except (EngineStopped, StoreError) as error:
            LOGGER.warning('process %d could not be killed after Ctrl-C: %s', pid, error)
            return
        for each in late:
            LOGGER.warning(
                'process %d is killed, but what its step has started did not end within %g s', each, UNWINDING_PATIENCE
            )


def _lost(pid: int, verdict: Lost) -> StepAborted:
    if verdict.state == ProcessState.KILLED:
        return StepAborted(f'process {pid} was killed: {verdict.message}')
    return LeaseLost(f"process {pid} is no longer this engine's (it is {verdict.state}); its step counts for nothing")


def remaining(deadline: float | None) -> float | None:
    """The seconds left until ``deadline`` on the monotonic clock, at least 0; ``None`` for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
