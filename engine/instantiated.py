"""A process that a runner has instantiated: it has its pid, and comes into the store when it is started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..threads import Bridge, Forked, LoopClosed, StartFailed, WrongThread, wait, wait_on_loop
from .errors import EngineStopped
from .node import ProcessNode
from .processes.attributes import FrozenAttributes
from .states import TERMINAL_STATES, ProcessState
from .store.records import Held, ProcessRecord, Unit
from .store.store_thread import Failure
from .terminations import End

if TYPE_CHECKING:
    from .calls import Calls
    from .parts import EngineParts

__all__ = ['InstantiatedProcess', 'future_on', 'refuse_to_run']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')


def refuse_to_run(loop: asyncio.AbstractEventLoop) -> None:
    """Raise ``WrongThread`` where the loop cannot be run."""
    if loop.is_running() or asyncio._get_running_loop() is not None:
        raise WrongThread(
            'run() of a runner runs its loop, which cannot be done where a loop runs; use '
            'await process.step_until_terminated() on the loop, or engine.run()'
        )


def future_on(bridge: Bridge, done: Future[Any], read: Callable[[], T]) -> asyncio.Future[T]:
    """A future, on the bridge's loop, of what ``read`` returns or raises there once ``done`` is done."""
    future: asyncio.Future[T] = bridge.loop.create_future()

    def resolve() -> None:
        if future.done():
            return
        try:
            future.set_result(read())
        except StopIteration as error:  # which no future takes
            future.set_exception(RuntimeError(f'the process raised {error!r}'))
        except BaseException as error:
            future.set_exception(error)

    def over(_: Future[Any]) -> None:
        with contextlib.suppress(LoopClosed, Forked):  # the loop is closed, and with it whoever waits
            bridge.post(resolve)

    done.add_done_callback(over)
    return future


class InstantiatedProcess:
    """A validated process with a pid of its own, to be driven on its runner's loop.

    Made by :meth:`Runner.instantiate_process`. Nothing of it is stored before it is started, by
    :meth:`step_until_terminated`, :meth:`execute` or the runner's calls; starting it twice is starting it once. With a
    key it may turn out then that the process is there: :attr:`pid` and :attr:`node` are that one's from there on.

    :param target: the process class or process function.
    :param record: the row that it is to have.
    :param bridge: the way into the runner's loop.
    :param settle: has a pid come to that loop whenever it is claimed; raises where it cannot.
    """

    def __init__(
        self,
        target: Any,
        record: ProcessRecord,
        *,
        parts: EngineParts,
        calls: Calls,
        bridge: Bridge,
        settle: Callable[[int], None],
    ) -> None:
        self._target = target
        self._record = record
        self._parts = parts
        self._calls = calls
        self._bridge = bridge
        self._settle = settle
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
        if asyncio.get_running_loop() is not self._bridge.loop:
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
        loop = self._bridge.loop
        refuse_to_run(loop)
        waiting = loop.create_task(self.step_until_terminated())
        try:
            loop.run_until_complete(waiting)
        except KeyboardInterrupt:
            self._interrupted(waiting)
            raise
        return self.result()

    def _interrupted(self, waiting: asyncio.Task[None]) -> None:
        """After Ctrl-C: kill the process durably, and run the loop while what its steps have started ends."""
        killed: Future[None] = Future()

        def kill() -> None:
            try:
                self._calls.intents.interrupted(self.pid)
            finally:
                killed.set_result(None)

        async def until_killed() -> None:
            await wait_on_loop(killed)
            waiting.cancel()
            await asyncio.wait([waiting])

        try:
            self._parts.steps.post_beside(kill)
            self._bridge.loop.run_until_complete(until_killed())
        except KeyboardInterrupt:
            self._calls.intents.in_haste = True
            raise
        except (LoopClosed, StartFailed) as error:
            LOGGER.warning('process %d could not be killed after Ctrl-C: %s', self.pid, error)

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
        return self._calls.waits.result(self._target, self._node)

    def future(self) -> asyncio.Future[Any]:
        """A future of the :meth:`result` on the runner's loop; cancelling it leaves the process alone."""
        return future_on(self._bridge, self._ended, self.result)

    def final_node(self) -> asyncio.Future[ProcessNode]:
        """A future of the final node on the runner's loop; cancelling it leaves the process alone."""
        return future_on(self._bridge, self._ended, lambda: self._ended.result() or self._node)

    # -- for the runner --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Post the process to the store, once, to be driven on the runner's loop; from any thread, never blocking."""
        with self._lock:
            if self._is_started:
                return
            self._settle(self.pid)
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
            try:
                self._attach(verdict.attached)
            except EngineStopped as error:  # nobody would tell of its end any more
                self._stored.set_exception(error)
                return
        self._stored.set_result(None)

    def _attach(self, record: ProcessRecord) -> None:
        """The key belongs to a process that is there: it is the one."""
        self._forget_end()
        self._node = ProcessNode(record.pid, self._parts.source, record)
        self._expect_end()
        # The row was read in the transaction that has just been committed: any later end is told.
        self._calls.waits.tell_known(record.pid, record.state in TERMINAL_STATES)

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
