"""Process functions that are called: they run in the calling thread, and only their records are posted.

Such a call is a process with one visit, inside the caller's. Its row is committed as running, and owned by this engine,
before the function begins; the end is committed before the call returns.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .errors import EngineStopped, KilledError, LeaseLost, ProcessParked, StepAborted
from .exit_code import ExitCode, check_status
from .faults import FaultPoint
from .intents import Intents
from .node import ProcessNode
from .parts import EngineParts, keep_log_of_killed
from .patience import Patience
from .processes.functions import (
    FunctionProcess,
    ProcessFunction,
    as_outputs,
    as_returned,
)
from .processes.visit import Host, Visit, current_visit, entered, visit_of
from .starts import Starts
from .states import TERMINAL_STATES, ProcessState
from .store.records import Fence, ProcessRecord, Unit
from .units import creation, held, unit_of_error, unit_of_function
from .waits import Waits

__all__ = ['FunctionCalls']


class FunctionCalls:
    """Runs process functions for whoever calls them.

    :param host: the engine as its steps see it.
    """

    def __init__(
        self,
        *,
        parts: EngineParts,
        host: Host,
        patience: Patience,
        starts: Starts,
        waits: Waits,
        intents: Intents,
    ) -> None:
        self._parts = parts
        self._host = host
        self._patience = patience
        self._starts = starts
        self._waits = waits
        self._intents = intents

    def call(
        self, function: ProcessFunction[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ProcessNode]:
        """Run a process function in the calling thread; only its records are posted.

        :returns: what the function returned (on a replay or an attached key: what it had returned), see
            :func:`~.processes.functions.calcfunction`, and its node.
        """
        given = function.bind(tuple(args), kwargs)
        visit = visit_of(self._host)
        number = -1 if visit is None else visit.take_call_number()
        composed = self._starts.compose(function, given, visit, number, blocking=True)
        recorded = self._starts.recorded(visit, composed)
        if recorded is None:
            record = self._as_running(composed, visit)
            inner = self._visit_of(record, visit)
            attached = self._put_on_record(record, inner, visit)
            if attached is None:
                return self._drive(function, record, inner)
            recorded = attached
        elif recorded.state not in TERMINAL_STATES:
            pid = recorded.pid
            claimed = self._patience.insist(
                visit, lambda: self._parts.store.call(lambda transaction: transaction.claim_driven(pid)).result()
            )
            if claimed is not None:
                return self._drive(function, claimed, self._visit_of(claimed, visit))
        node, ended = self._waits.attach(recorded)
        try:
            self._waits.wait_for(node, ended, None, f'{function.__name__}()', 'await asyncio.to_thread(...)')
            return self._waits.returned(node), node
        finally:
            self._waits.forget(node, ended)

    def _as_running(self, record: ProcessRecord, caller: Visit | None) -> ProcessRecord:
        return msgspec.structs.replace(
            record,
            driven=0 if caller is None else 1,
            state=ProcessState.RUNNING,
            owner=self._parts.engine_id,
            epoch=1,
        )

    def _put_on_record(self, record: ProcessRecord, inner: Visit, caller: Visit | None) -> ProcessRecord | None:
        """Commit the call; returns the process that holds its key, if there is one."""
        # Before the commit: whoever kills it from then on finds the visit to be told.
        self._parts.dispatcher.begin_visit(inner)
        try:
            verdict = held(caller, self._patience.commit(creation(record, caller), caller))
        except BaseException as error:
            self._parts.dispatcher.left(*inner.claim)
            if isinstance(error, KeyboardInterrupt):
                self._intents.interrupted(record.pid)
            elif inner.is_shut_down_by(error):
                self._give_back(inner)
            raise
        self._parts.faults.hit(FaultPoint.CALL_RECORDED)
        if verdict.attached is not None:
            self._parts.dispatcher.left(*inner.claim)
        return verdict.attached

    def _visit_of(self, record: ProcessRecord, caller: Visit | None) -> Visit:
        return Visit(
            host=self._host,
            fence=Fence(record.pid, record.epoch, record.version),
            number=record.visit,
            origin=record.origin,
            nesting=record.nesting,
            replayed=record.epoch > 1,
            is_direct=caller is None or caller.is_direct,
        )

    def _drive(
        self, function: ProcessFunction[..., Any], record: ProcessRecord, visit: Visit
    ) -> tuple[Any, ProcessNode]:
        """Run a claimed function here, as a visit of its own inside the caller's."""
        pid, node = record.pid, ProcessNode(record.pid, self._parts.source, record)
        try:
            try:
                if not self._parts.dispatcher.begin_visit(visit) or self._was_killed(record):
                    raise visit.aborted or StepAborted(f'process {pid} must not begin')
                return self._drive_visit(function, node, record.inputs, visit), node
            finally:
                visit.log_is_complete = True
                self._parts.dispatcher.left(*visit.claim)
                self._parts.has_room()
        except KeyboardInterrupt:
            self._intents.interrupted(pid)
            keep_log_of_killed(self._parts, visit)
            raise
        except StepAborted as abort:
            # The caller may go on without it, or be parked: whoever replays the caller must be able to take it.
            self._give_back(visit)
            raise self._as_seen_outside(pid, abort) from abort
        except ProcessParked:  # the fate of what it waited for is still open, and so is its own
            self._give_back(visit)
            raise
        except SystemExit as error:
            if visit.is_shut_down_by(error):
                self._give_back(visit)
            raise

    def _give_back(self, visit: Visit) -> None:
        """The function counts for nothing, and is to be run again, by whoever claims it."""
        keep_log_of_killed(self._parts, visit)
        with contextlib.suppress(EngineStopped):  # the engine's own end releases all that it owns
            self._parts.store.call(lambda transaction: transaction.release(visit.fence))

    def _was_killed(self, record: ProcessRecord) -> bool:
        """Whether a function that was claimed anew was killed before its visit could be told."""
        if record.epoch == 1:
            return False
        reader = self._parts.source.reader
        row = self._patience.insist(current_visit(), lambda: reader.process(record.pid))
        return row.state == ProcessState.KILLED

    def _as_seen_outside(self, pid: int, abort: StepAborted) -> BaseException:
        """What the caller of a function is told whose result does not count: an abort unwinds only what is aborted."""
        caller = current_visit()
        if caller is not None and caller.aborted is not None:
            return abort
        record = self._parts.source.reader.process(pid)
        if record.state == ProcessState.KILLED:
            return KilledError(f'process {pid} ({record.process_label}) was killed: {record.exit_message}')
        if caller is None and isinstance(abort, LeaseLost):
            return EngineStopped(
                f'{abort}. The function was called from plain code, and goes on wherever its row is claimed; wait for '
                f'process {pid} to have its outputs'
            )
        if caller is None and self._parts.dispatcher.is_closed:
            return EngineStopped(
                f'the engine stopped before process {pid} ({record.process_label}) ended; it stays runnable in the '
                f'store and goes on when an engine claims it'
            )
        return abort

    def _load(
        self, function: ProcessFunction[..., Any], node: ProcessNode, inputs: str, visit: Visit
    ) -> FunctionProcess:
        decoded = self._patience.insist(visit, lambda: self._parts.source.codec.decode(inputs))
        process = function.process_class(node=node, inputs=decoded, outputs={})
        process._visit = visit
        return process

    def _drive_visit(
        self, function: ProcessFunction[..., Any], node: ProcessNode, inputs: str, visit: Visit
    ) -> Any:
        try:
            process = self._load(function, node, inputs, visit)
            with entered(visit):
                returned = contextvars.copy_context().run(process.call)
                exit_code = returned if isinstance(returned, ExitCode) else ExitCode()
                check_status(f'{function.__name__}() returned {exit_code!r}', exit_code.status)
                if not isinstance(returned, ExitCode):
                    process.out_many(as_outputs(returned))
            self._parts.faults.hit(FaultPoint.FUNCTION_RETURNED)
            # Without a row's outputs a replay returns None, as the function did.
            values = None if returned is None else process._outputs
            outputs = None if values is None else self._encoded(visit, values)
        except (StepAborted, KeyboardInterrupt, ProcessParked):
            raise
        except BaseException as error:
            if visit.is_shut_down_by(error):
                raise
            if visit.is_unwound_by(error):
                visit.check()
            self._commit(visit, unit_of_error(visit, error))
            raise
        if visit.is_dead:
            visit.check()
        self._commit(visit, unit_of_function(visit, exit_code, outputs))
        return as_returned(values)

    def _encoded(self, visit: Visit, values: Mapping[str, Any]) -> str:
        return self._patience.insist(visit, lambda: self._parts.source.codec.encode(values, 'outputs'))

    def _commit(self, visit: Visit, unit: Unit) -> None:
        held(visit, self._patience.commit(unit, visit))
        self._parts.faults.hit(FaultPoint.ENDED)
