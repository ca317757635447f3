"""A store thread without an engine: what is admitted, claimed and told is the test's to say and to see."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import msgspec

from treadle.engine.faults import FaultPoint, Faults, NoFaults
from treadle.engine.store.engines import register_engine
from treadle.engine.store.location import locate
from treadle.engine.store.postgresql.connection import connect
from treadle.engine.store.records import Advance, EngineRecord, Fence, Held, ProcessRecord, StateChange, Unit
from treadle.engine.store.sqlite.location import SqliteLocation
from treadle.engine.store.store_thread import StoreThread
from treadle.engine.testing import Together

#: From so many deaths of its engines on a process is a suspect here.
SUSPECT = 2


class _Answered:
    """Counts the batches of which the listener was told all."""

    def __init__(self) -> None:
        self.batches = 0

    def hit(self, point: FaultPoint) -> None:
        if point is FaultPoint.BATCH_ANSWERED:
            self.batches += 1


class Rig:
    """One store thread on a store, registered as an engine.

    :param lease: how long it may stand still, as in :meth:`~..StoreLocation.make_database`.
    :ivar admitting: whether :meth:`admits` lets anything be claimed.
    :ivar successor: the row under which it goes on when it was declared dead.
    """

    def __init__(self, url: str, *, faults: Faults | None = None, lease: float = 10.0, **options: Any) -> None:
        self.location = locate(url)
        self.admitting = False
        self._told: list[StateChange] = []
        self._claims: list[ProcessRecord] = []
        self.pauses: dict[int, bool] = {}
        self.listener_error: BaseException | None = None
        self.has_suspect = False
        self.lives: list[int] = []
        self.successor: EngineRecord | None = None
        self._answered = _Answered()
        self.database = self.location.make_database(name='rig', lease=lease)
        self.store = StoreThread(
            database=self.database,
            statements=self.location.statements(),
            admission=self,
            listener=self,
            faults=Together(self._answered, faults or NoFaults()),
            **options,
        )
        self._pids = itertools.count(1)

    # -- what the store thread asks and tells ------------------------------------------------------------

    def admits(self, record: ProcessRecord, taken: int) -> bool:
        return self.admitting

    def is_suspect(self, record: ProcessRecord) -> bool:
        return record.crashes >= SUSPECT and record.nesting == 0

    def admits_suspect(self, *, took_one: bool) -> bool:
        return not (took_one or self.has_suspect)

    def next_life(self) -> EngineRecord | None:
        return self.successor

    def began_life(self, engine_id: int) -> None:
        self.lives.append(engine_id)
        self.engine_id = engine_id

    def committed(
        self, changes: Sequence[StateChange], claims: Sequence[ProcessRecord], pauses: Mapping[int, bool]
    ) -> None:
        if self.listener_error is not None:
            raise self.listener_error
        self._told.extend(changes)
        self._claims.extend(claims)

    def paused(self, pauses: Mapping[int, bool]) -> None:
        self.pauses.update(pauses)

    # -- for tests ---------------------------------------------------------------------------------------

    @property
    def told(self) -> list[StateChange]:
        """The changes of each commit, of all that has been answered."""
        self._wait_until_told()
        return self._told

    @property
    def claims(self) -> list[ProcessRecord]:
        """What was claimed, of all that has been answered."""
        self._wait_until_told()
        return self._claims

    def _wait_until_told(self) -> None:
        # The store thread answers first, and tells then.
        deadline, batches = time.monotonic() + 20, self.store.batches
        while self._answered.batches < batches and self.store._thread.is_alive():
            assert time.monotonic() < deadline, 'the listener was never told'
            time.sleep(0.001)

    def __enter__(self) -> Self:
        self.store.start(20)
        self.reader = self.location.open_reader()
        try:
            self.engine_id = self.do(lambda transaction: register_engine(transaction, engine_record()))
        except BaseException:
            self._close()
            raise
        self.store.engine_id = self.engine_id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self.store.stop(20)
        self.reader.close()

    def do(self, operation: Callable[[Any], Any]) -> Any:
        """Run an operation and wait for what it returns."""
        return self.store.call(operation).result(20)

    def commit(self, unit: Unit) -> Any:
        """Commit a unit and wait for the verdict."""
        return self.store.commit(unit).result(20)

    def together(self, *operations: Any) -> list[Any]:
        """Have all operations written in one batch; their answers, or the errors."""
        gate = self.gate()
        futures = [
            self.store.commit(each) if isinstance(each, Unit) else self.store.call(each) for each in operations
        ]
        gate.set()
        return [future.exception(20) or future.result() for future in futures]

    @contextmanager
    def written(self, *operations: Any) -> Iterator[list[Future[Any]]]:
        """All operations are written in one transaction, which is committed when the block ends; their futures."""
        stands, go_on = threading.Event(), threading.Event()

        def stand(transaction: Any) -> None:
            stands.set()
            assert go_on.wait(60)

        gate = self.gate()
        futures = [
            self.store.commit(each) if isinstance(each, Unit) else self.store.call(each) for each in operations
        ]
        self.store.call(stand)
        gate.set()
        assert stands.wait(60)
        try:
            yield futures
        finally:
            go_on.set()

    def gate(self) -> threading.Event:
        """Make the store thread stand until the event is set: what is posted meanwhile shares a batch."""
        stands, gate = threading.Event(), threading.Event()
        self.store.post(lambda transaction: (stands.set(), gate.wait(20)), lambda answer: None)
        assert stands.wait(20)
        return gate

    @contextmanager
    def aside(self) -> Iterator[threading.Event]:
        """Set when the store thread has set something aside, since another program holds a row."""
        is_aside, set_aside = threading.Event(), self.store._set_aside

        def watched(*arguments: Any) -> None:
            set_aside(*arguments)
            is_aside.set()

        self.store._set_aside = watched
        yield is_aside
        self.store._set_aside = set_aside

    def record(self, **fields: Any) -> ProcessRecord:
        """The record of a new process."""
        return process_record(fields.pop('pid', None) or next(self._pids), origin=self.engine_id, **fields)

    def running(self, **fields: Any) -> Fence:
        """A process that this engine runs; its fence."""
        record = self.record(state='running', owner=self.engine_id, epoch=1, **fields)
        assert isinstance(self.commit(Unit(create=(record,))), Held)
        return Fence(record.pid, 1, 0)

    @contextmanager
    def holding(self, *pids: int) -> Iterator[None]:
        """Another connection holds what a write to these processes needs, until the block ends."""
        if isinstance(self.location, SqliteLocation):
            with contextlib.closing(sqlite3.connect(self.location.file.path, isolation_level=None)) as other:
                other.execute('BEGIN IMMEDIATE')
                yield
                other.execute('COMMIT')
        else:
            with connect(self.location.server, name='another') as other:
                other.execute('BEGIN')
                other.execute('SELECT FROM process WHERE pid = ANY(%s) FOR UPDATE', [list(pids)])
                yield
                other.execute('COMMIT')

    def row(self, pid: int) -> ProcessRecord:
        """What is committed of a process."""
        return self.reader.process(pid)

    def awaiting(self) -> set[tuple[int, int]]:
        """Who waits for whom: (waiter, awaited)."""
        query = 'SELECT waiter, awaited FROM awaiting'
        return set(self.reader._connections.use(lambda connection: connection.execute(query).fetchall()))


def process_record(pid: int, **fields: Any) -> ProcessRecord:
    """A record with a uuid of its own and nothing in particular."""
    now = time.time()
    blank = ProcessRecord(
        pid=pid,
        uuid=str(uuid.uuid4()),
        parent=None,
        call_visit=None,
        call_number=None,
        nesting=0,
        driven=0,
        class_name='module:Class',
        class_hash=None,
        process_label='Class',
        label='',
        description='',
        key=None,
        fingerprint=None,
        state='created',
        paused=0,
        visit=0,
        step=None,
        exit_status=None,
        exit_message=None,
        exception=None,
        inputs='{}',
        checkpoint=None,
        outputs=None,
        origin=1,
        owner=None,
        epoch=0,
        version=0,
        wake_at=None,
        created_at=now,
        changed_at=now,
    )
    return msgspec.structs.replace(blank, **fields)


def engine_record() -> EngineRecord:
    """An engine of no importance."""
    return EngineRecord(
        id=0,
        uuid=str(uuid.uuid4()),
        name='rig',
        host='here',
        boot_id='',
        os_pid=1,
        script=None,
        started_at=time.time(),
        heartbeat=0,
        lease=10.0,
        ended=None,
    )


def finish(fence: Fence, **fields: Any) -> Unit:
    """The unit of a last step."""
    return Unit(fence=fence, advance=Advance('finished', 1, exit_status=0), **fields)


def proceed(fence: Fence, visit: int = 1, **fields: Any) -> Unit:
    """The unit of a step with others to come."""
    return Unit(fence=fence, advance=Advance('running', visit, step='next', checkpoint='{}'), **fields)


def await_(fence: Fence, *pids: int, **fields: Any) -> Unit:
    """The unit of a step after which the process waits."""
    return Unit(fence=fence, advance=Advance('waiting', 1, step='next', checkpoint='{}', awaiting=pids), **fields)
