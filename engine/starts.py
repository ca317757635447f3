"""Starting processes: from plain code, and from inside steps.

A call from inside a step is put on record before it has any effect, under the step's visit and the call's number. When
the step is replayed after a crash, the recorded outcome is returned, or raised, instead of calling again. So is what a
child did kept, also while the step that asked for it has to be run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..threads import wait_on_loop
from .errors import EngineStopped, ReplayMismatch
from .faults import FaultPoint
from .intents import Intents
from .launch import code_of, compose, resolve
from .node import ProcessNode
from .parts import EngineParts
from .patience import Patience
from .pids import PidBlocks
from .processes.visit import Host, Visit, visit_of
from .store.notes import keep_code
from .store.records import Lost, ProcessRecord
from .store.store_thread import Failure
from .store.tasks import create_once
from .terminations import End
from .units import creation, held, lost
from .waits import Waits

__all__ = ['Starts']


class Starts:
    """Makes processes in the thread of whoever calls, and posts them.

    :param host: the engine as its steps see it, so that they are known.
    """

    def __init__(
        self, *, parts: EngineParts, host: Host, pids: PidBlocks, patience: Patience, waits: Waits, intents: Intents
    ) -> None:
        self._parts = parts
        self._host = host
        self._pids = pids
        self._patience = patience
        self._waits = waits
        self._intents = intents
        self._kept_code: set[tuple[str | None, str | None]] = set()

    # -- the record ----------------------------------------------------------------------------------------

    def compose(
        self, target: Any, given: Mapping[str, Any], visit: Visit | None, number: int, *, blocking: bool
    ) -> ProcessRecord:
        """The record of a new process that this code, or call ``number`` of the visit, starts."""
        if visit is None:
            call, origin, nesting = None, self._parts.engine_id, 0
        else:
            call, origin = (visit.pid, visit.number, number), visit.origin
            nesting = visit.nesting + 1 if blocking else visit.nesting
        record = self._patience.insist(
            visit,
            lambda: compose(
                target,
                given,
                codec=self._parts.source.codec,
                reader=None if visit is not None and visit.replayed else self._parts.source.reader,
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
            self._parts.store.post(lambda transaction: keep_code(transaction, texts), written)

    def recorded(self, visit: Visit | None, record: ProcessRecord) -> ProcessRecord | None:
        """What an earlier execution of this step recorded for the same call.

        :raises ReplayMismatch: it was another call.
        """
        if visit is None or not visit.replayed or record.call_number is None:
            return None
        number = record.call_number
        recorded = self._patience.insist(
            visit, lambda: self._parts.source.reader.call(visit.pid, visit.number, number)
        )
        if recorded is None or recorded.fingerprint == record.fingerprint:
            return recorded
        raise ReplayMismatch(
            f'process {visit.pid} is replayed, and call number {record.call_number} of its step does not match the '
            f'one on record: it was {recorded.class_name} with inputs {recorded.inputs}, and is now '
            f'{record.class_name} with inputs {record.inputs}. A step must make the same calls in the same order; '
            f'restore the code it began with'
        )

    # -- starting ------------------------------------------------------------------------------------------

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
        visit = visit_of(self._host)
        record = self.compose(target, given, visit, _number(visit), blocking=False)
        recorded = self.recorded(visit, record)
        if recorded is None:
            recorded = self._create(visit, record)
        return ProcessNode(recorded.pid, self._parts.source, recorded)

    def submit_once(self, target: Any, given: Mapping[str, Any], correlation_id: str) -> tuple[int, bool]:
        """Commit the process that a task asks for, unless the task has led to one before.

        :param correlation_id: what the task is known by.
        :returns: the pid, and whether it was there for that task.
        :raises StoreError: the store does not take it.
        """
        record = self.compose(target, given, None, -1, blocking=False)
        unit = creation(record, None)
        created = self._parts.store.call(lambda transaction: create_once(transaction, correlation_id, unit))
        self._parts.faults.hit(FaultPoint.SUBMIT_POSTED)
        return created.result()

    def start(self, target: Any, given: Mapping[str, Any]) -> tuple[ProcessNode, End]:
        """Post a new process that the calling thread is about to wait for, or attach to the one that is there.

        :returns: its node, and the future of its end. After Ctrl-C in here the process is killed.
        """
        visit = visit_of(self._host)
        record = self.compose(target, given, visit, _number(visit), blocking=True)
        recorded = self.recorded(visit, record)
        if recorded is not None:
            return self._waits.attach(recorded)
        try:
            # A step keeps its permit until the child is there to take it: else, while a commit takes long, one parent
            # after the other would begin and block.
            if record.key is not None or visit is not None:
                with self._parts.terminations.interest(record.pid):  # it may end before we are told that it exists
                    return self._waits.attach(self._create(visit, record))
            return ProcessNode(record.pid, self._parts.source, record), self._post_and_expect(visit, record)
        except KeyboardInterrupt:
            self._intents.interrupted(record.pid)
            raise

    async def start_async(self, target: Any, given: Mapping[str, Any]) -> tuple[ProcessNode, End]:
        """:meth:`start` for a caller on a loop: validated here and now, and posted."""
        visit = visit_of(self._host)
        number = _number(visit)
        return await self._patience.insist_async(visit, lambda: self._try_start_async(visit, number, target, given))

    async def _try_start_async(
        self, visit: Visit | None, number: int, target: Any, given: Mapping[str, Any]
    ) -> tuple[ProcessNode, End]:
        record = self.compose(target, given, visit, number, blocking=False)
        recorded = self.recorded(visit, record)
        if recorded is not None:
            return self._waits.attach(recorded)
        if record.key is not None:
            with self._parts.terminations.interest(record.pid):
                verdict = held(visit, await wait_on_loop(self._parts.store.commit(creation(record, visit))))
                return self._waits.attach(record if verdict.attached is None else verdict.attached)
        return ProcessNode(record.pid, self._parts.source, record), self._post_and_expect(visit, record)

    def _create(self, visit: Visit | None, record: ProcessRecord) -> ProcessRecord:
        """Commit a new process; returns it, or the one that holds its key."""
        verdict = held(visit, self._patience.commit(creation(record, visit), visit))
        self._parts.faults.hit(FaultPoint.CALL_RECORDED if visit else FaultPoint.SUBMIT_POSTED)
        return record if verdict.attached is None else verdict.attached

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
            self._parts.store.post(creation(record, visit), written)
        except BaseException:
            terminations.forget(pid, ended)
            raise
        self._parts.faults.hit(FaultPoint.CALL_RECORDED if visit else FaultPoint.SUBMIT_POSTED)
        return ended


def _number(visit: Visit | None) -> int:
    """The number of the call that is about to be made; plain code's calls have none."""
    return -1 if visit is None else visit.take_call_number()
