"""An engine among the engines of a store: its row, its lock file, its heartbeat, and the dead ones it finds.

Two things show a death. On one host it is the lock file, and at once: the operating system frees it in the moment in
which the engine's OS process ends, however it ends. Everywhere it is silence: a heartbeat that has stood still for a
whole lease (see :mod:`.lease`). Either way the death is declared in one transaction that also takes away what the
engine owned, so that whatever the declared one writes later is refused.

An engine that was only stalled (stopped, suspended, starved) finds in its next transaction that it was declared dead.
It then begins another life in that very transaction, under a new id: the old one is never used again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from .errors import EngineStopped, StoreError
from .faults import FaultPoint, Faults
from .lease import Lease, Silences
from .processes.identity import script_of_main
from .store.engines import beat, declare_dead, end_engine, register_engine, release_all_but
from .store.liveness import lock_path
from .store.location import StoreLocation
from .store.lockfile import EngineLock, try_take
from .store.records import EngineRecord
from .store.store_thread import Failure, StoreThread
from .store.transaction import Transaction

__all__ = ['Membership']

LOGGER = logging.getLogger(__name__)

#: How many heartbeats are sent in the time of a lease.
BEATS = 10


class Membership:
    """This engine's place in the store; a member of the engine's group, between the store and the workers.

    :param lease: seconds of silence after which others may take over what this engine owns.
    :param max_crashes: how many deaths of its engine a process may have seen, without a step of it having been
        committed in between, before it is set aside.
    :param live_engines: reads the rows of the engines that have not ended.
    :param still_running: the pids whose steps execute, whatever else has stopped.
    """

    name = 'membership'

    def __init__(
        self,
        *,
        engine_name: str,
        location: StoreLocation,
        store: StoreThread,
        faults: Faults,
        lease: float,
        max_crashes: int,
        live_engines: Callable[[], list[EngineRecord]],
        still_running: Callable[[], list[int]],
    ) -> None:
        self._engine_name = engine_name
        self._location = location
        self._store = store
        self._faults = faults
        self._max_crashes = max_crashes
        self._live_engines = live_engines
        self._still_running = still_running
        self._boot_id = _boot_id()
        self._lock: EngineLock | None = None
        self._next: tuple[EngineLock, EngineRecord] | None = None
        self._leaves = False
        self._beat_due = 0.0
        self._watch_due = 0.0
        self._watch_interval = lease / BEATS
        self._silences = Silences()
        self.lease = Lease(lease)
        self.engine_id = 0
        #: All ids that this engine has had, the present one last.
        self.lives: tuple[int, ...] = ()
        self.script = script_of_main()

    # -- this engine -----------------------------------------------------------------------------------------

    def start(self, timeout: float | None = None) -> None:
        """Take the lock, write the row, and release what engines of this host have left that are no more."""
        record = self.next_life()
        if record is None:
            raise EngineStopped(f'engine {self._engine_name!r} is stopping')
        sent = self.lease.send()
        engine_id = self._store.call(lambda transaction: self._register(transaction, record)).result(timeout)
        self.begin_life(engine_id)
        self._store.engine_id = engine_id
        self.lease.confirm(sent)
        self._faults.hit(FaultPoint.ENGINE_REGISTERED)
        self.release_the_dead()

    def _register(self, transaction: Transaction, record: EngineRecord) -> int:
        if self._leaves:  # the start was given up while the store was busy
            raise EngineStopped(f'engine {self._engine_name!r} was not started in time')
        return register_engine(transaction, record)

    def next_life(self) -> EngineRecord | None:
        """The row under which this engine begins, or goes on after it was declared dead; its lock is taken by then.

        The same until :meth:`begin_life`, since a transaction may have to be tried again. ``None`` when it leaves.

        :raises StoreError: the lock file cannot be made.
        """
        if self._leaves:
            return None
        if self._next is None:
            record = EngineRecord(
                id=0,
                uuid=str(uuid.uuid4()),
                name=self._engine_name,
                host=socket.gethostname(),
                boot_id=self._boot_id,
                os_pid=os.getpid(),
                script=self.script,
                started_at=time.time(),
                heartbeat=0,
                lease=self.lease.seconds,
                ended=None,
                beat_at=time.time(),
            )
            lock = EngineLock(lock_path(self._location, record.uuid))
            lock.acquire()
            self._next = lock, record
        return self._next[1]

    def begin_life(self, engine_id: int) -> None:
        """The row of :meth:`next_life` is durable under this id."""
        if self._next is None:
            raise RuntimeError('a life has begun that nobody asked for')
        before, (self._lock, _) = self._lock, self._next
        self._next = None
        self.engine_id = engine_id
        self.lives = (*self.lives, engine_id)
        if before is not None:
            with contextlib.suppress(StoreError):  # whoever meets the file finds it free, and its engine ended
                before.release()

    def beat(self) -> None:
        """Raise the heartbeat when it is due; on the store thread."""
        now = time.monotonic()
        if self.engine_id and now >= self._beat_due:
            self._beat_due = now + self.lease.seconds / BEATS
            with contextlib.suppress(EngineStopped):  # it is stopping, and says so in its row
                self.confirm()

    def confirm(self) -> Future[None]:
        """Send a heartbeat now; the future resolves when the database has it, and the lease is good again.

        What was taken away from this engine is known to be so by then.
        """
        sent = self.lease.send()
        confirmed: Future[None] = Future()

        def written(answer: object) -> None:
            if isinstance(answer, Failure):
                confirmed.set_exception(answer.error)
            else:
                self.lease.confirm(sent)
                confirmed.set_result(None)

        self._store.post(beat, written)
        return confirmed

    def request_stop(self) -> None:
        """Nothing to hurry: :meth:`stop` is one transaction."""

    def leave(self) -> None:
        """Begin no other life if this one is taken."""
        self._leaves = True

    def stop(self, timeout: float | None = None) -> None:
        """Release what is owned and end the row, unless steps still execute: those keep their claims.

        A claim that is kept is freed by whoever finds the lock free: after :meth:`abandon`, or the OS process ends.
        """
        self.leave()
        coming = self._next  # on the store thread it may begin at this very moment
        if coming is not None:
            coming[0].release()
        if self._lock is None:
            return
        running = self._still_running()

        def leave(transaction: Transaction) -> None:
            if running:
                release_all_but(transaction, running)
            else:
                end_engine(transaction, 'stopped')

        try:
            self._store.call(leave).result(timeout)
        except (StoreError, EngineStopped, TimeoutError) as error:
            # A store thread that has ended before has said why.
            level = logging.DEBUG if isinstance(error, EngineStopped) else logging.WARNING
            LOGGER.log(level, 'engine %d could not say that it ends (%r); its lock file will', self.engine_id, error)
            if not running:
                self._lock.abandon()
            return
        if not running:
            self._lock.release()

    def abandon(self) -> None:
        """The last step that had kept its claim is over."""
        if self._lock is not None:
            self._lock.abandon()

    # -- other engines ---------------------------------------------------------------------------------------

    def is_to_watch(self) -> bool:
        """Whether it is time for :meth:`release_the_dead`; on the store thread."""
        now = time.monotonic()
        if now < self._watch_due:
            return False
        self._watch_due = now + self._watch_interval
        return True

    def release_the_dead(self) -> int:
        """Declare dead the engines that have ended without saying so, or are silent; returns how many there were."""
        engines = self._live_engines()
        others = [each for each in engines if each.id != self.engine_id]
        # Whoever looks too seldom cannot tell silence from not having listened.
        self._watch_interval = min([self.lease.seconds, *(each.lease for each in others if each.lease > 0)]) / BEATS
        here = socket.gethostname()
        dead = sum(self._declare_if_unlocked(each) for each in others if each.host == here)
        silent = self._silences.look(others, in_touch=self.lease.is_fresh)
        dead += sum(self._declare_silent(each) for each in silent)
        self._sweep_files({each.uuid for each in engines})
        return dead

    def _declare_if_unlocked(self, engine: EngineRecord) -> bool:
        taken = try_take(lock_path(self._location, engine.uuid))
        if taken is None:  # it lives; or its file is gone, which proves nothing
            return False
        with taken:
            # The lock in hand is proof, whatever the last heartbeat was: it may have come after we read the rows.
            declared = self._declare(engine, seen=None)
            taken.remove()
        if declared:
            LOGGER.info('engine %d (%s, OS process %d) is dead', engine.id, engine.name, engine.os_pid)
        return declared

    def _declare_silent(self, engine: EngineRecord) -> bool:
        declared = self._declare(engine, seen=engine.heartbeat)
        if declared:
            LOGGER.warning(
                'engine %d (%s, OS process %d on %s) has been silent for its lease of %g s and is declared dead',
                engine.id, engine.name, engine.os_pid, engine.host, engine.lease,
            )  # fmt: skip
        return declared

    def _declare(self, engine: EngineRecord, *, seen: int | None) -> bool:
        # A machine that went down took all its engines with it, and one without a lease has stopped in good order, but
        # for a late step: neither is a process's doing.
        went_down = engine.host == socket.gethostname() and engine.boot_id != self._boot_id
        most = None if went_down or engine.lease == 0 else self._max_crashes
        fatal = self._store.call(
            lambda transaction: declare_dead(transaction, engine.id, seen=seen, max_crashes=most)
        ).result()
        self._faults.hit(FaultPoint.PREDECESSOR_RELEASED)
        for pid in fatal or ():
            LOGGER.warning(
                'process %d is set aside, since engine after engine has died while it was run; `treadle why %d` says '
                'more, and `treadle play %d` lets it go on', pid, pid, pid,
            )  # fmt: skip
        return fatal is not None

    def _sweep_files(self, live: set[str]) -> None:
        """Remove lock files that nobody holds and whose engines have ended, or never came to have a row."""
        for path in self._location.lock_folder().glob('*.lock'):
            if path.stem not in live:
                taken = try_take(path)
                if taken is not None:
                    with taken:
                        taken.remove()


def _boot_id() -> str:
    try:
        return Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    except OSError:
        return ''  # not Linux
