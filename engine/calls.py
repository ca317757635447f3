"""Starting processes and waiting for their ends: from plain code, and from inside steps.

A call from inside a step is put on record before it has any effect, under the step's visit and the call's number. When
the step is replayed after a crash, the recorded outcome is returned, or raised, instead of calling again. So is what a
child did kept, also while the step that asked for it has to be run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

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
from .faults import FaultPoint
from .launch import code_of, compose, resolve
from .node import ProcessNode
from .parts import RETRY_FIRST, RETRY_MOST, EngineParts
from .pids import PidBlocks
from .processes.functions import as_returned
from .processes.visit import Host, Visit, current_visit
from .states import ProcessState
from .store import intents, notes
from .store.records import Held, Lost, ProcessRecord, Unit, Verdict
from .store.store_thread import Failure
from .store.transaction import Transaction
from .terminations import End
from .values import load_exception

__all__ = ['Calls']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

_RUN_INSTEAD = 'await engine.run_async()'

#: Seconds that what a killed step has started gets to end, after Ctrl-C.
UNWINDING_PATIENCE = 5.0


class Calls:
    """What an engine does for callers, in their own threads."""

    def __init__(self, *, parts: EngineParts, host: Host, pids: PidBlocks) -> None:
        self._parts = parts
        self._host = host
        self._pids = pids
        self._kept_code: set[tuple[str | None, str | None]] = set()
        #: Whether a second Ctrl-C came while the first one was being dealt with.
        self.in_haste = False

    # -- starting ------------------------------------------------------------------------------------------

    def compose(
        self, target: Any, given: Mapping[str, Any], visit: Visit | None, number: int, *, blocking: bool
    ) -> ProcessRecord:
        """The record of a new process that this code, or call ``number`` of the visit, starts."""
        if visit is None:
            call, origin, nesting = None, self._parts.engine_id, 0
        else:
            call, origin = (visit.pid, visit.number, number), visit.origin
            nesting = visit.nesting + 1 if blocking else visit.nesting
        record = self.patiently(
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
        if (record.code, record.class_hash) not in self._kept_code:
            self._keep_code((record.code, record.class_hash), target)
        return record

    def _keep_code(self, digests: tuple[str | None, str | None], target: Any) -> None:
        """Once for each class; posted before the process is, so that it is there as soon as the process is."""
        texts = code_of(target)
        self._kept_code.add(digests)

        def written(answer: Any) -> None:
            if isinstance(answer, Failure):  # it only serves to show a difference; the next process tries again
                self._kept_code.discard(digests)

        with contextlib.suppress(EngineStopped):  # as the process itself will be told
            self._parts.store.post(lambda transaction: notes.keep_code(transaction, texts), written)

    def submit_child(
        self, visit: Visit, target: Any, inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
    ) -> ProcessNode:
        """Make a child part of the visit's unit; one with a key must be looked up at once, so it commits early."""
        target, given = resolve(target, inputs, kwargs)
        if 'key' in (given.get('metadata') or {}):
            return self.submit(target, given)
        if visit.is_dead:
            visit.check()
        record = self.compose(target, given, visit, visit.take_call_number(), blocking=False)
        recorded = self.recorded(visit, record)
        if recorded is not None:  # the step made this call with run() before, whose children are there at once
            return ProcessNode(recorded.pid, self._parts.source, recorded)
        visit.children.append(record)
        return ProcessNode(record.pid, self._parts.source, record)

    def submit(self, target: Any, given: Mapping[str, Any]) -> ProcessNode:
        """Commit a new process, or find the one that is there under the same key or call number."""
        visit = self.visit_here()
        record = self.compose(target, given, visit, _number(visit), blocking=False)
        recorded = self.recorded(visit, record)
        if recorded is None:
            recorded = self._create(visit, record)
        return ProcessNode(recorded.pid, self._parts.source, recorded)

    def start(self, target: Any, given: Mapping[str, Any]) -> tuple[ProcessNode, End]:
        """Post a new process that the calling thread is about to wait for, or attach to the one that is there.

        :returns: its node, and the future of its end. After Ctrl-C in here the process is killed.
        """
        visit = self.visit_here()
        record = self.compose(target, given, visit, _number(visit), blocking=True)
        recorded = self.recorded(visit, record)
        if recorded is not None:
            return self.attach(recorded)
        try:
            # A step keeps its permit until the child is there to take it: else, while a commit takes long, one parent
            # after the other would begin and block.
            if record.key is not None or visit is not None:
                with self._parts.terminations.interest(record.pid):  # it may end before we are told that it exists
                    return self.attach(self._create(visit, record))
            return ProcessNode(record.pid, self._parts.source, record), self._post_and_expect(visit, record)
        except KeyboardInterrupt:
            self.interrupted(record.pid)
            raise

    async def start_async(self, target: Any, given: Mapping[str, Any]) -> tuple[ProcessNode, End]:
        """:meth:`start` for a caller on a loop: validated here and now, and posted."""
        visit = self.visit_here()
        number = _number(visit)
        return await self._patiently_async(visit, lambda: self._try_start_async(visit, number, target, given))

    async def _try_start_async(
        self, visit: Visit | None, number: int, target: Any, given: Mapping[str, Any]
    ) -> tuple[ProcessNode, End]:
        record = self.compose(target, given, visit, number, blocking=False)
        recorded = self.recorded(visit, record)
        if recorded is not None:
            return self.attach(recorded)
        if record.key is not None:
            with self._parts.terminations.interest(record.pid):
                held = self.held(visit, await wait_on_loop(self._parts.store.commit(_creation(visit, record))))
                return self.attach(record if held.attached is None else held.attached)
        return ProcessNode(record.pid, self._parts.source, record), self._post_and_expect(visit, record)

    def _create(self, visit: Visit | None, record: ProcessRecord) -> ProcessRecord:
        """Commit a new process; returns it, or the one that holds its key."""
        held = self.held(visit, self.commit(_creation(visit, record), visit))
        self._parts.faults.hit(FaultPoint.CALL_RECORDED if visit else FaultPoint.SUBMIT_POSTED)
        return record if held.attached is None else held.attached

    def _post_and_expect(self, visit: Visit | None, record: ProcessRecord) -> End:
        """Post a new process; an answer that it exists would only wake the caller once more."""
        pid, terminations = record.pid, self._parts.terminations
        ended = terminations.expect(pid)

        def written(verdict: Any) -> None:
            if isinstance(verdict, Failure):
                terminations.fail(pid, verdict.error)
            elif isinstance(verdict, Lost) and visit is not None:
                terminations.fail(pid, lost(visit.pid, verdict))

        try:
            self._parts.store.post(_creation(visit, record), written)
        except BaseException:
            terminations.forget(pid, ended)
            raise
        self._parts.faults.hit(FaultPoint.CALL_RECORDED if visit else FaultPoint.SUBMIT_POSTED)
        return ended

    def visit_here(self) -> Visit | None:
        """The visit that the calling code belongs to, if it is one of this engine's; raises what unwinds it."""
        visit = current_visit()
        if visit is None or visit.host is not self._host:
            return None
        visit.check()
        return visit

    def commit(self, unit: Unit, visit: Visit | None) -> Verdict:
        """Write a unit and wait until it is durable."""
        return self.patiently(
            visit, lambda: wait(self._parts.store.commit(unit), what='run()', instead=_RUN_INSTEAD)
        )

    def patiently(self, visit: Visit | None, attempt: Callable[[], T]) -> T:
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

    async def _patiently_async(self, visit: Visit | None, attempt: Callable[[], Awaitable[T]]) -> T:
        """:meth:`patiently` for a step that is a coroutine, which must not hold its loop."""
        pause = RETRY_FIRST
        while True:
            try:
                return await attempt()
            except StoreError as error:
                if visit is None:
                    raise
                LOGGER.error('process %d: a call in its step waits for the store: %s', visit.pid, error)
            never: Future[None] = Future()
            with visit.blocking_on(never), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wait_on_loop(never)
            pause = min(2 * pause, RETRY_MOST)

    def held(self, visit: Visit | None, verdict: Verdict) -> Held:
        """The verdict on a unit of this visit's, unless the visit has lost its process."""
        if isinstance(verdict, Held):
            return verdict
        if visit is None:
            raise RuntimeError('a unit without a fence was refused')
        raise lost(visit.pid, verdict)

    def recorded(self, visit: Visit | None, record: ProcessRecord) -> ProcessRecord | None:
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

    def attach(self, record: ProcessRecord) -> tuple[ProcessNode, End]:
        """The node of a process that is there already, and the future of its end."""
        node = ProcessNode(record.pid, self._parts.source, record)
        return node, self.end_of(node)

    # -- waiting -------------------------------------------------------------------------------------------

    def end_of(self, node: ProcessNode) -> End:
        """A future of the node's end; done already when it has ended."""
        terminations = self._parts.terminations
        ended = terminations.expect(node.pid)
        try:
            has_ended = node.is_terminated
        except BaseException:
            terminations.forget(node.pid, ended)
            raise
        if has_ended:
            terminations.ended([node.pid])
        elif (reason := self._parts.why_parked(node.pid)) is not None:
            terminations.fail(node.pid, ProcessParked(f'process {node.pid} is parked: {reason}'))
        return ended

    def wait_for(self, node: ProcessNode, ended: End, timeout: float | None, what: str, instead: str) -> None:
        """Block until the process has ended; a step gives its permit back meanwhile.

        :raises TimeoutError: it has not ended in time.
        """
        visit = self.visit_here()
        self.refuse_unborn(node, what)
        try:
            if visit is None:
                wait(ended, timeout, what=what, instead=instead)
            else:
                with visit.blocking_on(ended), self._parts.steps.blocked():
                    wait(ended, timeout, what=what, instead=instead)
                if not self._parts.membership.lease.is_valid:
                    self._confirm(visit)
            node._use(ended.result())
        finally:
            if ended.done():
                self._parts.faults.hit(FaultPoint.CALL_RETURNED)

    def _confirm(self, visit: Visit) -> None:
        """A step that was blocked past the lease goes on only when the database has said that it may."""
        confirm = self._parts.membership.confirm
        self.patiently(visit, lambda: wait(confirm(), what='run()', instead=_RUN_INSTEAD))
        visit.check()

    async def wait_for_async(self, node: ProcessNode, ended: End) -> None:
        """:meth:`wait_for`, on a loop."""
        visit = self.visit_here()
        if visit is None:
            node._use(await wait_on_loop(ended))
            return
        try:
            with visit.blocking_on(ended):
                final = await wait_on_loop(ended)
            if not self._parts.membership.lease.is_valid:
                await self._patiently_async(visit, lambda: wait_on_loop(self._parts.membership.confirm()))
                visit.check()
            node._use(final)
        except StoreError:
            unit = Unit(fence=visit.fence, create=(node._fixed(),))
            commit = self._parts.store.commit
            self.held(visit, await self._patiently_async(visit, lambda: wait_on_loop(commit(unit))))
            again = self.end_of(node)
            try:
                with visit.blocking_on(again):
                    node._use(await wait_on_loop(again))
            finally:
                self._parts.terminations.forget(node.pid, again)

    def refuse_unborn(self, node: ProcessNode, what: str) -> None:
        """A step must not wait for what begins when the step has ended.

        :raises RuntimeError: it would.
        """
        visit = self.visit_here()
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

    # -- intents -----------------------------------------------------------------------------------------------

    def kill(self, pids: Sequence[int], message: str) -> Future[list[int]]:
        """Kill processes with all their descendants; the future resolves when it is durable."""
        return self._intend(lambda transaction: intents.kill(transaction, pids, message))

    def pause(self, pids: Sequence[int], message: str | None) -> Future[list[int]]:
        """Pause processes with all their descendants; the future resolves when it is durable."""
        return self._intend(lambda transaction: intents.pause(transaction, pids, message))

    def play(self, pids: Sequence[int]) -> Future[list[int]]:
        """Let processes go on; the future resolves when it is durable."""
        return self._intend(lambda transaction: intents.play(transaction, pids))

    def _intend(self, operation: Callable[[Transaction], list[int]]) -> Future[list[int]]:
        faults = self._parts.faults
        written = self._parts.store.call(operation)
        faults.hit(FaultPoint.INTENT_POSTED)
        written.add_done_callback(lambda done: faults.hit(FaultPoint.INTENT_WRITTEN))
        return written

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


def _number(visit: Visit | None) -> int:
    """The number of the call that is about to be made; plain code's calls have none."""
    return -1 if visit is None else visit.take_call_number()


def _creation(visit: Visit | None, record: ProcessRecord) -> Unit:
    return Unit(fence=None if visit is None else visit.fence, create=(record,))


def lost(pid: int, verdict: Lost) -> StepAborted:
    """What unwinds a step whose row has moved on."""
    if verdict.state == ProcessState.KILLED:
        return StepAborted(f'process {pid} was killed: {verdict.message}')
    return LeaseLost(f"process {pid} is no longer this engine's (it is {verdict.state}); its step counts for nothing")


def remaining(deadline: float | None) -> float | None:
    """The seconds left until ``deadline`` on the monotonic clock, at least 0; ``None`` for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
