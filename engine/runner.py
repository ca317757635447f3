"""``Runner``: drives processes on one loop, a worker's or the user's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..threads import Bridge, LoopClosed, StartFailed, run_in_child
from .deadlines import remaining
from .errors import EngineStopped
from .execution import Execution
from .faults import FaultPoint
from .instantiated import InstantiatedProcess, future_on, refuse_to_run
from .launch import resolve
from .node import ProcessNode
from .processes.visit import visit_of
from .store.records import Fence, ProcessRecord
from .tracebacks import SHORT_TRACEBACK

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ['Runner']

LOGGER = logging.getLogger(__name__)

# Loops of their own that a forked child has inherited. They are kept: closing one, as its __del__ may, would take
# descriptors out of the epoll instance that it shares with the parent.
_inherited: list[asyncio.AbstractEventLoop] = []


class Runner:
    """Drives processes of an engine on one loop: coroutine steps run there, synchronous ones on the step threads.

    :param engine: who owns the processes; it must run when they are started.
    :param loop: where to drive them; default: the loop that runs here, else one of the runner's own, :attr:`loop`, that
        whoever makes the runner runs.
    :param bridge: the way into the loop, where there is one: a worker's.

    A process that was started here comes back to this loop whenever this engine claims it, also after it has waited
    for its children; the children are the workers'. Where the loop does not run, it stands still; it can be killed and
    paused all the same. Once the runner is closed, or its loop is, what has not ended is the workers'.
    """

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        bridge: Bridge | None = None,
    ) -> None:
        if loop is None:
            loop = asyncio._get_running_loop()
        self._owns_loop = loop is None
        self._loop = asyncio.new_event_loop() if loop is None else loop
        self._parts = engine.core
        self._bridge = Bridge(self._loop, name=f'a runner of engine {engine.name!r}') if bridge is None else bridge
        self._thread = threading.get_ident()
        self._stopping = asyncio.Event()
        self._lock = threading.Lock()
        self._closed = False
        # What was given and has not begun: whoever takes it out has it.
        self._given: dict[Execution, None] = {}
        self._tasks: dict[asyncio.Task[None], Execution] = {}
        # One that was started lives until its end, of which it wants to be told.
        self._instantiated: weakref.WeakValueDictionary[int, InstantiatedProcess] = weakref.WeakValueDictionary()
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        loop = 'closed' if self._loop.is_closed() else 'running' if self._loop.is_running() else 'not running'
        state = 'closed' if self._closed else 'open'
        return f'<{type(self).__name__} of engine {self._parts.name!r}, {state}, with a loop that is {loop}>'

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that processes are driven on."""
        return self._loop

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more processes."""
        return self._closed or self._loop.is_closed()

    # -- running processes -------------------------------------------------------------------------------------

    def instantiate_process(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> InstantiatedProcess:
        """Validate a process and give it a pid; nothing is stored before it is started.

        Arguments and errors as for :meth:`Engine.run`.

        :raises LoopClosed: the runner is closed, or its loop is.
        :raises RuntimeError: called by a step of the engine's.
        """
        with SHORT_TRACEBACK:
            calls = self._parts.take_call()
            self._check_open()
            visit = visit_of(self._parts.host)
            if visit is not None:
                raise RuntimeError(
                    f'a step of process {visit.pid} called a Runner, which is for code outside of processes; use '
                    f'self.submit(), run() or await engine.run_async()'
                )
            target, given = resolve(process, inputs, kwargs)
            record = calls.starts.compose(target, given, None, -1, blocking=False)
            instantiated = InstantiatedProcess(
                target, record, parts=self._parts, calls=calls, bridge=self._bridge, settle=self._settle
            )
            self._instantiated[record.pid] = instantiated
            return instantiated

    def schedule(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> ProcessNode:
        """Start a process, to be driven when the loop runs; from any thread, never blocking.

        It is durable soon; with a key when this returns, since only then it is known which process it is.
        """
        instantiated = self.instantiate_process(process, inputs, **kwargs)
        if instantiated.has_key:
            return instantiated.wait_stored()
        instantiated.start()
        return instantiated.node

    def submit(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> ProcessNode:
        """Start a process, to be driven when the loop runs; it is durable when this returns."""
        return self.instantiate_process(process, inputs, **kwargs).wait_stored()

    def run(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> Any:
        """Run the loop until a process has ended, and return its outputs; errors as for :meth:`Engine.run`.

        :raises WrongThread: the loop runs, or this thread runs another one.
        """
        with SHORT_TRACEBACK:
            return self.run_get_node(process, inputs, **kwargs)[0]

    def run_get_node(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> tuple[Any, ProcessNode]:
        """Like :meth:`run`, and return the process's node too."""
        with SHORT_TRACEBACK:
            refuse_to_run(self._loop)
            instantiated = self.instantiate_process(process, inputs, **kwargs)
            return instantiated.execute(), instantiated.node

    def run_get_pid(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> tuple[Any, int]:
        """Like :meth:`run`, and return the process's number too."""
        outputs, node = self.run_get_node(process, inputs, **kwargs)
        return outputs, node.pid

    def get_process_future(self, pid: int | ProcessNode | InstantiatedProcess) -> asyncio.Future[ProcessNode]:
        """A future, on the loop, of the final node of any process; cancelling it leaves the process alone.

        :raises ProcessNotFound: there is no such process.
        """
        waits = self._parts.take_call().waits
        if self._loop.is_closed():
            raise LoopClosed(f'the loop of {self._bridge.name} is closed: no future of it resolves any more')
        number = pid if isinstance(pid, int) else pid.pid
        instantiated = pid if isinstance(pid, InstantiatedProcess) else self._instantiated.get(number)
        if instantiated is not None:  # which is perhaps not stored yet
            return instantiated.final_node()
        node = pid if isinstance(pid, ProcessNode) else self._parts.source.node(number)
        ended = waits.end_of(node)

        def final() -> ProcessNode:
            node._use(ended.result())
            return node

        future = future_on(self._bridge, ended, final)
        future.add_done_callback(lambda _: waits.forget(node, ended))
        return future

    def call_on_process_finish(
        self, pid: int | ProcessNode | InstantiatedProcess, callback: Callable[[], object]
    ) -> None:
        """Call ``callback()`` on the loop when a process has ended, in whatever way.

        It is not called when the engine stops before, which is logged.

        :raises ProcessNotFound: there is no such process.
        """

        def over(future: asyncio.Future[ProcessNode]) -> None:
            error = future.exception()
            if error is None:
                callback()
            else:
                LOGGER.warning('%r is not called: %s', callback, error)

        self.get_process_future(pid).add_done_callback(over)

    # -- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more processes and leave those that have not ended to the workers; a loop of its own is closed too.

        From any thread, any number of times. Where the loop runs, what executes comes to its next checkpoint first,
        in the background. Where it does not, it is run until the coroutine steps that stand on it are cancelled; they
        are run again, as after a crash.
        """
        if self._parts.forked:
            return
        self._retire()
        if self._loop.is_closed():
            self._lose_loop()
        elif self._could_run_here():
            self._loop.run_until_complete(self._cut_off(self._tasks, None))
            if self._owns_loop:
                self._close_loop()
        else:
            self._ask_to_stop()
        self._forget_if_empty()

    def engine_stops(self, deadline: float) -> None:
        """Let nothing go on: the engine stops; ``deadline`` is on the monotonic clock."""
        self._retire()
        if self._loop.is_closed():
            self._lose_loop()
        elif asyncio._get_running_loop() is self._loop:
            # It stands still until the engine has stopped; then each step finds itself cancelled.
            self.request_stop()
            for task, execution in list(self._tasks.items()):
                task.cancel()
                execution.abandon(cut=True)
        elif threading.get_ident() == self._thread and self._could_run_here():
            self._loop.run_until_complete(self._cut_off(self._tasks, remaining(deadline)))
        else:
            self._ask_to_stop()
        self._forget_if_empty()

    def check(self) -> None:
        """See whether the loop was closed without a word; from any thread, never blocking."""
        if self._loop.is_closed():
            self._retire()
            self._lose_loop()

    def _retire(self) -> None:
        """Take nothing more, and give back what has not begun."""
        with self._lock:
            self._closed = True
        self._parts.homes.leave_all(self)
        for execution in list(self._given):
            if self._take(execution):
                execution.abandon()

    def _take(self, execution: Execution) -> bool:
        """Whether the caller is the one to have what was given."""
        return self._given.pop(execution, self) is None

    def _ask_to_stop(self) -> None:
        try:
            self._bridge.post(self.request_stop)
        except LoopClosed:
            self._lose_loop()

    def _lose_loop(self) -> None:
        self._bridge.abandon()
        tasks, self._tasks = self._tasks, {}
        for execution in tasks.values():
            execution.abandon(cut=True)
            # What a coroutine of the user's cleans up must not run here, nor on whichever thread collects it.
            with contextlib.suppress(LoopClosed, StartFailed):
                self._parts.steps.post_beside(execution.close_step)
        self._forget_if_empty()

    def _forget_if_empty(self) -> None:
        if self._closed and not self._tasks and not self._given:
            self._parts.homes.forget(self)

    def _could_run_here(self) -> bool:
        return not self._loop.is_running() and asyncio._get_running_loop() is None

    async def _cut_off(self, tasks: Iterable[asyncio.Task[Any]], patience: float | None) -> None:
        """Cancel tasks, and give them so many seconds to clean up."""
        self.request_stop()
        cancelled = set(tasks) - {asyncio.current_task()}
        for task in cancelled:
            task.cancel()
        if cancelled:
            await asyncio.wait(cancelled, timeout=patience)

    def _close_loop(self) -> None:
        """End whatever else is on a loop of its own, as ``asyncio.run`` does."""
        run = self._loop.run_until_complete
        run(self._cut_off(asyncio.all_tasks(self._loop), None))
        run(self._loop.shutdown_asyncgens())
        run(self._loop.shutdown_default_executor())
        self._loop.close()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._owns_loop:
            _inherited.append(self._loop)

    # -- driving -----------------------------------------------------------------------------------------------

    def give(self, claims: Sequence[ProcessRecord]) -> Sequence[ProcessRecord]:
        """Drive claimed processes when the loop runs; from any thread, never blocking.

        :returns: those that it does not take, since it is closed or its loop is.
        """
        executions = [self._execution(record) for record in claims]
        with self._lock:
            if self.is_closed:
                return claims
            self._given.update(dict.fromkeys(executions))
        try:
            self._bridge.post(self._begin, executions)
        except LoopClosed:
            return [execution.record for execution in executions if self._take(execution)]
        return ()

    def drive(self, claims: Sequence[ProcessRecord]) -> None:
        """Drive claimed processes, each as a task; on the loop."""
        for record in claims:
            self._drive(self._execution(record))

    def request_stop(self) -> None:
        """Have every process leave at its next checkpoint; on the loop."""
        self._stopping.set()

    async def wait_drained(self) -> None:
        """Wait until every process has left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _execution(self, record: ProcessRecord) -> Execution:
        return Execution(
            record, parts=self._parts, host=self._parts.host, bridge=self._bridge, is_stopping=self._stopping
        )

    def _begin(self, executions: Sequence[Execution]) -> None:
        self._parts.faults.hit(FaultPoint.CLAIMED)
        for execution in executions:
            if self._take(execution):
                self._drive(execution)

    def _drive(self, execution: Execution) -> None:
        task = self._loop.create_task(execution.drive(), name=f'process {execution.record.pid}')
        self._tasks[task] = execution
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        execution = self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if execution is None:
            return  # the loop was thought to be gone
        if task.cancelled():
            self._parts.homes.leave_all(self)  # only who winds up the loop cancels these tasks: nothing must come back
            execution.abandon()  # it may have been cancelled before it began
        elif isinstance(error, KeyboardInterrupt):
            execution.abandon(cut=True)  # a Ctrl-C that hit the loop's thread here says nothing of the process
        elif error is not None:
            self._failed(execution.record, error)
        if self._closed:
            self._forget_if_empty()

    def _failed(self, record: ProcessRecord, error: BaseException) -> None:
        LOGGER.critical('process %d: the engine itself failed', record.pid, exc_info=error)
        self._parts.park(record.pid, f'the engine itself failed: {type(error).__name__}: {error}')
        self._parts.dispatcher.left(record.pid, record.epoch)
        fence = Fence(record.pid, record.epoch, record.version)
        with contextlib.suppress(EngineStopped):  # the engine's own end releases all that it owns
            self._parts.store.call(lambda transaction: transaction.release(fence))

    # -- for its processes ---------------------------------------------------------------------------------------

    def _settle(self, pid: int) -> None:
        """Have a process come here whenever it is claimed."""
        self._parts.take_call()
        self._check_open()
        self._parts.homes.settle(pid, self)

    def _check_open(self) -> None:
        if self._loop.is_closed():
            raise LoopClosed(f'the loop of {self._bridge.name} is closed; create another on a loop that is open')
        if self._closed:
            raise LoopClosed(f'{self._bridge.name} is closed; create another')
