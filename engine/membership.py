"""An engine among the engines of a store: its row, its lock file, its heartbeat, and the dead ones it finds.

On one host the lock file shows death at once: the operating system frees it in the moment in which the engine's OS
process ends, however it ends. Whoever can take the lock of an engine that has not said goodbye declares it dead, in one
transaction that also releases what it owned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from .errors import EngineStopped, StoreError
from .faults import FaultPoint, Faults
from .processes.identity import script_of_main
from .store.location import StoreLocation
from .store.lockfile import EngineLock, try_take
from .store.records import EngineRecord
from .store.store_thread import StoreThread
from .store.transaction import Transaction

__all__ = ['Membership']

LOGGER = logging.getLogger(__name__)

#: Seconds between two heartbeats, and how many of them a silent engine is given before it may be declared dead.
HEARTBEAT, LEASE = 1.0, 10.0


class Membership:
    """This engine's place in the store; a member of the engine's group, between the store and the workers.

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
        still_running: Callable[[], list[int]],
    ) -> None:
        self._engine_name = engine_name
        self._location = location
        self._store = store
        self._faults = faults
        self._still_running = still_running
        self._uuid = str(uuid.uuid4())
        self._lock = EngineLock(_lock_path(location, self._uuid))
        self._beat_due = 0.0
        self.engine_id = 0
        self.script = script_of_main()

    def start(self, timeout: float | None = None) -> None:
        """Take the lock, write the row, and release what engines of this host have left that are no more."""
        self._lock.acquire()
        record = EngineRecord(
            id=0,
            uuid=self._uuid,
            name=self._engine_name,
            host=socket.gethostname(),
            boot_id=_boot_id(),
            os_pid=os.getpid(),
            script=self.script,
            started_at=time.time(),
            heartbeat=0,
            lease=LEASE,
            ended=None,
        )
        self.engine_id = self._store.call(lambda transaction: transaction.register_engine(record)).result(timeout)
        self._store.engine_id = self.engine_id
        self._faults.hit(FaultPoint.ENGINE_REGISTERED)
        self.release_the_dead()

    def release_the_dead(self) -> int:
        """Declare dead the engines of this host whose OS process is gone; returns how many there were."""
        engines = self._store.call(lambda transaction: transaction.live_engines()).result()
        here = socket.gethostname()
        dead = sum(
            self._declare_if_dead(each) for each in engines if each.host == here and each.id != self.engine_id
        )
        self._sweep_files({each.uuid for each in engines})
        return dead

    def _sweep_files(self, live: set[str]) -> None:
        """Remove lock files that nobody holds and whose engines have ended, or never came to have a row."""
        for path in self._location.engines.glob('*.lock'):
            if path.stem not in live:
                taken = try_take(path)
                if taken is not None:
                    with taken:
                        taken.remove()

    def _declare_if_dead(self, engine: EngineRecord) -> bool:
        taken = try_take(_lock_path(self._location, engine.uuid))
        if taken is None:  # it lives; or its file is gone, which proves nothing
            return False
        with taken:
            # The lock in hand is proof, whatever the last heartbeat was: it may have come after we read the rows.
            declared = self._store.call(
                lambda transaction: transaction.declare_dead(engine.id, transaction.heartbeat_of(engine.id))
            ).result()
            self._faults.hit(FaultPoint.PREDECESSOR_RELEASED)
            taken.remove()
        if declared:
            LOGGER.info('engine %d (%s, OS process %d) is dead', engine.id, engine.name, engine.os_pid)
        return declared

    def beat(self) -> None:
        """Raise the heartbeat when it is due; on the store thread."""
        now = time.monotonic()
        if self.engine_id and now >= self._beat_due:
            self._beat_due = now + HEARTBEAT
            with contextlib.suppress(EngineStopped):  # it is stopping, and says so in its row
                self._store.post(self._beat_once, _no_reply)

    def _beat_once(self, transaction: Transaction) -> bool:
        return transaction.beat(self.engine_id)

    def request_stop(self) -> None:
        """Nothing to hurry: :meth:`stop` is one transaction."""

    def stop(self, timeout: float | None = None) -> None:
        """Release what is owned and end the row, unless steps still execute: those keep their claims.

        A claim that is kept is freed by whoever finds the lock free: after :meth:`abandon`, or the OS process ends.
        """
        if not self.engine_id:
            self._lock.release()
            return
        running = self._still_running()
        engine_id = self.engine_id

        def leave(transaction: Transaction) -> None:
            if running:
                transaction.release_all_but(engine_id, running)
            else:
                transaction.end_engine(engine_id, 'stopped')

        try:
            self._store.call(leave).result(timeout)
        except (StoreError, EngineStopped, TimeoutError) as error:
            LOGGER.warning('engine %d could not say that it ends (%r); its lock file will', engine_id, error)
            if not running:
                self._lock.abandon()
            return
        if not running:
            self._lock.release()


    def abandon(self) -> None:
        """The last step that had kept its claim is over."""
        self._lock.abandon()


def _no_reply(answer: object) -> None:
    """A heartbeat that could not be written is followed by the next one."""


def _lock_path(location: StoreLocation, engine_uuid: str) -> Path:
    return location.engines / f'{engine_uuid}.lock'


def _boot_id() -> str:
    try:
        return Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    except OSError:
        return ''  # not Linux
