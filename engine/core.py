"""The parts of an engine, put together: who knows whom, in which order they start and stop, and who hears what.

``Engine`` is the public face of this. The parts know each other through it, each by the few attributes that it needs
(see :class:`~.execution.EngineParts`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

from ..threads import ForkGuard, Group, LoopThread, StepThreads, StopTimeout, Watchdog, run_in_child, wait
from . import logging as process_logging
from .aborts import Aborts
from .audience import Audience
from .calls import remaining
from .claims import Claims
from .communication import LocalCommunicator
from .communication.publisher import Publisher
from .config import Diagnostics
from .dispatcher import Dispatcher
from .errors import EngineStopped, ProcessParked, StepAborted, StoreUnavailable
from .exit_code import ExitCode
from .faults import FaultPoint, Faults
from .homes import Homes
from .membership import Membership
from .node import ProcessNode, Source
from .processes.attributes import AttributeDict, FrozenAttributes
from .processes.visit import Visit
from .states import TERMINAL_STATES, ProcessState
from .store import notes
from .store.location import StoreLocation
from .store.records import PARKS, EngineRecord, LogEntry, ProcessRecord, StateChange
from .store.store_thread import Failure, StoreThread
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
        lease: float,
        max_crashes: int,
        diagnostics: Diagnostics,
        faults: Faults,
        host: Engine,
    ) -> None:
        self.name = name
        self.location = location
        self.faults = faults
        self._worker_count = workers
        self._claims_all = claims_all
        self._switch_interval = switch_interval
        self._lease_seconds = lease
        self._max_crashes = max_crashes
        self._diagnostics = diagnostics
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
        self.audience = Audience()
        self.communicator = LocalCommunicator(name)
        self.audience.add(
            Publisher(self.communicator).publish, name='broadcasts', wanted=lambda: self.communicator.is_heard
        )
        self.homes = Homes()
        self.dispatcher = Dispatcher(
            capacity=max(HELD_AT_LEAST, HELD_PER_STEP * self.steps.permits),
            blocked=lambda: self.steps.blocked_count,
            suspect_from=max(1, max_crashes - 1),
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
            self._logging = process_logging.install(self._diagnostics.logging)
            try:
                self._build()
                self._group.start(timeout)
            except BaseException:
                self._logging.release()
                raise
        except BaseException as error:
            self._dismiss(time.monotonic())
            self._is_down()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    f'the store {self.location.path} did not take a write within {timeout:g} s; end whatever holds a '
                    f'long transaction on it (an open database browser, a backup), and try again'
                ) from error
            raise

    def begin(self) -> None:
        """Take calls, and look for what is to be run."""
        self.claims.begin(self.membership)
        self.dispatcher.open([worker.give for worker in self._workers])
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
            lease=self._lease_seconds,
            max_crashes=self._max_crashes,
            live_engines=self.source.reader.live_engines,
            still_running=lambda: [visit.pid for visit in self.dispatcher.visits()],
        )
        self.claims = Claims(parts=self, claims_all=self._claims_all)
        names = [f'treadle-worker-{number}' for number in range(1, self._worker_count + 1)]
        self._workers = [
            Worker(name, engine=self._host, on_crash=self._worker_crashed, diagnostics=self._diagnostics)
            for name in names
        ]
        threads = [worker.thread for worker in self._workers]
        threshold = self._diagnostics.watchdog
        watchdogs = [Watchdog(threads, threshold=threshold)] if threshold else []
        self._group = Group(
            f'engine {self.name!r}',
            [self.store, self.membership, self.steps, *threads, *watchdogs],
            stop_order=[
                [watchdog.name for watchdog in watchdogs],
                names,
                [self.steps.name],
                [self.membership.name],
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
        unheard: StopTimeout | None = None
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
        except KeyboardInterrupt:
            deadline = time.monotonic()
            raise
        finally:
            self._abandon_after([self.dispatcher.end_of(visit) for visit in self.dispatcher.visits()])
            unheard = self._dismiss(deadline)
            self.source.reader.close()
            self._logging.release()
            self._is_down()
            if unheard is not None and sys.exception() is not None:
                LOGGER.warning('%s', unheard)
        if unheard is not None:
            raise unheard

    def _dismiss(self, deadline: float) -> StopTimeout | None:
        """Let listeners and subscribers hear the last changes; what stands in the way, if they do not return."""
        self.terminations.close()  # they may wait for processes, and nobody will tell them of an end any more
        late = []
        for close in (self.audience.close, self.communicator.close):  # the one speaks through the other
            try:
                close(max(remaining(deadline) or 0.0, CLOSING_LEAST))
            except StopTimeout as error:
                late.append(error)
        if not late:
            return None
        names = tuple(name for error in late for name in error.names)
        return StopTimeout(
            f'engine {self.name!r} has stopped, and who listens to it has not: {"; ".join(map(str, late))}', names=names
        )

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

    def committed(
        self, changes: Sequence[StateChange], claims: Sequence[ProcessRecord], pauses: Mapping[int, bool]
    ) -> None:
        """Changes are durable; on the store thread, right after the commit."""
        killed = [change.pid for change in changes if change.after == ProcessState.KILLED]
        if killed:
            self.aborts.killed(killed)
        self.terminations.ended(change.pid for change in changes if change.after in TERMINAL_STATES)
        if claims:
            self.dispatcher.dispatch(claims)
        self.audience.tell(changes, pauses)

    def paused(self, pauses: Mapping[int, bool]) -> None:
        """Processes are durably paused, or no longer; on the store thread, right after the commit."""
        self.dispatcher.pause(pauses)

    def next_life(self) -> EngineRecord | None:
        """The row to go on under, since this engine was declared dead; on the store thread."""
        return self.membership.next_life()

    def began_life(self, engine_id: int) -> None:
        """That row is durable; on the store thread. All that was held is held no longer."""
        before = self.membership.engine_id
        self.membership.begin_life(engine_id)
        self.claims.add_origin(engine_id)
        self.aborts.lost()
        LOGGER.critical(
            'engine %d (%r) was silent for its lease of %g s and was declared dead; it has written nothing since, what '
            'it ran is taken over, and it goes on as engine %d. Was the machine suspended, the OS process stopped, or '
            'the interpreter held up?', before, self.name, self.membership.lease.seconds, engine_id,
        )  # fmt: skip
        self.faults.hit(FaultPoint.ENGINE_REJOINED)
        self.claims.look()

    @property
    def engine_id(self) -> int:
        """The engine's number in the store, at present."""
        return self.membership.engine_id

    def park(self, pid: int, reason: str) -> None:
        """Leave a process alone that this engine cannot run, and tell whoever waits for it."""
        LOGGER.warning('process %d is parked: %s', pid, reason)
        self.tell_parked(pid, reason)
        self.claims.park(pid, reason)
        self.terminations.fail(pid, ProcessParked(f'process {pid} is parked: {reason}'))

    def tell_parked(self, pid: int, reason: str) -> None:
        """Say in the log stream of a process why this engine leaves it alone, for those who look without an engine."""
        entry = LogEntry(pid, time.time(), logging.WARNING, PARKS, reason)
        with contextlib.suppress(EngineStopped):
            self.store.post(lambda transaction: notes.log_once(transaction, entry), _told)

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with a process, if it does not."""
        return self.claims.why_parked(pid)

    def has_room(self) -> None:
        """A process has left; take others if some were turned away."""
        if self.dispatcher.is_to_look:
            self.claims.look()

    def _tick(self) -> None:
        self.membership.beat()
        if self.state in ('starting', 'stopped'):  # or the start has failed, and the store still writes
            return
        self.homes.check()
        if self._database.changed_elsewhere():
            self.claims.hear()
        if self.membership.is_to_watch():
            self.claims.watch()
        self.claims.look_if_due()


def _told(answer: object) -> None:
    if isinstance(answer, Failure):
        LOGGER.debug('the reason of a parking could not be kept: %s', answer.error)


def _in_time(over: Future[None], deadline: float) -> bool:
    try:
        wait(over, remaining(deadline), what='stop()')
    except TimeoutError:
        return False
    return True
