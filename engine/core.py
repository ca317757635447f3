"""The parts of an engine, put together: who knows whom, how they start and stop, and whether calls are taken.

``Engine`` is the public face of this. The parts know each other through it, each by the few attributes that it needs
(see :class:`~.parts.EngineParts`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

from ..threads import ForkGuard, Group, LoopThread, StepThreads, StopTimeout, Watchdog, run_in_child
from . import logging as process_logging
from .aborts import Aborts
from .audience import Audience
from .calls import Calls
from .claims import Claims
from .communication import Communicator
from .communication.messages import HINT_CHANGES, HINT_WORK
from .config import Diagnostics
from .desk.timing import Timing
from .dispatcher import Dispatcher
from .errors import EngineStopped, LeaseLost, ProcessParked, StepAborted, StoreLost, StoreUnavailable
from .exit_code import ExitCode
from .faults import Faults
from .homes import Homes
from .membership import Membership
from .messaging import Broadcasts, Messaging
from .node import ProcessNode, Source
from .process_host import ProcessHost
from .processes.attributes import AttributeDict, FrozenAttributes
from .processes.visit import current_visit
from .stopping import CLOSING_MOST, dismiss, is_over_by, wind_down
from .store.database import BUSY_PATIENCE
from .store.location import StoreLocation
from .store.notes import log_once
from .store.records import PARKS, LogEntry
from .store.store_thread import Failure, StoreThread
from .store_listener import StoreListener
from .terminations import Terminations
from .transports import ConnectionAuthority
from .values import Codec, Reference
from .worker import Worker

if TYPE_CHECKING:
    from .communication.address import BrokerAddress
    from .engine import Engine

__all__ = ['Core']

LOGGER = logging.getLogger(__name__)

#: How many processes an engine holds at once, at least, and for each step that may execute.
HELD_AT_LEAST, HELD_PER_STEP = 256, 8

State = Literal['new', 'starting', 'running', 'stopping', 'stopped']


class Core:
    """An engine's parts and their common life.

    :param engine: the public face.
    :ivar host: the engine as its processes see it.
    """

    def __init__(
        self,
        *,
        name: str,
        location: StoreLocation,
        broker: BrokerAddress | None,
        broadcasts: Broadcasts,
        workers: int,
        steps: int,
        claims_all: bool,
        switch_interval: float | None,
        lease: float,
        max_crashes: int,
        diagnostics: Diagnostics,
        faults: Faults,
        timing: Timing,
        engine: Engine,
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
        self._timing = timing
        self._engine = engine
        self.host = ProcessHost(engine=engine, core=self)
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
        self.messaging = Messaging(
            name=name,
            broker=broker,
            broadcasts=broadcasts,
            audience=self.audience,
            diagnostics=diagnostics,
            on_hint=self._hinted,
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

    def start(self, timeout: float, *, needs_broker: bool = True) -> None:
        """Open the store and start the threads; the engine takes calls from :meth:`begin` on."""
        deadline = time.monotonic() + timeout
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
                self._start_messaging(deadline, needs_broker)
            except BaseException:
                self._logging.release()
                raise
        except BaseException as error:
            dismiss(self, time.monotonic())
            self._is_down()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    f'the store {self.location} did not take a write within {timeout:g} s; end whatever holds a '
                    f'long transaction on it (an open database browser, a backup), and try again'
                ) from error
            raise

    def _start_messaging(self, deadline: float, needs_broker: bool) -> None:
        try:
            self.messaging.start(self.location, deadline, needs_broker=needs_broker)
        except BaseException:
            self._group.stop(CLOSING_MOST)
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
        statements = self.location.statements()
        self.database = self.location.make_database(name=f'treadle {self.name}', lease=self._lease_seconds)
        self._objects = self.location.objects(patience=BUSY_PATIENCE)
        self.source = Source(self.location.open_reader(patience=BUSY_PATIENCE), self._make_codec())
        listener = StoreListener(self)
        self.store = StoreThread(
            database=self.database,
            statements=statements,
            admission=self.dispatcher,
            listener=listener,
            faults=self.faults,
            tick=listener.tick,
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
        # What looks after jobs takes a while to import; a program that starts no engine goes without.
        from .desk.desks import Desks  # noqa: PLC0415

        self.connections = ConnectionAuthority()
        self.desks = Desks(parts=self, timing=self._timing)
        self.claims: Claims = Claims(parts=self, claims_all=self._claims_all)
        self.calls = Calls(parts=self, host=self.host)
        self.messaging.take_over_replies(self, self.calls, self.audience)
        names = [f'treadle-worker-{number}' for number in range(1, self._worker_count + 1)]
        self._workers = [
            Worker(name, engine=self._engine, on_crash=self._worker_crashed, diagnostics=self._diagnostics)
            for name in names
        ]
        threads = [worker.thread for worker in self._workers]
        threshold = self._diagnostics.watchdog
        watchdogs = [Watchdog([*threads, *self.messaging.threads], threshold=threshold)] if threshold else []
        self._group: Group = Group(
            f'engine {self.name!r}',
            [self.store, self.membership, self.connections, self.steps, *threads, *watchdogs],
            stop_order=[
                [watchdog.name for watchdog in watchdogs],
                names,
                [self.connections.name],
                [self.steps.name],
                [self.membership.name],
                [self.store.name],
            ],
        )

    def _make_codec(self) -> Codec:
        return Codec(
            objects=self._objects,
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
        if self.state == 'starting' and not is_over_by(deadline, self._came_up):
            raise StopTimeout(f'engine {self.name!r} is still being started by another thread')
        with self._state_lock:
            mine = self.state == 'running'
            if mine:
                self.state = 'stopping'
        if mine:
            self._wind_down(deadline)
        elif self.state == 'stopping' and not is_over_by(deadline, self._went_down):
            raise StopTimeout(f'engine {self.name!r} is still being stopped by another thread')

    def _wind_down(self, deadline: float) -> None:
        try:
            wind_down(self, self._group, deadline)
        finally:
            self.source.reader.close()
            self._objects.close()
            self._logging.release()
            self._is_down()

    def begin_no_step(self) -> StepAborted:
        """Begin no further step, and unwind those that are blocked in a call: no verdict on their processes."""
        self.dispatcher.close()
        reason = StepAborted(f'engine {self.name!r} stops; the process goes on when an engine claims it')
        for visit in self.dispatcher.visits():
            visit.interrupt(reason)
        return reason

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
        if isinstance(error, StoreLost):
            # What has begun is run again elsewhere, and may leave nothing running here.
            for visit in self.dispatcher.visits():
                self.aborts.abort(visit, LeaseLost(f'process {visit.pid}: {error}'), self.steps.post_beside)
        self.terminations.close(str(error) if isinstance(error, StoreLost) else None)

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

    # -- calls ---------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether calls are taken, in this OS process."""
        return self.state == 'running' and self.crash is None and not self.forked

    def take_call(self) -> Calls:
        """What the engine does for its callers, if it takes calls now.

        :raises EngineStopped: it is not started, has stopped or has crashed; says what to do.
        :raises Forked: this is another OS process than the engine's.
        """
        self.check_fork()
        state, visit = self.state, current_visit()
        if state in ('running', 'stopping') and visit is not None and visit.host is self.host:
            # A step may come to its checkpoint, also when the engine stops or has crashed; a call that would block it
            # raises what unwinds it, see Waits.
            return self.calls
        if state in ('new', 'starting'):
            raise EngineStopped(
                f'engine {self.name!r} is not started; use it as a context manager or call start()'
            )
        if state != 'running':
            raise EngineStopped(f'engine {self.name!r} is {state}; create and start another')
        if isinstance(self.crash, StoreLost):
            raise EngineStopped(f'engine {self.name!r} has ended: {self.crash}') from self.crash
        if self.crash is not None:
            raise EngineStopped(
                f'engine {self.name!r} has crashed; stop it, then create and start another'
            ) from self.crash
        return self.calls

    @property
    def communicator(self) -> Communicator:
        """Carries the engine's messages."""
        return self.messaging.communicator

    def _hinted(self, letters: str) -> None:
        """Another engine has committed something; on the communicator's loop."""
        if self.state == 'running':
            self.claims.hinted(work=HINT_WORK in letters, changes=HINT_CHANGES in letters)

    # -- what the parts ask of each other: see EngineParts ---------------------------------------------------

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
            self.store.post(lambda transaction: log_once(transaction, entry), _told)

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with a process, if it does not."""
        return self.claims.why_parked(pid)

    def has_room(self) -> None:
        """A process has left; take others if some were turned away."""
        if self.dispatcher.is_to_look:
            self.claims.look()
        elif self.dispatcher.has_room_for_more:
            self.claims.look_in_time()


def _told(answer: object) -> None:
    if isinstance(answer, Failure):
        LOGGER.debug('the reason of a parking could not be kept: %s', answer.error)
