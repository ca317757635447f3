"""The store thread: the only writer, and the place where many small changes become one durable commit.

Callers post operations from any thread. The thread takes all that is there (at most :data:`BATCH` of them), writes
them in one transaction, commits once, and only then answers. So the cost of an fsync is shared by whatever
arrived during the previous one, and an answer means *durable*.

An error inside a batch rolls everything back and the operations are written again one by one, so that nobody fails
for a neighbour; what may be in is not written again. A database that is busy is waited for. A storage error is given to
the caller, who decides (a submit raises it, a running process is parked and tries again); it never becomes a verdict on
a process.

Where rows are locked, another program may hold one for long. What needs it is set aside and tried again and again, and
all else is written meanwhile, heartbeats among it; but what comes later for the same processes keeps its place behind.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...threads import StartFailed, StopTimeout
from ..errors import EngineStopped, OutcomeUnknown, StoreLost
from ..faults import FaultPoint, Faults
from .database import BUSY_PATIENCE, Database, transact
from .engines import rejoin, sign
from .records import EngineRecord, ProcessRecord, StateChange, Unit, Verdict
from .transaction import Admission, Barred, Cursor, Transaction
from .units import apply

if TYPE_CHECKING:
    from .statements import Statements  # which imports SQLAlchemy

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

#: At most so many operations share a commit.
BATCH = 1000
#: Seconds of uninterrupted writing after which the database's lock is left free for a moment, and that moment.
HOLD, YIELD = 0.02, 0.001

#: Seconds between two rounds of trying what was set aside, and of one round at most.
RETRY, ROUND = 0.05, 0.25

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Aside:
    """What waits for a row that another program holds.

    :ivar touched: the processes for whose sake nothing may overtake it; ``None`` for all.
    :ivar give_up: when it is given up.
    """

    item: tuple[Any, Reply]
    touched: frozenset[int] | None
    give_up: float


class StoreThread:
    """The thread that owns the writing connection.

    :param tick: called about every ``tick_interval`` seconds on this thread, between batches.
    :param on_crash: called on this thread when it dies of an error, or ends since the store is lost; what it had
        accepted is answered by then.
    :ivar engine_id: the engine in whose name it claims, which whoever registers one sets; 0 for none yet.
    :ivar batches: how many it has committed.

    Guarantees: an operation that :meth:`post` accepts is answered, on the store thread, exactly once: with its
    result after the commit, or with a :class:`Failure`. Operations are written in the order of their posting, but for
    those that wait for a row: they are overtaken by what has nothing to do with the same processes.
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
        self._aside: list[_Aside] = []
        self._retry_due = 0.0
        self._touched: Collection[int] | None = None
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
        except StoreLost as error:
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
            due = min(next_tick, self._retry_due) if self._aside else next_tick
            batch, more = self._take_batch(due - now)
            if batch:
                self._unanswered = batch
                self._write_batch(batch)
                if self._queue.empty():
                    held_since = time.monotonic()
                elif time.monotonic() - held_since > HOLD:
                    time.sleep(YIELD)
                    held_since = time.monotonic()
            if self._aside and time.monotonic() >= self._retry_due:
                self._try_again()
            if not more:
                while self._aside:  # in a hurry now, so that once is enough
                    self._try_again()
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

    def _write_batch(
        self, batch: Sequence[tuple[Any, Reply]], *, hasty: bool = False, give_up: float | None = None
    ) -> None:
        try:
            answers, transaction = self._transact([operation for operation, _ in batch], hasty or bool(self._aside))
        except BaseException as error:
            if self.engine_id and isinstance(error, StoreLost):
                raise  # and so will be all that its engine is still to write
            is_held = isinstance(error, Barred) or self._database.is_held(error.__cause__ or error)
            if is_held and len(batch) == 1:
                self._set_aside(batch[0], error, give_up)
                return
            if not is_held and self._is_final(batch, error):
                self._answer_all(batch, [Failure(error)] * len(batch))
                return
            LOGGER.debug('a batch of %d failed (%s); writing it one by one', len(batch), error)
            for item in batch:
                self._write_batch([item], hasty=is_held)
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

    def _is_final(self, batch: Sequence[tuple[Any, Reply]], error: BaseException) -> bool:
        """Whether to write the operations of a failed batch one by one would not help, or not be right."""
        return (
            len(batch) == 1 or isinstance(error, OutcomeUnknown) or self._database.is_busy(error.__cause__ or error)
        )

    def _set_aside(self, item: tuple[Any, Reply], error: BaseException, give_up: float | None) -> None:
        now = time.monotonic()
        if give_up is None:
            give_up = now + BUSY_PATIENCE
            if not isinstance(error, Barred):
                LOGGER.warning('a write is set aside, and tried again: %s', error)
        if now >= give_up or self._database.hurry.is_set():
            self._answer_all([item], [Failure(error)])
            return
        touched = None if self._touched is None else frozenset(self._touched)
        self._unanswered = self._unanswered[1:]
        self._aside.append(_Aside(item=item, touched=touched, give_up=give_up))
        self._retry_due = now + RETRY

    def _try_again(self) -> None:
        """Try, in their order and for :data:`ROUND` seconds at most, to write what was set aside."""
        aside, self._aside = self._aside, []
        self._unanswered = [each.item for each in aside]
        end = time.monotonic() + ROUND
        for index, each in enumerate(aside):
            if time.monotonic() > end:
                self._aside.extend(aside[index:])
                self._unanswered = ()
                break
            self._write_batch([each.item], hasty=True, give_up=each.give_up)
        self._retry_due = time.monotonic() + RETRY

    def _answer_all(self, batch: Sequence[tuple[Any, Reply]], answers: Sequence[Any]) -> None:
        self._unanswered = self._unanswered[len(batch) :]
        for (_, reply), answer in zip(batch, answers, strict=True):
            _answer(reply, answer)

    def _transact(self, operations: Sequence[Any], hasty: bool) -> tuple[list[Any], Transaction]:
        self._touched = None
        if any(each.touched is None for each in self._aside):
            raise Barred('another program holds the row of this engine; end whatever has a long transaction on it')
        barred = frozenset[int]().union(*(each.touched for each in self._aside if each.touched))
        return transact(
            self._database,
            lambda cursor: self._write(cursor, operations, barred),
            patience=BUSY_PATIENCE,
            hasty=hasty,
            waits_for_rows=False,
        )

    def _write(
        self, cursor: Cursor, operations: Sequence[Any], barred: frozenset[int]
    ) -> tuple[list[Any], Transaction]:
        transaction = Transaction(
            cursor=cursor,
            sql=self._statements,
            engine_id=self.engine_id,
            admission=self._admission,
            barred=barred,
        )
        self._faults.hit(FaultPoint.BATCH_BEGUN)
        if self.engine_id:
            mark = sign(transaction) or rejoin(transaction, self._listener.next_life())
            if mark is not None:
                self._database.mark(lambda cursor: mark.is_left(cursor, self._statements.has_mark))
        self._touched = transaction.touched
        answers = _perform(transaction, operations)
        self._faults.hit(FaultPoint.BATCH_WRITTEN)
        return answers, transaction

    def _refuse_the_rest(self, crash: BaseException | None) -> None:
        reason = str(crash) if isinstance(crash, StoreLost) else 'the store stopped'
        error = EngineStopped(f'this was not written: {reason}')
        # Not empty only when the thread died in the middle; then it may have been written, and nobody can tell.
        for _, reply in (*self._unanswered, *(each.item for each in self._aside)):
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
