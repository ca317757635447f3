"""The parts of an engine, put together: who knows whom, in which order they start and stop, and who hears what.

``Engine`` is the public face of this. The parts know each other through it, each by the few attributes that it needs
(see :class:`~.execution.EngineParts`).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

from ..threads import ForkGuard, Group, LoopThread, StepThreads, StopTimeout, Watchdog, run_in_child, wait
from . import logging as process_logging
from .aborts import Aborts
from .calls import remaining
from .claims import Claims
from .dispatcher import Dispatcher
from .errors import EngineStopped, ProcessParked, StepAborted
from .exit_code import ExitCode
from .faults import Faults
from .homes import Homes
from .membership import Membership
from .node import ProcessNode, Source
from .processes.attributes import AttributeDict, FrozenAttributes
from .processes.visit import Visit
from .states import TERMINAL_STATES, ProcessState
from .store.location import StoreLocation
from .store.records import ProcessRecord, StateChange
from .store.store_thread import StoreThread
from .terminations import Terminations
from .values import Codec, DiskObjects, Reference
from .worker import Worker

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ['Core']

LOGGER = logging.getLogger(__name__)

#: How many processes an engine holds at once, at least, and for each step that may execute.
HELD_AT_LEAST, HELD_PER_STEP = 256, 8
#: The part of a stop's time that is kept for closing, when steps take all the rest; that part at most, in seconds; and
#: what closing gets in any case, even if the stop takes so much longer than it was given.
CLOSING_SHARE, CLOSING_MOST, CLOSING_LEAST = 0.3, 5.0, 0.5

State = Literal['new', 'starting', 'running', 'stopping', 'stopped']


class Core:
    """An engine's parts and their common life.

    :param host: the engine as processes see it.
    """

    def __init__(
        self,
        *,
        name: str,
        location: StoreLocation,
        workers: int,
        steps: int,
        claims_all: bool,
        switch_interval: float | None,
        faults: Faults,
        host: Engine,
    ) -> None:
        self.name = name
        self.location = location
        self.faults = faults
        self._worker_count = workers
        self._claims_all = claims_all
        self._switch_interval = switch_interval
        self._host = host
        self._fork_guard = ForkGuard(remedy='create and start an engine of its own in the child')
        self._state_lock = threading.Lock()
        self.state: State = 'new'
        #: What one of the engine's own threads died of; it takes no calls then, and is still to be stopped.
        self.crash: BaseException | None = None
        self._came_up: Future[None] = Future()
        self._went_down: Future[None] = Future()
        self.steps = StepThreads(permits=steps)
        self.terminations = Terminations()
        self.homes = Homes()
        self.dispatcher = Dispatcher(
            capacity=max(HELD_AT_LEAST, HELD_PER_STEP * self.steps.permits),
            blocked=lambda: self.steps.blocked_count,
            admits=lambda record: self.claims.admits(record),
            homes=self.homes,
        )
        self.aborts = Aborts(dispatcher=self.dispatcher, run_beside=self.steps.post_beside)
        run_in_child(self._after_fork)

    # -- starting ------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> None:
        """Open the store and start the threads; the engine takes calls from :meth:`begin` on."""
        self.check_fork()
        with self._state_lock:
            if self.state != 'new':
                raise EngineStopped(f'engine {self.name!r} is {self.state}; an engine starts once, create another')
            self.state = 'starting'
        try:
            self._build()
            self._group.start(timeout)
        except BaseException:
            self._is_down()
            raise

    def begin(self) -> None:
        """Take calls, and look for what is to be run."""
        self.claims.begin(self.membership)
        self.dispatcher.open([worker.give for worker in self._workers])
        process_logging.install()
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
        with self._state_lock:
            self.state = 'running'
        self._came_up.set_result(None)
        self.claims.look()

    def _build(self) -> None:
        # The database adapter imports SQLAlchemy, which takes longer than all the rest together.
        from .store.database import SqliteDatabase, open_reader  # noqa: PLC0415
        from .store.statements import SqliteDialect, Statements  # noqa: PLC0415

        statements = Statements(SqliteDialect())
        self._database = SqliteDatabase(self.location)
        self.source = Source(open_reader(self.location, statements), self._make_codec())
        self.store = StoreThread(
            database=self._database,
            statements=statements,
            admission=self.dispatcher,
            listener=self,
            faults=self.faults,
            tick=self._tick,
            on_crash=self._give_up,
        )
        self.membership = Membership(
            engine_name=self.name,
            location=self.location,
            store=self.store,
            faults=self.faults,
            still_running=lambda: [visit.pid for visit in self.dispatcher.visits()],
        )
        self.claims = Claims(parts=self, claims_all=self._claims_all)
        names = [f'treadle-worker-{number}' for number in range(1, self._worker_count + 1)]
        self._workers = [Worker(name, engine=self._host, on_crash=self._worker_crashed) for name in names]
        threads = [worker.thread for worker in self._workers]
        watchdog = Watchdog(threads)
        self._group = Group(
            f'engine {self.name!r}',
            [self.store, self.membership, self.steps, *threads, watchdog],
            stop_order=[[watchdog.name], names, [self.steps.name], [self.membership.name], [self.store.name]],
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

    # -- stopping ------------------------------------------------------------------------------------------

    def stop(self, deadline: float) -> None:
        """Stop once; every caller returns when the engine has stopped.

        :param deadline: on the monotonic clock.
        :raises StopTimeout: steps still execute, or another thread is still stopping the engine.
        """
        if self.state == 'starting' and not _in_time(self._came_up, deadline):
            raise StopTimeout(f'engine {self.name!r} is still being started by another thread')
        with self._state_lock:
            mine = self.state == 'running'
            if mine:
                self.state = 'stopping'
        if mine:
            self._wind_down(deadline)
        elif self.state == 'stopping' and not _in_time(self._went_down, deadline):
            raise StopTimeout(f'engine {self.name!r} is still being stopped by another thread')

    def _wind_down(self, deadline: float) -> None:
        timeout = remaining(deadline) or 0.0
        closing = min(CLOSING_SHARE * timeout, CLOSING_MOST)
        reason = self.begin_no_step()
        try:
            self.homes.close(deadline - closing)
            going = [(visit, self.dispatcher.end_of(visit)) for visit in self.dispatcher.visits()]
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

    def begin_no_step(self) -> StepAborted:
        """Begin no further step, and unwind those that are blocked in a call: no verdict on their processes."""
        self.dispatcher.close()
        reason = StepAborted(f'engine {self.name!r} stops; the process goes on when an engine claims it')
        for visit in self.dispatcher.visits():
            visit.interrupt(reason)
        return reason

    def _refuse_to_forget(self, late: Sequence[Visit]) -> None:
        # Functions that were called from plain code, and coroutine steps on loops of the user's; other steps are named
        # by the threads they execute on.
        if late:
            pids = ', '.join(str(visit.pid) for visit in late)
            raise StopTimeout(
                f'engine {self.name!r} did not stop in time: process {pids} executes in the code that called it, or '
                f'has a step on the loop of a Runner, which does not come to its end there'
            )

    def _abandon_after(self, late: list[Future[None]]) -> None:
        """Keep the lock, and with it the claims, until the last of these steps is over.

        There may be none although some were there when the membership ended, or the stop was interrupted before.
        """
        left = set(late)

        def over(one: Future[None] | None) -> None:
            if one is not None:
                left.discard(one)
            if not left:
                self.membership.abandon()

        over(None)
        for one in late:
            one.add_done_callback(over)

    def _is_down(self) -> None:
        with self._state_lock:
            self.state = 'stopped'
        self.terminations.close()
        for told in (self._came_up, self._went_down):
            if not told.done():
                told.set_result(None)

    def _give_up(self, error: BaseException) -> None:
        if self.crash is None:
            self.crash = error
        self.begin_no_step()
        self.terminations.close()

    def _worker_crashed(self, thread: LoopThread, error: BaseException) -> None:
        LOGGER.critical('%s crashed; the engine stops', thread.name, exc_info=error)
        self._give_up(error)

    # -- forks ---------------------------------------------------------------------------------------------

    @property
    def forked(self) -> bool:
        """Whether this is another OS process than the engine's."""
        return self._fork_guard.forked

    def check_fork(self) -> None:
        """Raise ``Forked`` in any OS process but the engine's own."""
        self._fork_guard.check(f'engine {self.name!r}')

    def _after_fork(self) -> None:
        self._state_lock = threading.Lock()
        if hasattr(self, 'source'):
            self.source.reader.forget_connections()

    # -- what the parts tell each other ----------------------------------------------------------------------

    def committed(self, changes: Sequence[StateChange], claims: Sequence[ProcessRecord]) -> None:
        """Changes are durable; on the store thread, right after the commit."""
        killed = [change.pid for change in changes if change.after == ProcessState.KILLED]
        if killed:
            self.aborts.killed(killed)
        self.terminations.ended(change.pid for change in changes if change.after in TERMINAL_STATES)
        if claims:
            self.dispatcher.dispatch(claims)

    def paused(self, pauses: Mapping[int, bool]) -> None:
        """Processes are durably paused, or no longer; on the store thread, right after the commit."""
        self.dispatcher.pause(pauses)

    def park(self, pid: int, reason: str) -> None:
        """Leave a process alone that this engine cannot run, and tell whoever waits for it."""
        LOGGER.warning('process %d is parked: %s', pid, reason)
        self.claims.park(pid, reason)
        self.terminations.fail(pid, ProcessParked(f'process {pid} is parked: {reason}'))

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with a process, if it does not."""
        return self.claims.why_parked(pid)

    def has_room(self) -> None:
        """A process has left; take others if some were turned away."""
        if self.dispatcher.turned_away and self.dispatcher.is_half_empty:
            self.claims.look()

    def _tick(self) -> None:
        self.membership.beat()
        self.homes.check()
        if self._database.changed_elsewhere():
            self.claims.look(ends=True)
        else:
            self.claims.look_if_due()


def _in_time(over: Future[None], deadline: float) -> bool:
    try:
        wait(over, remaining(deadline), what='stop()')
    except TimeoutError:
        return False
    return True
