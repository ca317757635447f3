"""Waiting for the ends of processes, and what they have ended with: from plain code, and from inside steps."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..threads import wait, wait_on_loop
from .deadlines import remaining
from .errors import KilledError, ProcessParked, StoreError
from .faults import FaultPoint
from .futures import HostFuture
from .node import ProcessNode
from .parts import EngineParts
from .patience import RUN_INSTEAD, Patience
from .processes.functions import ProcessFunction, as_returned
from .processes.visit import Host, Visit, current_visit, visit_of
from .states import ProcessState
from .store.records import ProcessRecord, Unit
from .terminations import End
from .units import held
from .values import load_exception

__all__ = ['Waits']

T = TypeVar('T')


class Waits:
    """Waits in the thread, or on the loop, of whoever calls.

    :param host: the engine as its steps see it, so that they are known.
    """

    def __init__(self, *, parts: EngineParts, host: Host, patience: Patience) -> None:
        self._parts = parts
        self._host = host
        self._patience = patience

    def nodes_of(self, process: Any) -> list[ProcessNode]:
        """The nodes of a pid, a node, or an iterable of them.

        :raises ProcessNotFound: there is no such process.
        """
        if isinstance(process, (int, ProcessNode)):
            process = [process]
        node = self._parts.source.node
        return [
            each if isinstance(each, ProcessNode) else self._read(functools.partial(node, each)) for each in process
        ]

    # -- ends ----------------------------------------------------------------------------------------------

    def end_of(self, node: ProcessNode) -> End:
        """A future of the node's end; done already when it has ended.

        It resolves on a thread that must not be blocked. Ends that this engine commits are told right away; those that
        others commit are found by the one search that the engine makes for all that is awaited, as soon as it sees the
        commit and every five seconds in any case. Whoever wants it no more says so by :meth:`forget`.
        """
        terminations = self._parts.terminations
        ended = terminations.expect(node.pid)
        try:
            has_ended = self._read(lambda: node.is_terminated)
        except BaseException:
            terminations.forget(node.pid, ended)
            raise
        self.tell_known(node.pid, has_ended)
        return ended

    async def _end_of_async(self, node: ProcessNode) -> End:
        return await self._read_async(lambda: self.end_of(node))

    def tell_known(self, pid: int, has_ended: bool) -> None:
        """Tell whoever waits for a process what was known before: that it ended, or is parked."""
        if has_ended:
            self._parts.terminations.ended([pid])
        elif (reason := self._parts.why_parked(pid)) is not None:
            self._parts.terminations.fail(pid, ProcessParked(f'process {pid} is parked: {reason}'))

    def _read(self, attempt: Callable[[], T]) -> T:
        """What is read from the store, which a step waits for while the store is away."""
        return self._patience.insist(self._own_visit(), attempt)

    async def _read_async(self, attempt: Callable[[], T]) -> T:
        """:meth:`_read` on a loop, which a step that is a coroutine must not hold meanwhile."""

        async def attempt_here() -> T:
            return attempt()

        return await self._patience.insist_async(self._own_visit(), attempt_here)

    def _own_visit(self) -> Visit | None:
        """The visit of this engine's that the calling code belongs to, whatever has become of it."""
        visit = current_visit()
        return visit if visit is not None and visit.host is self._host else None

    def attach(self, record: ProcessRecord) -> tuple[ProcessNode, End]:
        """The node of a process that is there already, and the future of its end."""
        node = ProcessNode(record.pid, self._parts.source, record)
        return node, self.end_of(node)

    def forget(self, node: ProcessNode, ended: End) -> None:
        """Nobody waits for that end any more."""
        self._parts.terminations.forget(node.pid, ended)

    def future_of(self, node: ProcessNode) -> HostFuture:
        """A future of the final node, as a host holds it."""
        ended = self.end_of(node)
        final = HostFuture(node, self._parts.steps.post_beside)
        final.when_cancelled(lambda: self.forget(node, ended))

        def resolve(done: End) -> None:
            self.forget(node, ended)
            final.resolve(done)

        ended.add_done_callback(resolve)
        return final

    # -- waiting -------------------------------------------------------------------------------------------

    def wait(self, process: Any, timeout: float | None) -> list[ProcessNode]:
        """Block until all of them have ended; see :meth:`Engine.wait`."""
        nodes = self.nodes_of(process)
        deadline = None if timeout is None else time.monotonic() + timeout
        for node in nodes:
            ended = self.end_of(node)
            try:
                self.wait_for(node, ended, remaining(deadline), 'wait()', 'await engine.wait_async()')
            finally:
                self.forget(node, ended)
            self._read(node._row)  # what is returned can be looked at though the store is away by then
        return nodes

    async def wait_async(self, process: Any) -> list[ProcessNode]:
        """:meth:`wait`, on a loop."""
        given = [process] if isinstance(process, (int, ProcessNode)) else list(process)
        nodes = await self._read_async(lambda: self.nodes_of(given))
        for node in nodes:
            self.refuse_unborn(node, 'wait_async()')
            ended = await self._end_of_async(node)
            try:
                await self.wait_for_async(node, ended)
            finally:
                self.forget(node, ended)
            await self._read_async(node._row)
        return nodes

    def wait_for(self, node: ProcessNode, ended: End, timeout: float | None, what: str, instead: str) -> None:
        """Block until the process has ended; a step gives its permit back meanwhile.

        :raises TimeoutError: it has not ended in time.
        """
        visit = visit_of(self._host)
        self.refuse_unborn(node, what)
        try:
            if visit is None:
                wait(ended, timeout, what=what, instead=instead)
            else:
                with visit.blocking_on(ended), self._parts.steps.blocked():
                    self._parts.has_room()  # for what this one waits for, perhaps
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
        self._patience.insist(visit, lambda: wait(confirm(), what='run()', instead=RUN_INSTEAD))
        visit.check()

    async def wait_for_async(self, node: ProcessNode, ended: End) -> None:
        """:meth:`wait_for`, on a loop."""
        visit = visit_of(self._host)
        if visit is None:
            node._use(await wait_on_loop(ended))
            return
        try:
            with visit.blocking_on(ended), self._parts.dispatcher.awaiting(visit):
                self._parts.has_room()
                final = await wait_on_loop(ended)
            if not self._parts.membership.lease.is_valid:
                await self._patience.insist_async(visit, lambda: wait_on_loop(self._parts.membership.confirm()))
                visit.check()
            node._use(final)
        except StoreError:
            await self._wait_anew(visit, node)

    async def _wait_anew(self, visit: Visit, node: ProcessNode) -> None:
        """The store did not take the child: post it until it does, and wait for that one's end."""
        unit = Unit(fence=visit.fence, create=(node._fixed(),))
        commit = self._parts.store.commit
        held(visit, await self._patience.insist_async(visit, lambda: wait_on_loop(commit(unit))))
        again = await self._end_of_async(node)
        try:
            with visit.blocking_on(again), self._parts.dispatcher.awaiting(visit):
                self._parts.has_room()
                node._use(await wait_on_loop(again))
        finally:
            self.forget(node, again)

    def refuse_unborn(self, node: ProcessNode, what: str) -> None:
        """A step must not wait for what begins when the step has ended.

        :raises RuntimeError: it would.
        """
        visit = visit_of(self._host)
        if visit is not None and any(record.pid == node.pid for record in visit.children):
            raise RuntimeError(
                f'{what} would wait for ever: process {node.pid} begins when the step that submitted it has ended; '
                f'return ToContext(name=node) to have it in the next step, or use run()'
            )

    # -- what it has ended with --------------------------------------------------------------------------------

    def outcome(self, node: ProcessNode) -> dict[str, Any]:
        """The outputs of an ended process, or what it raised; also after the engine has stopped.

        :raises KilledError: it was killed.
        :raises Exception: what the process raised; the same object in the OS process where it was raised.
        """
        record = self._read(node._row)
        if record.state == ProcessState.EXCEPTED:
            raised = self._parts.terminations.exception(node.pid)
            raise raised if raised is not None else load_exception(record.exception or '{}')
        if record.state == ProcessState.KILLED:
            raise KilledError(f'process {node.pid} ({record.process_label}) was killed: {record.exit_message}')
        return {} if record.outputs is None else dict(self._parts.source.codec.decode(record.outputs))

    def result(self, target: Any, node: ProcessNode) -> Any:
        """What running ``target``, a process class or function, comes to: its :meth:`outcome`, or what it returned."""
        return self.returned(node) if isinstance(target, ProcessFunction) else self.outcome(node)

    async def result_async(self, target: Any, node: ProcessNode) -> Any:
        """:meth:`result`, on a loop."""
        await self._read_async(node._row)  # which is kept, since it has ended
        return self.result(target, node)

    def returned(self, node: ProcessNode) -> Any:
        """What an ended process function had returned, or what it raised."""
        outputs = self.outcome(node)
        return as_returned(outputs if node._row().outputs is not None else None)
