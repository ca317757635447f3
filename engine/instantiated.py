"""A process that a runner has instantiated: it has its pid, and comes into the store when it is started."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..threads import WrongThread, wait, wait_on_loop
from .errors import ProcessParked
from .node import ProcessNode
from .processes.attributes import FrozenAttributes
from .processes.functions import ProcessFunction
from .states import TERMINAL_STATES, ProcessState
from .store.records import Held, ProcessRecord, Unit
from .store.store_thread import Failure
from .terminations import End

if TYPE_CHECKING:
    from .calls import Calls
    from .parts import EngineParts

__all__ = ['InstantiatedProcess']

LOGGER = logging.getLogger(__name__)


class Drive(Protocol):
    """The runner, as its processes see it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it drives processes on."""

    def settle(self, pid: int) -> None:
        """Have a process come here whenever it is claimed.

        :raises LoopClosed: the runner is closed, or its loop is.
        :raises EngineStopped: the engine does not run.
        """

    def when(self, done: Future[Any], read: Callable[[], Any]) -> asyncio.Future[Any]:
        """A future on its loop of what ``read`` returns or raises once ``done`` is done."""

    def run_to_end(self, process: InstantiatedProcess) -> None:
        """Run its loop until the process has ended."""


class InstantiatedProcess:
    """A validated process with a pid of its own, to be driven on its runner's loop.

    Made by :meth:`Runner.instantiate_process`. Nothing of it is stored before it is started, by
    :meth:`step_until_terminated`, :meth:`execute` or the runner's calls; starting it twice is starting it once. With a
    key it may turn out then that the process is there: :attr:`pid` and :attr:`node` are that one's from there on.
    """

    def __init__(
        self, *, runner: Drive, parts: EngineParts, calls: Calls, target: Any, record: ProcessRecord
    ) -> None:
        self._runner = runner
        self._parts = parts
        self._calls = calls
        self._target = target
        self._record = record
        self._node = ProcessNode(record.pid, parts.source, record)
        self._lock = threading.Lock()
        self._is_started = False
        self._stored: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._end: End | None = None
        self._raised: BaseException | None = None

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.pid} {self._record.process_label}>'

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process's number in the store."""
        return self._node.pid

    @property
    def uuid(self) -> str:
        """The universally unique id."""
        return self._node.uuid

    @property
    def node(self) -> ProcessNode:
        """The handle that the engine's calls return too."""
        return self._node

    @property
    def inputs(self) -> FrozenAttributes:
        """The inputs, defaults included."""
        return self._node.inputs

    @property
    def outputs(self) -> FrozenAttributes:
        """The outputs so far."""
        return self._node.outputs

    @property
    def state(self) -> ProcessState:
        """The state now; ``created`` before it is started."""
        return self._node.state

    @property
    def is_terminated(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._node.is_terminated

    # -- running it ------------------------------------------------------------------------------------------

    def step_until_terminated(self) -> Coroutine[Any, Any, None]:
        """Start the process, and return what waits for its end, to be awaited on the runner's loop or made a task.

        The process runs whether that is awaited or not, so ``loop.call_soon(process.step_until_terminated)`` starts it
        too. Cancelling it leaves the process running; kill it if that is what you want. How the process has ended is
        not raised here, see :meth:`result`.

        :raises EngineStopped: the engine has stopped, or does before the process has ended.
        :raises StoreError: when awaited: the process could not be stored.
        :raises ProcessParked: when awaited: the engine cannot go on with it.
        :raises WrongThread: when awaited on another loop than the runner's.
        """
        self.start()
        return _Stepping(self._until_terminated)

    async def _until_terminated(self) -> None:
        if asyncio.get_running_loop() is not self._runner.loop:
            raise WrongThread(
                f'step_until_terminated() of process {self.pid} awaited on another loop than its runner drives it on; '
                f'await engine.wait_async(process.node) here'
            )
        await wait_on_loop(self._ended)

    def execute(self) -> Any:
        """Run the runner's loop until the process has ended; returns its :meth:`result`.

        :raises WrongThread: the loop runs, or this thread runs another one.

        Ctrl-C kills the process, as in :meth:`Engine.run`.
        """
        self._runner.run_to_end(self)
        return self.result()

    def result(self) -> Any:
        """The outputs of the process once it has ended; what calling it would return for a process function.

        :raises InvalidStateError: it has not ended.
        :raises KilledError: it was killed.
        :raises Exception: what the process raised.
        """
        if not self._ended.done():
            raise InvalidStateError(
                f'process {self.pid} has not ended; await process.step_until_terminated(), or run the loop, first'
            )
        self._ended.result()
        if self._raised is not None:
            raise self._raised
        returns = self._calls.returned if isinstance(self._target, ProcessFunction) else self._calls.outcome
        return returns(self._node)

    def future(self) -> asyncio.Future[Any]:
        """A future of the :meth:`result` on the runner's loop; cancelling it leaves the process alone."""
        return self._runner.when(self._ended, self.result)

    # -- for the runner --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Post the process to the store, once, to be driven on the runner's loop; from any thread, never blocking."""
        with self._lock:
            if self._is_started:
                return
            self._runner.settle(self.pid)
            try:
                self._expect_end()
                self._parts.store.post(Unit(create=(self._record,)), self._written)
            except BaseException:
                self._forget_end()
                raise
            self._is_started = True

    def wait_stored(self) -> ProcessNode:
        """Start it, and wait until it is durable; returns its node."""
        self.start()
        wait(self._stored, what='submit()', instead='runner.schedule()')
        return self._node

    @property
    def has_key(self) -> bool:
        """Whether another process may turn out to be meant."""
        return self._record.key is not None

    def _expect_end(self) -> None:
        self._end = self._parts.terminations.expect(self.pid)
        self._end.add_done_callback(self._has_ended)

    def _forget_end(self) -> None:
        self._parts.homes.leave(self.pid)
        if self._end is not None:
            self._parts.terminations.forget(self.pid, self._end)

    # -- on the store thread, and whichever tells of ends ----------------------------------------------------

    def _written(self, verdict: Any) -> None:
        if isinstance(verdict, Failure):
            LOGGER.warning('process %d could not be stored: %s', self.pid, verdict.error)
            self._parts.terminations.fail(self.pid, verdict.error)
            self._stored.set_exception(verdict.error)
            return
        if isinstance(verdict, Held) and verdict.attached is not None:
            self._attach(verdict.attached)
        self._stored.set_result(None)

    def _attach(self, record: ProcessRecord) -> None:
        """The key belongs to a process that is there: it is the one."""
        self._forget_end()
        self._node = ProcessNode(record.pid, self._parts.source, record)
        self._expect_end()
        # The row was read in the transaction that has just been committed: any later end is told.
        if record.state in TERMINAL_STATES:
            self._parts.terminations.ended([record.pid])
        elif (reason := self._parts.why_parked(record.pid)) is not None:
            self._parts.terminations.fail(record.pid, ProcessParked(f'process {record.pid} is parked: {reason}'))

    def _has_ended(self, end: End) -> None:
        self._raised = self._parts.terminations.exception(self.pid)
        self._forget_end()
        error = end.exception()
        if error is not None:
            self._ended.set_exception(error)
            return
        self._node._use(end.result())
        self._ended.set_result(None)


class _Stepping(Coroutine[Any, Any, None]):
    """A coroutine that begins when it is first awaited, and of which nothing is left when it never is."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begin = begin
        self._begun: Coroutine[Any, Any, None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        if self._begun is None:
            self._begun = self._begin()
        return self._begun.send(value)

    def throw(
        self, kind: Any, error: BaseException | object = None, trace: TracebackType | None = None, /
    ) -> Any:
        if self._begun is None:
            self._begun = self._begin()
        return self._begun.throw(kind) if error is None and trace is None else self._begun.throw(kind, error, trace)

    def close(self) -> None:
        if self._begun is not None:
            self._begun.close()
