"""The store thread: the only writer, and the place where many small changes become one durable commit.

Callers post operations from any thread. The thread takes all that is there (at most :data:`BATCH` of them), writes
them in one transaction, commits once, and only then answers. So the cost of an fsync is shared by whatever
arrived during the previous one, and an answer means *durable*.

An error inside a batch rolls everything back and the operations are written again one by one, so that nobody fails
for a neighbour; what may be in is not written again. A database that is busy is waited for. A storage error is given to
the caller, who decides (a submit raises it, a running process is parked and tries again); it never becomes a verdict on
a process.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...threads import StartFailed, StopTimeout
from ..errors import EngineStopped, OutcomeUnknown, StoreRetired
from ..faults import FaultPoint, Faults
from .database import BUSY_PATIENCE, Database, transact
from .engines import rejoin, sign
from .records import EngineRecord, ProcessRecord, StateChange, Unit, Verdict
from .transaction import Admission, Cursor, Transaction
from .units import apply

if TYPE_CHECKING:
    from .statements import Statements  # which imports SQLAlchemy

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

#: At most so many operations share a commit.
BATCH = 1000
#: Seconds of uninterrupted writing after which the database's lock is left free for a moment, and that moment.
HOLD, YIELD = 0.02, 0.001

#: Is given the result of an operation, or a :class:`Failure`.
Reply = Callable[[Any], None]


class Listener(Protocol):
    """Who is told what has been committed; called on the store thread, so it must only post."""

    def committed(
        self, changes: Sequence[StateChange], claims: Sequence[ProcessRecord], pauses: Mapping[int, bool]
    ) -> None:
        """These changes are durable, and these processes are this engine's to run.

        :param pauses: what :meth:`paused` was told, once more.
        """

    def paused(self, pauses: Mapping[int, bool]) -> None:
        """These processes are durably paused, or no longer; told before the answers of the same commit."""

    def next_life(self) -> EngineRecord | None:
        """The row of this engine, which was declared dead, to go on under; ``None`` when it does not go on."""

    def began_life(self, engine_id: int) -> None:
        """That row is durable, and whatever was claimed before is no longer this engine's; told before all else."""


class Failure:
    """The answer to an operation that could not be written."""

    __slots__ = ('error',)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class StoreThread:
    """The thread that owns the writing connection.

    :param tick: called about every ``tick_interval`` seconds on this thread, between batches.
    :param on_crash: called on this thread when it dies of an error, or ends since the store was retired; what it had
        accepted is answered by then.
    :ivar engine_id: the engine in whose name it claims, which whoever registers one sets; 0 for none yet.
    :ivar batches: how many it has committed.

    Guarantees: an operation that :meth:`post` accepts is answered, on the store thread, exactly once: with its
    result after the commit, or with a :class:`Failure`. Operations are written in the order of their posting.
    """

    def __init__(
        self,
        *,
        database: Database,
        statements: Statements,
        admission: Admission,
        listener: Listener,
        faults: Faults,
        name: str = 'treadle-store',
        tick: Callable[[], None] | None = None,
        tick_interval: float = 0.03,
        on_crash: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._database = database
        self._statements = statements
        self._admission = admission
        self._listener = listener
        self._faults = faults
        self._tick = tick
        self._tick_interval = tick_interval
        self._on_crash = on_crash
        self._unanswered: Sequence[tuple[Any, Reply]] = ()
        self._queue: queue.SimpleQueue[tuple[Any, Reply] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._started = threading.Event()
        self._start_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.engine_id = 0
        self.batches = 0

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._thread.name

    def start(self, timeout: float | None = None) -> None:
        """Connect and begin to write; raises what went wrong."""
        self._thread.start()
        if not self._started.wait(timeout):
            raise StartFailed(f'the store did not open within {timeout:g} s')
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error

    def post(self, operation: Unit | Callable[[Transaction], Any], reply: Reply) -> None:
        """Write ``operation`` in one of the next transactions, then call ``reply`` with its result.

        :param operation: a :class:`Unit`, answered by a :data:`Verdict`, or a function of the transaction,
            answered by what it returns. The function may run more than once; it must not keep anything.
        :param reply: called on the store thread; must not block or raise.
        :raises EngineStopped: when the store has stopped taking operations.
        """
        with self._lock:
            if self._closed:
                raise EngineStopped('the store has stopped; start the engine again to write')
            self._queue.put((operation, reply))

    def call(self, operation: Callable[[Transaction], T]) -> concurrent.futures.Future[T]:
        """Like :meth:`post`, for callers that want a future."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.post(operation, _Resolve(future))
        return future

    def commit(self, unit: Unit) -> concurrent.futures.Future[Verdict]:
        """Like :meth:`call`, for a unit."""
        future: concurrent.futures.Future[Verdict] = concurrent.futures.Future()
        self.post(unit, _Resolve(future))
        return future

    def is_current(self) -> bool:
        """Whether the caller is on the store thread."""
        return threading.current_thread() is self._thread

    def request_stop(self) -> None:
        """Take nothing more; write what was accepted, then close."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._database.hurry.set()
                self._queue.put(None)

    def stop(self, timeout: float | None = None) -> None:
        """:meth:`request_stop`, and wait for it at most ``timeout`` seconds.

        :raises StopTimeout: the thread still writes.
        """
        self.request_stop()
        if self._thread.ident is not None and not self.is_current():
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise StopTimeout(f'{self.name!r} did not finish writing within {timeout:g} s', names=(self.name,))

    # -- on the store thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._database.open()
        except BaseException as error:
            self._start_error = error
            with self._lock:
                self._closed = True
            self._started.set()
            return
        self._started.set()
        crash: BaseException | None = None
        try:
            self._serve()
        except StoreRetired as error:
            LOGGER.critical('the engine can write no more: %s', error)
            crash = error
        except BaseException as error:
            LOGGER.critical('the store thread died; the engine can write no more', exc_info=error)
            crash = error
        finally:
            with self._lock:
                self._closed = True
            self._refuse_the_rest(crash)
            self._database.close()
        if crash is not None and self._on_crash is not None:
            self._on_crash(crash)

    def _serve(self) -> None:
        next_tick = time.monotonic() + self._tick_interval
        held_since = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + self._tick_interval
                self._call_tick()
            batch, more = self._take_batch(next_tick - now)
            if batch:
                self._unanswered = batch
                self._write_batch(batch)
                if self._queue.empty():
                    held_since = time.monotonic()
                elif time.monotonic() - held_since > HOLD:
                    time.sleep(YIELD)
                    held_since = time.monotonic()
            if not more:
                return

    def _call_tick(self) -> None:
        if self._tick is None:
            return
        try:
            self._tick()
        except Exception as error:  # such as a disk that cannot be read just now: no reason to stop writing
            LOGGER.warning('a tick of the store failed: %s', self._database.translate(error))

    def _take_batch(self, patience: float) -> tuple[list[tuple[Any, Reply]], bool]:
        batch: list[tuple[Any, Reply]] = []
        try:
            item = self._queue.get(timeout=max(0.0, patience))
            while item is not None:
                batch.append(item)
                if len(batch) >= BATCH:
                    return batch, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _write_batch(self, batch: Sequence[tuple[Any, Reply]]) -> None:
        try:
            answers, transaction = self._transact([operation for operation, _ in batch])
        except BaseException as error:
            if self.engine_id and isinstance(error, StoreRetired):
                raise  # and so will be all that its engine is still to write
            if len(batch) == 1 or isinstance(error, OutcomeUnknown) or self._database.is_busy(error.__cause__ or error):
                self._answer_all(batch, [Failure(error)] * len(batch))
                return
            LOGGER.debug('a batch of %d failed (%s); writing it one by one', len(batch), error)
            for item in batch:
                self._write_batch([item])
            return
        self.batches += 1
        self._faults.hit(FaultPoint.BATCH_COMMITTED)
        if transaction.has_rejoined:
            self.engine_id = transaction.engine_id
            self._listener.began_life(self.engine_id)
        if transaction.pauses:
            # Before the answers: who hears that a step of its is committed must not begin the next one.
            self._listener.paused(transaction.pauses)
        self._answer_all(batch, answers)
        if transaction.changes or transaction.claims or transaction.pauses:
            self._listener.committed(transaction.changes, transaction.claims, transaction.pauses)
        self._faults.hit(FaultPoint.BATCH_ANSWERED)

    def _answer_all(self, batch: Sequence[tuple[Any, Reply]], answers: Sequence[Any]) -> None:
        self._unanswered = self._unanswered[len(batch) :]
        for (_, reply), answer in zip(batch, answers, strict=True):
            _answer(reply, answer)

    def _transact(self, operations: Sequence[Any]) -> tuple[list[Any], Transaction]:
        return transact(
            self._database,
            lambda cursor: self._write(cursor, operations),
            patience=BUSY_PATIENCE,
        )

    def _write(self, cursor: Cursor, operations: Sequence[Any]) -> tuple[list[Any], Transaction]:
        transaction = Transaction(
            cursor=cursor, sql=self._statements, engine_id=self.engine_id, admission=self._admission
        )
        self._faults.hit(FaultPoint.BATCH_BEGUN)
        if self.engine_id:
            mark = sign(transaction) or rejoin(transaction, self._listener.next_life())
            if mark is not None:
                self._database.mark(lambda cursor: mark.is_left(cursor, self._statements.has_mark))
        answers = _perform(transaction, operations)
        self._faults.hit(FaultPoint.BATCH_WRITTEN)
        return answers, transaction

    def _refuse_the_rest(self, crash: BaseException | None) -> None:
        reason = str(crash) if isinstance(crash, StoreRetired) else 'the store stopped'
        error = EngineStopped(f'this was not written: {reason}')
        # Not empty only when the thread died in the middle; then it may have been written, and nobody can tell.
        for _, reply in self._unanswered:
            _answer(reply, Failure(error))
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is not None:
                _answer(item[1], Failure(error))


class _Resolve:
    """A reply that resolves a future."""

    __slots__ = ('_future',)

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._future = future

    def __call__(self, answer: Any) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        if isinstance(answer, Failure):
            self._future.set_exception(answer.error)
        else:
            self._future.set_result(answer)


def _perform(transaction: Transaction, operations: Sequence[Any]) -> list[Any]:
    """Run the operations in order, neighbouring units as one group."""
    answers: list[Any] = []
    units: list[Unit] = []
    for operation in operations:
        if isinstance(operation, Unit):
            units.append(operation)
            continue
        if units:
            answers.extend(apply(transaction, units))
            units = []
        answers.append(operation(transaction))
    if units:
        answers.extend(apply(transaction, units))
    return answers


def _answer(reply: Reply, answer: Any) -> None:
    try:
        reply(answer)
    except Exception:
        LOGGER.exception('a reply of the store raised')
