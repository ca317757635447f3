"""``Engine``: the composition root, and the calls that a host makes.

What runs where is in ``docs/architecture.rst``. Every public method may be called from any thread; those that block
refuse Treadle's own loops.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self, overload

from ..threads import (
    ForkGuard,
    Group,
    LoopThread,
    StepThreads,
    StopTimeout,
    Watchdog,
    WrongThread,
    refuse_on_loop_thread,
    run_in_child,
    wait,
    wait_on_loop,
)
from . import logging as process_logging
from .aborts import Aborts
from .calls import Calls, remaining
from .claims import Claims
from .dispatcher import Dispatcher
from .errors import EngineStopped, ProcessParked, StepAborted
from .exit_code import ExitCode
from .faults import Faults, NoFaults
from .launch import merge_inputs
from .membership import Membership
from .node import ProcessNode, Source
from .pids import PidBlocks
from .processes.attributes import AttributeDict, FrozenAttributes
from .processes.functions import ProcessFunction
from .processes.visit import Visit, current_visit
from .runner import Runner
from .states import TERMINAL_STATES, ProcessState
from .store.location import locate
from .store.records import ProcessRecord, StateChange
from .store.store_thread import StoreThread
from .terminations import End, Terminations
from .values import Codec, DiskObjects, Reference

__all__ = ['Engine']

LOGGER = logging.getLogger(__name__)

#: How many processes an engine holds at once, at least, and for each step that may execute.
HELD_AT_LEAST, HELD_PER_STEP = 256, 8
#: The part of a stop's time that is kept for closing, when steps take all the rest; that part at most, in seconds; and
#: what closing gets in any case, even if the stop takes so much longer than it was given.
CLOSING_SHARE, CLOSING_MOST, CLOSING_LEAST = 0.3, 5.0, 0.5

_live: set[Engine] = set()


def running_engines() -> list[Engine]:
    """The engines of this OS process that run."""
    return [engine for engine in list(_live) if engine.is_running]


class Engine:
    """A durable process engine inside this OS process.

    :param store: URL of the store, ``sqlite:///path``; default ``TREADLE_STORE``, else a file in the user's data
        directory.
    :param workers: how many threads with a loop of their own drive processes.
    :param steps: how many synchronous steps may execute at once; default as for ``ThreadPoolExecutor``.
    :param claims: ``'own'`` runs what this engine submitted and what ended engines of the same script have left;
        ``'all'`` runs whatever it can import.
    :param name: for people; default ``'engine'``.
    :param switch_interval: seconds for :func:`sys.setswitchinterval`, which is global to the interpreter; ``None``
        leaves it alone. Small values keep commits quick beside steps that burn CPU.
    :param faults: for crash tests.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. An engine starts once.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        workers: int = 2,
        steps: int | None = None,
        claims: Literal['own', 'all'] = 'own',
        name: str = 'engine',
        switch_interval: float | None = None,
        faults: Faults | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f'workers must be at least 1, not {workers!r}')
        if claims not in ('own', 'all'):
            raise ValueError(f"claims must be 'own' or 'all', not {claims!r}")
        self.name = name
        self.location = locate(store)
        self.faults: Faults = faults if faults is not None else NoFaults()
        self._worker_count = workers
        self._claims_all = claims == 'all'
        self._switch_interval = switch_interval
        self._fork_guard = ForkGuard(remedy='create and start an engine of its own in the child')
        self._state_lock = threading.Lock()
        self._state: Literal['new', 'starting', 'running', 'stopping', 'stopped'] = 'new'
        self._came_up: Future[None] = Future()
        self._went_down: Future[None] = Future()
        self.steps = StepThreads(permits=steps or min(32, (os.cpu_count() or 1) + 4))
        self.terminations = Terminations()
        self.dispatcher = Dispatcher(
            capacity=max(HELD_AT_LEAST, HELD_PER_STEP * self.steps.permits),
            blocked=lambda: self.steps.blocked_count,
            admits=self._admits,
        )
        self.aborts = Aborts(dispatcher=self.dispatcher, run_beside=self.steps.post_beside)
        run_in_child(self._after_fork)

    # -- starting and stopping -----------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> Self:
        """Open the store, start the threads, and take up what is to be run.

        :param timeout: seconds for all of it.
        :raises StoreError: the store cannot be used; says why and what to do.
        """
        self._fork_guard.check(f'engine {self.name!r}')
        with self._state_lock:
            if self._state != 'new':
                raise EngineStopped(f'engine {self.name!r} is {self._state}; an engine starts once, create another')
            self._state = 'starting'
        try:
            self._build()
            self._group.start(timeout)
        except BaseException:
            self._is_down()
            raise
        self._calls = Calls(
            parts=self, host=self, pids=PidBlocks(self.store), engine_id=self._membership.engine_id
        )
        self._claims.begin(self._membership)
        self.dispatcher.open([runner.give for runner in self._runners])
        process_logging.install()
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
        with self._state_lock:
            self._state = 'running'
        _live.add(self)
        self._came_up.set_result(None)
        self._claims.look()
        return self

    def _is_down(self) -> None:
        with self._state_lock:
            self._state = 'stopped'
        self.terminations.close()
        _live.discard(self)
        for told in (self._came_up, self._went_down):
            if not told.done():
                told.set_result(None)

    def _build(self) -> None:
        # The database adapter imports SQLAlchemy, which takes longer than all the rest together.
        from .store.database import SqliteDatabase, open_reader  # noqa: PLC0415
        from .store.statements import SqliteDialect, Statements  # noqa: PLC0415

        statements = Statements(SqliteDialect())
        self._database = SqliteDatabase(self.location)
        reader = open_reader(self.location, statements)
        self.source = Source(reader, self._make_codec())
        self.store = StoreThread(
            database=self._database,
            statements=statements,
            admission=self.dispatcher,
            listener=self,
            faults=self.faults,
            tick=self._tick,
            on_crash=self._store_crashed,
        )
        self._membership = Membership(
            engine_name=self.name,
            location=self.location,
            store=self.store,
            faults=self.faults,
            still_running=lambda: [visit.pid for visit in self.dispatcher.visits()],
        )
        self._claims = Claims(parts=self, claims_all=self._claims_all)
        names = [f'treadle-worker-{number}' for number in range(1, self._worker_count + 1)]
        self._runners = [Runner(name=name, parts=self, host=self) for name in names]
        workers = [
            LoopThread(name, main=runner.main, on_crash=self._worker_crashed)
            for name, runner in zip(names, self._runners, strict=True)
        ]
        self._watchdog = Watchdog(workers)
        self._group = Group(
            f'engine {self.name!r}',
            [self.store, self._membership, self.steps, *workers, self._watchdog],
            stop_order=[
                [self._watchdog.name],
                names,
                [self.steps.name],
                [self._membership.name],
                [self.store.name],
            ],
        )

    def _make_codec(self) -> Codec:
        return Codec(
            objects=DiskObjects(self.location.objects),
            references={
                ProcessNode: Reference(
                    'node', lambda node: node.pid, lambda pid: ProcessNode(int(pid), self.source)
                ),
                AttributeDict: Reference('attributes', dict, AttributeDict),
                FrozenAttributes: Reference('frozen-attributes', dict, FrozenAttributes),
                ExitCode: Reference('exit-code', list, lambda parts: ExitCode(*parts)),
            },
        )

    def stop(self, timeout: float = 30.0) -> None:
        """Take nothing new, let each step that executes come to its checkpoint, and close everything.

        What is unfinished stays runnable in the store: stopping is no failure of a process. A step that is blocked in
        a call of Treadle's is unwound, and taken again by the next engine; one that is not over when most of the time
        has passed has its ``on_kill`` callbacks called. Safe to call again and from several threads: each call
        returns when the engine has stopped.

        :param timeout: seconds for all of it.
        :raises StopTimeout: steps still execute; names them. Their processes stay claimed while they do.
        :raises WrongThread: called by a step of this engine, which it would have to wait for, or on a Treadle loop.
        """
        if self._fork_guard.forked:
            return
        refuse_on_loop_thread('stop()', 'await asyncio.to_thread(engine.stop)')
        visit = current_visit()
        if visit is not None and visit.host is self:
            raise WrongThread(
                f'stop() of engine {self.name!r} was called by a step of its own (process {visit.pid}), for which it '
                f'would have to wait; stop it from the code that started it'
            )
        deadline = time.monotonic() + timeout
        if self._state == 'starting':
            wait(self._came_up, timeout, what='stop()')
        with self._state_lock:
            mine = self._state == 'running'
            if mine:
                self._state = 'stopping'
        if mine:
            self._wind_down(deadline)
        elif self._state == 'stopping':
            try:
                wait(self._went_down, timeout, what='stop()')
            except TimeoutError:
                raise StopTimeout(f'engine {self.name!r} is still being stopped by another thread') from None

    def _wind_down(self, deadline: float) -> None:
        timeout = remaining(deadline) or 0.0
        closing = min(CLOSING_SHARE * timeout, CLOSING_MOST)
        self.dispatcher.close()
        reason = self._abort_for_stop()
        going = [(visit, self.dispatcher.end_of(visit)) for visit in self.dispatcher.visits()]
        for visit, _ in going:
            visit.interrupt(reason)
        try:
            late = [visit for visit, over in going if not _in_time(over, deadline - closing)]
            for visit in late:
                self.aborts.abort(visit, reason, lambda callback: callback())
            self._group.stop(max(remaining(deadline) or 0.0, closing, CLOSING_LEAST))
            self._refuse_to_forget(self.dispatcher.visits())
        finally:
            self._abandon_after([self.dispatcher.end_of(visit) for visit in self.dispatcher.visits()])
            self.source.reader.close()
            process_logging.uninstall()
            self._is_down()

    def _abandon_after(self, late: list[Future[None]]) -> None:
        """Keep the lock, and with it the claims, until the last of these steps is over."""
        left = set(late)

        def over(one: Future[None]) -> None:
            left.discard(one)
            if not left:
                self._membership.abandon()

        for one in late:
            one.add_done_callback(over)

    def _abort_for_stop(self) -> StepAborted:
        return StepAborted(f'engine {self.name!r} stops; the process goes on when an engine claims it')

    def _refuse_to_forget(self, late: Sequence[Visit]) -> None:
        # Functions that were called from plain code; steps are named by the threads they execute on.
        if late:
            pids = ', '.join(str(visit.pid) for visit in late)
            raise StopTimeout(
                f'engine {self.name!r} did not stop in time: process {pids} executes in the code that called it'
            )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether calls are taken, in this OS process."""
        return self._state == 'running' and not self._fork_guard.forked

    @property
    def script(self) -> str | None:
        """The script whose processes this engine goes on with; ``None`` in an interactive session or a notebook."""
        return self._membership.script

    @property
    def in_haste(self) -> bool:
        """Whether a second Ctrl-C has interrupted the dealing with the first."""
        return self.is_running and self._calls.in_haste

    def _running(self) -> Calls:
        self._fork_guard.check(f'engine {self.name!r}')
        visit = current_visit()
        if self._state == 'stopping' and visit is not None and visit.host is self:
            # A step may come to its checkpoint; a call that would block it raises what unwinds it, see Calls.
            return self._calls
        if self._state != 'running':
            raise EngineStopped(
                f'engine {self.name!r} '
                + (
                    'is not started; use it as a context manager or call start()'
                    if self._state in ('new', 'starting')
                    else f'is {self._state}; create and start another'
                )
            )
        return self._calls

    def _after_fork(self) -> None:
        self._state_lock = threading.Lock()
        _live.discard(self)
        if hasattr(self, 'source'):
            self.source.reader.forget_connections()

    def _worker_crashed(self, thread: LoopThread, error: BaseException) -> None:
        LOGGER.critical('%s crashed; the engine stops', thread.name, exc_info=error)
        self.dispatcher.close()
        self.terminations.close()

    def _store_crashed(self, error: BaseException) -> None:
        self.dispatcher.close()
        self.terminations.close()

    # -- running processes -----------------------------------------------------------------------------------

    def run(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> Any:
        """Run a process to its end and return its outputs.

        :param process: a process class or a process function; for a function, what calling it would return is
            returned.
        :param inputs: inputs as a mapping; keyword arguments add to them. ``metadata={'key': ...}`` makes the
            call idempotent: the same key, class and inputs attach to the process that is there.
        :raises ValidationError: the inputs do not fit.
        :raises KilledError: the process was killed.
        :raises WrongThread: called on one of Treadle's loops.
        :raises Exception: what the process raised.

        Ctrl-C kills the process and its children durably, gives what their steps have started some seconds to end (see
        :func:`~treadle.engine.on_kill`), then raises :class:`KeyboardInterrupt`. A second Ctrl-C raises it at once.
        """
        return self.run_get_node(process, inputs, **kwargs)[0]

    def run_get_node(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> tuple[Any, ProcessNode]:
        """Like :meth:`run`, and return the process's node too."""
        refuse_on_loop_thread('run()', 'await engine.run_async()')
        calls = self._running()
        node, ended = calls.start(process, merge_inputs(inputs, kwargs), blocking=True)
        try:
            calls.wait_for(node, ended, None, 'run()', 'await engine.run_async()')
            return _outcome(calls, process, node), node
        except KeyboardInterrupt:
            calls.interrupted(node.pid)
            raise
        finally:
            self.terminations.forget(node.pid, ended)

    def submit(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> ProcessNode:
        """Start a process in the background; it is durable when this returns.

        Arguments and errors as for :meth:`run`.
        """
        refuse_on_loop_thread('submit()', 'await engine.run_async(), or self.submit() inside a step')
        node, ended = self._running().start(process, merge_inputs(inputs, kwargs), blocking=False)
        self.terminations.forget(node.pid, ended)
        return node

    async def run_async(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> Any:
        """:meth:`run` for a host with a running loop: validates at once, then awaits the end.

        Cancelling the call leaves the process running; kill it if that is what you want.
        """
        calls = self._running()
        node, ended = await calls.start_async(process, merge_inputs(inputs, kwargs))
        try:
            await self._await_end(node, ended)
            return _outcome(calls, process, node)
        finally:
            self.terminations.forget(node.pid, ended)

    # -- looking and waiting -----------------------------------------------------------------------------------

    @overload
    def wait(self, process: int | ProcessNode, timeout: float | None = None) -> ProcessNode: ...
    @overload
    def wait(
        self, process: Iterable[int | ProcessNode], timeout: float | None = None
    ) -> list[ProcessNode]: ...
    def wait(self, process: Any, timeout: float | None = None) -> ProcessNode | list[ProcessNode]:
        """Block until the process, or all of several, have ended.

        :param process: a pid, a node, or an iterable of them.
        :param timeout: seconds; ``None`` waits for ever.
        :returns: the final node, or the list of them.
        :raises ProcessNotFound: there is no such process.
        :raises TimeoutError: not all have ended in time; they go on.
        """
        refuse_on_loop_thread('wait()', 'await engine.wait_async()')
        calls = self._running()
        nodes = self._nodes_of(process)
        deadline = None if timeout is None else time.monotonic() + timeout
        for node in nodes:
            ended = calls.end_of(node)
            try:
                calls.wait_for(node, ended, remaining(deadline), 'wait()', 'await engine.wait_async()')
            finally:
                self.terminations.forget(node.pid, ended)
        return nodes[0] if isinstance(process, (int, ProcessNode)) else nodes

    async def wait_async(self, process: Any) -> ProcessNode | list[ProcessNode]:
        """:meth:`wait` for a host with a running loop; bound it with :func:`asyncio.timeout`."""
        calls = self._running()
        nodes = self._nodes_of(process)
        for node in nodes:
            calls.refuse_unborn(node, 'wait_async()')
            ended = calls.end_of(node)
            try:
                await self._await_end(node, ended)
            finally:
                self.terminations.forget(node.pid, ended)
        return nodes[0] if isinstance(process, (int, ProcessNode)) else nodes

    async def _await_end(self, node: ProcessNode, ended: End) -> None:
        visit = current_visit()
        if visit is None or visit.host is not self:
            node._use(await wait_on_loop(ended))
            return
        with visit.blocking_on(ended):
            node._use(await wait_on_loop(ended))

    def _nodes_of(self, process: Any) -> list[ProcessNode]:
        if isinstance(process, (int, ProcessNode)):
            process = [process]
        return [each if isinstance(each, ProcessNode) else self.load(each) for each in process]

    def future(self, pid: int | ProcessNode) -> Future[ProcessNode]:
        """A future of the final node; cancelling it leaves the process alone.

        :raises ProcessNotFound: there is no such process.
        """
        calls = self._running()
        (node,) = self._nodes_of(pid)
        final: Future[ProcessNode] = Future()
        ended = calls.end_of(node)

        def resolve(done: End) -> None:
            self.terminations.forget(node.pid, ended)
            if final.set_running_or_notify_cancel():
                error = done.exception()
                if error is None:
                    node._use(done.result())
                    final.set_result(node)
                else:
                    final.set_exception(error)

        def forget(done: Future[ProcessNode]) -> None:
            if done.cancelled():
                self.terminations.forget(node.pid, ended)

        ended.add_done_callback(resolve)
        final.add_done_callback(forget)
        return final

    def load(self, pid: int) -> ProcessNode:
        """The node of a process.

        :raises ProcessNotFound: there is none.
        """
        self._running()
        return ProcessNode(pid, self.source, self.source.reader.process(pid))

    def query(
        self,
        *,
        states: Collection[str | ProcessState] = (),
        process_label: str | None = None,
        key: str | None = None,
        top_level: bool = False,
        limit: int | None = None,
    ) -> list[ProcessNode]:
        """Processes by what they are, newest first.

        :param states: any of these states; none means all.
        :param process_label: the name of the class or function.
        :param key: the idempotency key.
        :param top_level: leave out what other processes have called.
        :param limit: at most so many.
        """
        self._running()
        records = self.source.reader.query(
            states=[ProcessState(state).value for state in states],
            process_label=process_label,
            key=key,
            top_level=top_level,
            limit=limit,
        )
        return [ProcessNode(record.pid, self.source, record) for record in records]

    def unfinished(self) -> list[int]:
        """The pids that this engine has submitted, not their children, and that have not ended; also after a stop."""
        if self._state != 'stopped':
            self._running()
        return self.source.reader.unfinished_of(self._membership.engine_id)

    # -- control -----------------------------------------------------------------------------------------------

    def kill(self, pid: int | ProcessNode, message: str | None = None) -> bool:
        """Kill a process and its descendants; durable when this returns, whatever runs.

        A step that executes is not interrupted: its results are dropped when it returns.

        :returns: whether it was killed by this call; ``False`` when it had ended before.
        :raises ProcessNotFound: there is no such process.
        """
        calls = self._running()
        (node,) = self._nodes_of(pid)
        killed = calls.kill([node.pid], message or 'killed').result()
        return node.pid in killed

    # -- for processes: see treadle.engine.processes.visit.Host ------------------------------------------------

    @property
    def codec(self) -> Codec:
        """Turns this store's values into text and back."""
        return self.source.codec

    def submit_child(
        self, visit: Visit, target: Any, inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
    ) -> ProcessNode:
        """Make a child part of a step's unit; what ``Process.submit`` does."""
        return self._running().submit_child(visit, target, inputs, kwargs)

    def nodes(self, pids: Sequence[int]) -> list[ProcessNode]:
        """The nodes of these processes, read in one go."""
        return [ProcessNode(record.pid, self.source, record) for record in self.source.reader.processes(pids)]

    def call_function(
        self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ProcessNode]:
        """Run a process function in the calling thread; what calling it does."""
        refuse_on_loop_thread(f'{target.__name__}()', f'await asyncio.to_thread({target.__name__}, ...)')
        return self._running().call_function(target, args, kwargs)

    # -- for the parts -----------------------------------------------------------------------------------------

    def _admits(self, record: ProcessRecord) -> bool:
        return self._claims.admits(record)

    def committed(self, changes: Sequence[StateChange], claims: Sequence[ProcessRecord]) -> None:
        """Changes are durable; on the store thread, right after the commit."""
        killed = [change.pid for change in changes if change.after == ProcessState.KILLED]
        if killed:
            self.aborts.killed(killed)
        self.terminations.ended(change.pid for change in changes if change.after in TERMINAL_STATES)
        if claims:
            self.dispatcher.dispatch(claims)

    def park(self, pid: int, reason: str) -> None:
        """Leave a process alone that this engine cannot run, and tell whoever waits for it."""
        LOGGER.warning('process %d is parked: %s', pid, reason)
        self._claims.park(pid, reason)
        self.terminations.fail(pid, ProcessParked(f'process {pid} is parked: {reason}'))

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with a process, if it does not."""
        return self._claims.why_parked(pid)

    def has_room(self) -> None:
        """A process has left; take others if some were turned away."""
        if self.dispatcher.turned_away and self.dispatcher.is_half_empty:
            self._claims.look()

    def _tick(self) -> None:
        self._membership.beat()
        if self._database.changed_elsewhere():
            self._claims.look(ends=True)
        else:
            self._claims.look_if_due()


def _in_time(over: Future[None], deadline: float) -> bool:
    try:
        wait(over, remaining(deadline), what='stop()')
    except TimeoutError:
        return False
    return True


def _outcome(calls: Calls, process: Any, node: ProcessNode) -> Any:
    return calls.returned(node) if isinstance(process, ProcessFunction) else calls.outcome(node)
