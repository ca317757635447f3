"""The one way into a loop from other threads.

No other module of Treadle calls `call_soon_threadsafe` or `run_coroutine_threadsafe`; a test keeps that. The
promise is the one of trio's entry queue: *accept or raise*. A call that does not raise will run, and a future
that was handed out will resolve: checking and enqueueing happen under one lock, closing flips its flag under
the same lock and then drains.

Callbacks are kept in a queue of the bridge's own, and one wake-up of the loop (a write to its self-pipe, by
far the dearest part of a crossing) serves all that are queued when it comes round.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from .errors import Forked, LoopClosed
from .fork import run_in_child
from .relay import relay_of, wake_waiters

logger = logging.getLogger(__name__)

T = TypeVar('T')
Ts = TypeVarTuple('Ts')

#: Entries run in one iteration of the loop, so that a flood of posts does not starve its timers and sockets.
BATCH = 256


class CrossingFuture(Future[T]):
    """What `Bridge.submit` and `Bridge.call` return: an ordinary future that knows its bridge.

    Cancelling it cancels the task on the other side; it stays cancellable until that has ended.
    """

    def __init__(self, bridge: Bridge, *, as_task: bool) -> None:
        super().__init__()
        self.bridge = bridge
        self._as_task = as_task
        self._task: asyncio.Task[None] | None = None
        self._cancel_posted = False

    def cancel(self) -> bool:
        """Cancel the call; from any thread. False when it is done already."""
        try:
            return self._cancel()
        finally:  # also when a done-callback has raised
            # Cancelling twice would cancel the task's clean-up.
            if self.cancelled() and not self._cancel_posted:
                self._cancel_posted = True
                # A closed bridge ends its tasks by itself.
                with contextlib.suppress(LoopClosed, Forked):
                    self.bridge.post(self.bridge._cancelled_by_caller, self)

    def _cancel(self) -> bool:
        """Cancel the future alone."""
        try:
            return super().cancel()
        except BaseException:  # out of a done-callback; those who wait are told all the same
            wake_waiters(self)
            raise


_Entry: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], Context, 'CrossingFuture[Any] | None']


class Bridge:
    """Hands calls from any thread to one loop, in the order in which they came.

    Callbacks and coroutines run in a copy of the caller's `contextvars` context, as with asyncio's own calls.

    :param loop: the loop to reach; it need not run yet.
    :param name: how errors name it, usually its thread's name.
    :param on_fatal: called on the loop with a `BaseException` that nobody else can receive: from a posted
        callback, or a `SystemExit` or `KeyboardInterrupt` from anything. Without it such an exception is
        raised out of the loop's `run_forever`, after whatever was taken from the queue with it has run.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str | None = None,
        on_fatal: Callable[[BaseException], object] | None = None,
    ) -> None:
        self.loop = loop
        self.name = name if name is not None else repr(loop)
        self._on_fatal = on_fatal
        # Reentrant, so that a signal handler may post while its thread is inside a post.
        self._lock = threading.RLock()
        self._queue: deque[_Entry] = deque()
        self._scheduled = False
        self._refusing = False
        self._closed = False
        self._forked = False
        self._cause: BaseException | None = None
        self._live: set[CrossingFuture[Any]] = set()
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        state = 'forked' if self._forked else 'closed' if self._closed else 'open'
        return f'<{type(self).__name__} {self.name!r} {state}>'

    @property
    def closed(self) -> bool:
        """Whether even `post` is refused."""
        return self._closed

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked child; its loop runs in the parent."""
        return self._forked

    # -- from any thread ------------------------------------------------------------------------------------

    def post(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` on the loop soon, after everything posted before.

        Safe from any thread, from the loop itself and from a signal handler; never blocks. A callback that
        raises is reported to the loop's exception handler; the others run all the same. One that
        raises a `BaseException` crashes the loop's thread, after the others that it was taken with have run.

        :raises LoopClosed: the bridge is closed; the callback will not run.
        :raises Forked: in a forked child.
        """
        entry: _Entry = (callback, args, copy_context(), None)
        with self._lock:
            if self._closed:
                raise self.refusal()
            self._queue.append(entry)
            if not self._scheduled:
                self._schedule()

    def post_many(self, callbacks: Iterable[tuple[Callable[..., object], tuple[Any, ...]]]) -> None:
        """Post several callbacks at once: all are accepted, next to each other, or none.

        :param callbacks: pairs of a callback and the tuple of its arguments.
        :raises LoopClosed: the bridge is closed; none of them will run.
        """
        entries: list[_Entry] = [(callback, args, copy_context(), None) for callback, args in callbacks]
        with self._lock:
            if self._closed:
                raise self.refusal()
            if not entries:
                return
            self._queue.extend(entries)
            if not self._scheduled:
                self._schedule()

    def submit(self, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> CrossingFuture[T]:
        """Run `await async_fn(*args)` as a task on the loop and return the future of its result.

        The future always resolves: with the result; with the exception, whatever its class; cancelled, when
        the future or the task was cancelled; with `LoopClosed`, when the loop ends first. A `SystemExit` or
        `KeyboardInterrupt` goes to the future and crashes the loop's thread as well.

        :raises LoopClosed: the loop is stopping or has stopped; nothing will run.
        """
        return self._accept(CrossingFuture(self, as_task=True), async_fn, args)

    def call(self, fn: Callable[[*Ts], T], *args: *Ts) -> CrossingFuture[T]:
        """Run the plain function `fn(*args)` on the loop and return the future of its result.

        The function must not block. What `submit` says about the future holds here too.
        """
        return self._accept(CrossingFuture(self, as_task=False), fn, args)

    def _accept(self, future: CrossingFuture[T], fn: Callable[..., Any], args: tuple[Any, ...]) -> CrossingFuture[T]:
        entry: _Entry = (fn, args, copy_context(), future)
        with self._lock:
            if self._refusing:
                raise self.refusal()
            self._queue.append(entry)
            if not self._scheduled:
                self._schedule()
        return future

    def _schedule(self) -> None:
        """Have the loop drain the queue. Holds the lock."""
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError as error:
            if not self.loop.is_closed():
                raise
            # The owner of a foreign loop closed it without telling us. Our caller gets the error that
            # belongs to its own, last entry; futures accepted before it resolve.
            self._queue.pop()
            self._refusing = self._closed = True
            self.abandon()
            raise self.refusal() from error
        # Only now: an interrupt before this line costs a second, empty drain; the flag set first and the
        # wake-up lost would cost every later post.
        self._scheduled = True

    # -- closing --------------------------------------------------------------------------------------------

    def refuse_work(self, cause: BaseException | None = None) -> None:
        """From now on refuse `submit` and `call`, but take `post`; from any thread.

        The first step of stopping: tasks that are being cancelled may still wait for replies of other
        threads, which come as posts. Coroutines that were accepted and have not begun end with
        `LoopClosed`.

        :param cause: what crashed the loop, to be the `__cause__` of every `LoopClosed` from here on.
        """
        with self._lock:
            self._refusing = True
            if cause is not None and self._cause is None:
                self._cause = cause

    def close(self, cause: BaseException | None = None) -> None:
        """Refuse everything, then run what was accepted; on the loop's thread, while stopping.

        Posted callbacks and plain calls run now; coroutines that have not begun resolve with `LoopClosed`.
        Tasks that were begun are the loop owner's to end. Calling it again does nothing.
        """
        self.refuse_work(cause)
        with self._lock:
            self._closed = True
        self._raise_fatal(self._run_entries(None))

    def abandon(self) -> None:
        """Resolve with `LoopClosed` each future that is still open: the loop will not run again."""
        with self._lock:
            self._refusing = self._closed = True
        while self._queue:
            future = self._queue.popleft()[3]
            if future is not None:
                self._live.add(future)
        for future in list(self._live):
            try:
                self._settle(future, error=self.refusal(future))
            except BaseException:  # out of a done-callback, which must not keep the others from resolving
                logger.exception('a done-callback of a call on %r failed', self.name)

    def refusal(self, future: CrossingFuture[Any] | None = None) -> LoopClosed | Forked:
        """The error for a call that is not accepted, or for an accepted `future` that cannot be answered."""
        error: LoopClosed | Forked
        if self._forked:
            return Forked(
                f'the loop of {self.name!r} runs in the parent of this forked child; '
                'create a new one in the child'
            )
        if self._cause is not None:
            what = f'the loop of {self.name!r} crashed with {self._cause!r}'
        else:
            what = f'the loop of {self.name!r} has stopped' if self._closed else f'{self.name!r} is stopping'
        if future is None:
            error = LoopClosed(f'{what} and takes nothing more; start a new one')
        else:
            error = LoopClosed(f'{what} before this call ended; start a new one and call again')
        error.__cause__ = self._cause
        return error

    def _after_fork(self) -> None:
        # In the child the queue would never be drained, and a wake-up would go to the parent's self-pipe.
        self._lock = threading.RLock()
        self._forked = self._refusing = self._closed = True
        self._queue.clear()

    # -- on the loop ----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        fatal: list[BaseException] = []
        try:
            fatal = self._run_entries(BATCH)
        finally:
            with self._lock:
                self._scheduled = bool(self._queue)
                if self._scheduled:
                    self.loop.call_soon(self._drain)
        self._raise_fatal(fatal)

    def _run_entries(self, limit: int | None) -> list[BaseException]:
        """Run up to `limit` entries; fatal exceptions are returned when all of them have run."""
        queue = self._queue
        fatal: list[BaseException] = []
        count = 0
        while queue and count != limit:
            count += 1
            fn, args, context, future = queue.popleft()
            try:
                if future is None:
                    context.run(fn, *args)
                elif future.cancelled():
                    future.set_running_or_notify_cancel()
                elif future._as_task:
                    self._start(future, fn, args, context)
                else:
                    self._call(future, fn, args, context)
            except (Exception, asyncio.CancelledError) as error:
                context.run(self._report, fn, error)
            except BaseException as error:
                fatal.append(error)
        return fatal

    def _report(self, fn: Callable[..., Any], error: BaseException) -> None:
        self.loop.call_exception_handler(
            {'message': f'{fn!r}, posted to {self.name!r}, failed', 'exception': error}
        )

    def _raise_fatal(self, errors: list[BaseException]) -> None:
        if errors and self._on_fatal is None:
            for error in errors[1:]:
                self._report(self._drain, error)
        for error in errors:
            self._fatal(error)

    def _fatal(self, error: BaseException) -> None:
        if self._on_fatal is None:
            raise error
        self._on_fatal(error)

    def _start(
        self,
        future: CrossingFuture[Any],
        async_fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        self._live.add(future)
        if self._refusing:
            self._settle(future, error=self.refusal(future))
            return
        name = getattr(async_fn, '__qualname__', None) or repr(async_fn)
        task = self.loop.create_task(self._run(future, async_fn, args), name=name, context=context)
        # The coroutine of a task that is cancelled before its first step never runs, so it cannot settle.
        task.add_done_callback(partial(self._task_done, future))
        if future in self._live:  # an eager task may be through already
            future._task = task

    async def _run(
        self, future: CrossingFuture[Any], async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        try:
            result = await async_fn(*args)
        except asyncio.CancelledError:
            self._settle_cancelled(future)
            raise
        except BaseException as error:
            self._settle(future, error=error)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                self._fatal(error)
        else:
            self._settle(future, result)
        finally:
            # The exception's traceback holds this frame, and the future holds the exception: no cycle.
            del future, async_fn, args

    def _task_done(self, future: CrossingFuture[Any], task: asyncio.Task[None]) -> None:
        # What the call raised is in the future. What the task raised is out of a done-callback of that.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, (SystemExit, KeyboardInterrupt)):  # those end the loop's run
            self._report(self._task_done, error)
        self._settle_cancelled(future)

    def _call(
        self, future: CrossingFuture[Any], fn: Callable[..., Any], args: tuple[Any, ...], context: Context
    ) -> None:
        self._live.add(future)
        try:
            result = context.run(fn, *args)
        except BaseException as error:
            self._settle(future, error=error)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
        else:
            self._settle(future, result)
        finally:
            del future, fn, args

    def _cancelled_by_caller(self, future: CrossingFuture[Any]) -> None:
        task = future._task
        self._settle(future)
        if task is not None:
            task.cancel()

    def _settle_cancelled(self, future: CrossingFuture[Any]) -> None:
        """The task was cancelled: by us because the loop stops, or by somebody who meant this task."""
        if future not in self._live:
            return
        if self._refusing:
            self._settle(future, error=self.refusal(future))
        else:
            try:
                future._cancel()
            finally:
                self._settle(future)

    def _settle(self, future: CrossingFuture[Any], result: Any = None, *, error: BaseException | None = None) -> None:
        """Resolve `future` unless it is resolved. Being in `_live` is the right to do it, once."""
        if future not in self._live:
            return
        self._live.discard(future)
        future._task = None
        # False when the caller cancelled; then this also wakes those in concurrent.futures.wait().
        if not future.set_running_or_notify_cancel():
            return
        try:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        except BaseException:  # out of a done-callback; those who wait are told all the same
            wake_waiters(future)
            raise


# -- waiting on a loop that is not ours ---------------------------------------------------------------------

# One bridge per loop, kept by those who wait: it must not keep a host's loop alive. The key is the loop's id,
# which is unique while the bridge, and with it the loop, lives.
_foreign: weakref.WeakValueDictionary[int, Bridge] = weakref.WeakValueDictionary()


def _bridge_of(loop: asyncio.AbstractEventLoop) -> Bridge:
    # No lock: only the thread that runs the loop asks for its bridge.
    bridge = _foreign.get(id(loop))
    if bridge is None or bridge.closed:
        bridge = _foreign[id(loop)] = Bridge(loop)
    return bridge


class _LoopWaiter:
    """One coroutine on a foreign loop; called by the relay in the thread that resolves the future."""

    __slots__ = ('_bridge', '_waiter')

    def __init__(self, bridge: Bridge, waiter: asyncio.Future[None]) -> None:
        self._bridge = bridge
        self._waiter = waiter

    def __call__(self) -> None:
        # A loop that was closed meanwhile has nobody left to wake.
        with contextlib.suppress(LoopClosed, Forked):
            self._bridge.post(self._wake)

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)


def call_when_done(
    future: Future[Any], loop: asyncio.AbstractEventLoop, callback: Callable[[], object]
) -> Callable[[], None]:
    """Call `callback()` on `loop`, which may be one that Treadle does not own, soon after `future` is done.

    For the thread that runs the loop, or is about to. A loop that is closed by then is left alone.

    :returns: what forgets the callback; if the future is done at this moment, it may be called all the same.
    """
    bridge, relay, key = _bridge_of(loop), relay_of(future), object()

    def call() -> None:
        with contextlib.suppress(LoopClosed, Forked):
            bridge.post(callback)

    if not relay.add(key, call):
        call()
    return partial(relay.discard, key)


async def wait_on_loop(future: Future[T]) -> T:
    """Await a `concurrent.futures.Future` on whatever loop runs here, also one that Treadle does not own.

    Cancelling the awaiting task leaves `future` alone and forgets the waiter. The loop may be closed before
    `future` resolves; whoever resolves it does not notice. Futures that resolve in a burst cost their loop
    one wake-up.

    :returns: the future's result; its exception is raised.
    :raises concurrent.futures.CancelledError: `future` itself was cancelled. It is an `Exception`, unlike
        asyncio's, which would look as if the awaiting task had been cancelled.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        relay = relay_of(future)
        if relay.add(waiter, _LoopWaiter(_bridge_of(loop), waiter)):
            try:
                await waiter
            finally:
                relay.discard(waiter)
    return future.result(0)
