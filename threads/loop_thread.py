"""A named thread and the loop that it creates, runs and closes."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from .bridge import Bridge
from .errors import LoopClosed, StartFailed, StopTimeout, WrongThread
from .fork import run_in_child
from .stacks import top_of

logger = logging.getLogger(__name__)


class LoopState(enum.Enum):
    """The life of a `LoopThread`: NEW -> RUNNING -> STOPPING -> STOPPED; a failed start goes to STOPPED."""

    NEW = 'new'
    RUNNING = 'running'
    STOPPING = 'stopping'
    STOPPED = 'stopped'


_Finish = Coroutine[Any, Any, None]

# The live loop threads by thread ident. Each entry is written and removed by its own thread only.
_live: dict[int, LoopThread] = {}
# Loops inherited by a forked child. They are kept: closing one, as its __del__ may, would take descriptors
# out of the epoll instance that it shares with the parent.
_inherited: list[asyncio.AbstractEventLoop] = []


def current_loop_thread() -> LoopThread | None:
    """The `LoopThread` that this code runs on, None on any other thread."""
    return _live.get(threading.get_ident())


class LoopThread:
    """A daemon thread with an asyncio loop of its own.

    The thread creates, runs and closes its loop; no policy and no signal handler is touched. Other threads
    reach it through `bridge`. Stopping refuses new work, cancels the tasks that are left, lets them end
    (replies that they wait for still come in as posts), shuts down async generators, closes the loop and
    resolves every future that was handed out.

    A `BaseException` out of a callback, any exception out of `main`, and a `SystemExit` or
    `KeyboardInterrupt` out of a task *crash* the thread: it stops in the same orderly way, futures resolve
    with a `LoopClosed` whose cause is the crash, `on_crash` is called, and `join()` and `stop()` raise the
    crash.

    A crash before the thread is up is raised by `start()` alone.

    :param name: the thread's name, used in every message.
    :param on_crash: called as `on_crash(loop_thread, error)`, once, on the crashed thread before its tasks
        are ended; it must not block (`request_stop()` of others is fine, `stop()` is not).
    :param debug: asyncio's debug mode for this loop; `None` leaves it to asyncio (`PYTHONASYNCIODEBUG`, `-X dev`).
    :param slow_callback: seconds from which on debug mode logs a callback that held the loop; asyncio's by default.
    :param main: an async function that is called as `main(loop_thread)` and run as the thread's main task.
        The thread stops when it returns. When a stop is asked for, it is cancelled, unless it is in or past
        `await loop_thread.wait_stop()`: then it is left to return by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        on_crash: Callable[[LoopThread, BaseException], object] | None = None,
        debug: bool | None = None,
        slow_callback: float | None = None,
        main: Callable[[LoopThread], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        self.name = name
        self._on_crash = on_crash
        self._debug = debug
        self._slow_callback = slow_callback
        self._main = main
        self._main_task: asyncio.Task[object] | None = None
        self._main_listens = False
        self._stop_event = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Reentrant: request_stop() may come from a signal handler.
        self._lock = threading.RLock()
        self._state = LoopState.NEW
        self._started = False
        self._stop_requested = False
        self._winding_up = False
        self._stop_task_name = f'{name}:stop'
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bridge: Bridge | None = None
        self._start_error: BaseException | None = None
        self._crash_error: BaseException | None = None
        self._crash_traceback: TracebackType | None = None
        self._crash_reported = False
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r} {self._state.value}>'

    @property
    def state(self) -> LoopState:
        """Where the thread is in its life."""
        return self._state

    @property
    def thread(self) -> threading.Thread:
        """The thread itself, for its ident and its stack."""
        return self._thread

    @property
    def bridge(self) -> Bridge:
        """The way in from other threads; raises `LoopClosed` before `start()`."""
        if self._bridge is None:
            raise LoopClosed(f'{self.name!r} has no loop yet; call start() first')
        return self._bridge

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The thread's loop; raises `LoopClosed` before `start()`."""
        return self.bridge.loop

    def is_current(self) -> bool:
        """Whether this code runs on the thread."""
        return _live.get(threading.get_ident()) is self

    # -- starting and stopping, from other threads ---------------------------------------------------------

    def start(self, timeout: float | None = 10.0) -> None:
        """Start the thread and wait, at most `timeout` seconds, until its loop runs.

        With a `main`, that is when `main` has reached its first real `await`.

        :raises StartFailed: it did not come up, chained to the reason; it is stopped then. Also for a second
            call, as a thread starts once.
        """
        with self._lock:
            if self._started or self._state is not LoopState.NEW:
                raise StartFailed(
                    f'{self.name!r} was started or stopped before; a LoopThread runs once, create another'
                )
            self._started = True
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is exiting
            self._state = LoopState.STOPPED
            raise StartFailed(f'{self.name!r} could not be started: {error}') from error
        try:
            up = self._up.wait(timeout)
        except BaseException:
            self.request_stop()
            raise
        if not up:
            self.request_stop()
            raise StartFailed(
                f'{self.name!r} did not come up within {timeout:g} s; it is at {top_of(self._thread)}'
            )
        if self._start_error is not None:
            self._thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            raise StartFailed(f'{self.name!r} did not come up: {self._start_error!r}') from self._start_error

    def request_stop(self) -> None:
        """Ask the thread to stop and return at once; from any thread, any number of times."""
        with self._lock:
            self._stop_requested = True
            if not self._started:
                self._state = LoopState.STOPPED
            bridge = self._bridge
            if bridge is None or self._state is LoopState.STOPPED:
                return  # a thread that is still coming up looks at the flag
            self._state = LoopState.STOPPING
        bridge.refuse_work()
        with contextlib.suppress(LoopClosed):  # it is stopping already
            bridge.post(self._begin_stop)

    def stop(self, timeout: float | None = 10.0) -> None:
        """`request_stop()` and `join(timeout)`."""
        if self.is_current():
            raise WrongThread(f'stop() called on {self.name!r}, which would wait for itself; use request_stop()')
        self.request_stop()
        self.join(timeout)

    def join(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, until the thread has ended; at once if it never started.

        :raises StopTimeout: it still runs; the message says where.
        :raises WrongThread: called on the thread itself.
        :raises BaseException: what crashed the thread, at every call.
        """
        if self.is_current():
            raise WrongThread(f'join() called on {self.name!r}, which would wait for itself; let it return')
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise StopTimeout(
                    f'{self.name!r} did not stop within {timeout:.3g} s; it {self._describe()}', names=(self.name,)
                )
        if self._crash_error is not None:
            raise self._crash_error.with_traceback(self._crash_traceback)

    def _describe(self) -> str:
        """Where a thread is that does not stop, and what it waits for; a hint, read without stopping the loop."""
        place, names = top_of(self._thread), self._other_tasks()
        if not names:
            return f'is at {place}'
        waits = f'waits for its tasks {", ".join(names[:5] + ["..."] * (len(names) > 5))}'
        # A loop with nothing to do stands in select(), which tells nobody anything.
        return waits if place.endswith('Selector.select') else f'is at {place} and {waits}'

    def _other_tasks(self) -> list[str]:
        """The names of the tasks that are not the thread's own."""
        if self._loop is None:
            return []
        try:
            names = {task.get_name() for task in asyncio.all_tasks(self._loop)} - {self._stop_task_name}
        except RuntimeError:  # the set changed while it was read, too often
            return []
        return sorted(names - {f'{self.name}:main'}) or sorted(names)

    # -- on the thread -------------------------------------------------------------------------------------

    async def wait_stop(self) -> None:
        """Return when a stop was asked for; on the thread's own loop.

        A `main` that awaits this is not cancelled on stop, but ends by itself in its own time.
        """
        if asyncio.current_task() is self._main_task:
            self._main_listens = True
        await self._stop_event.wait()

    def _run(self) -> None:
        ident = threading.get_ident()
        _live[ident] = self
        try:
            try:
                loop = self._open_loop()
            except BaseException as error:  # such as: no file descriptors left
                self._start_error = error
                return
            try:
                loop.run_forever()
            except BaseException as error:
                self._crash(error)
            try:
                self._wind_up(loop)
            except BaseException as error:
                self._crash(error)
            finally:
                self.bridge.abandon()
                loop.close()
        finally:
            with self._lock:
                self._state = LoopState.STOPPED
            del _live[ident]
            self._up.set()

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        # Not asyncio.new_event_loop(): a host's policy may answer with the loop of its user interface.
        if sys.platform == 'win32':
            loop: asyncio.AbstractEventLoop = asyncio.ProactorEventLoop()
        else:
            loop = asyncio.SelectorEventLoop()
        try:
            if self._debug is not None:
                loop.set_debug(self._debug)
            if self._slow_callback is not None:
                loop.slow_callback_duration = self._slow_callback
            loop.set_exception_handler(self._on_loop_error)
            bridge = Bridge(loop, name=self.name, on_fatal=self._crash)
            if self._main is not None:
                self._main_task = loop.create_task(self._main(self), name=f'{self.name}:main')
                self._main_task.add_done_callback(self._main_done)
            loop.call_soon(self._came_up)
        except BaseException:
            loop.close()
            raise
        with self._lock:
            self._loop = loop
            self._bridge = bridge
            if self._stop_requested:
                bridge.refuse_work()
                loop.call_soon(self._begin_stop)
        return loop

    def _came_up(self) -> None:
        task = self._main_task
        if task is not None and task.done() and not task.cancelled() and task.exception() is not None:
            self._start_error = task.exception()
            self._halt()
        else:
            with self._lock:
                if self._state is LoopState.NEW:
                    self._state = LoopState.STOPPING if self._stop_requested else LoopState.RUNNING
        self._up.set()

    def _begin_stop(self) -> None:
        self._stop_event.set()
        task = self._main_task
        if task is None or task.done() or not self._main_listens:
            self._halt()

    def _halt(self) -> None:
        """End `run_forever`; winding up ends by itself, and stopping the loop would cut that short."""
        if not self._winding_up and self._loop is not None:
            self._loop.stop()

    def _main_done(self, task: asyncio.Task[object]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and error is not self._start_error:
            self._crash(error)
        self._halt()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get('exception')
        if error is not None and error is self._crash_error:
            return  # reported already; this is the task that it came out of
        if isinstance(error, BaseException) and not isinstance(error, (Exception, asyncio.CancelledError)):
            if self.is_current():
                self._crash(error)
                return
            # A task that nobody asked for its exception, found by the collector on some other thread.
            with contextlib.suppress(LoopClosed):
                self.bridge.post(self._crash, error)
                return
        loop.default_exception_handler(context)

    def _crash(self, error: BaseException) -> None:
        """Note what crashed the thread, on the thread. The first crash counts; later ones are logged."""
        if error is self._crash_error:
            return
        logger.critical('%r crashed', self.name, exc_info=error)
        if not self._up.is_set():
            # start() is still waiting, and will raise it.
            if self._start_error is None:
                self._start_error = error
                self.bridge.refuse_work(error)
        elif self._crash_error is None:
            self._crash_error = error
            self._crash_traceback = error.__traceback__
            self.bridge.refuse_work(error)
            if self._winding_up:
                self._report_crash()
        self._halt()

    def _report_crash(self) -> None:
        error = self._crash_error
        if error is None or self._crash_reported:
            return
        self._crash_reported = True
        if self._on_crash is not None:
            try:
                self._on_crash(self, error)
            except Exception:
                logger.exception('on_crash of %r failed', self.name)

    # -- winding up ----------------------------------------------------------------------------------------

    def _wind_up(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._state = LoopState.STOPPING
            self._winding_up = True
        self.bridge.refuse_work(self._crash_error)
        self._stop_event.set()
        self._report_crash()
        self._run_to_end(loop, self._finish)
        # What the last iterations of the loop may have begun, such as a wake-up of a mailbox.
        while asyncio.all_tasks(loop):
            self._run_to_end(loop, self._end_tasks)
        self._cancelled.clear()

    def _run_to_end(self, loop: asyncio.AbstractEventLoop, finish: Callable[[], _Finish]) -> None:
        """Run `finish()`, again from its beginning when a crash throws the loop out of it."""
        while True:
            task = loop.create_task(finish(), name=self._stop_task_name)
            try:
                loop.run_until_complete(task)
            except BaseException as error:
                self._crash(error)
                if task.done() and error is (None if task.cancelled() else task.exception()):
                    return  # its own failure: trying again would fail again
            else:
                return

    async def _finish(self) -> None:
        await self._end_tasks()
        self.bridge.close()
        await self._end_tasks()
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()

    async def _end_tasks(self) -> None:
        """Cancel every other task and wait until all have ended, with those that their clean-up began."""
        loop = asyncio.get_running_loop()
        this = asyncio.current_task()
        while tasks := asyncio.all_tasks() - {this}:
            # Once each, also when a crash makes this begin anew: a second cancel would cut their clean-up short.
            for task in tasks - self._cancelled:
                task.cancel()
            self._cancelled |= tasks
            await asyncio.wait(tasks)
            for task in tasks:
                if task is not self._main_task and not task.cancelled() and task.exception() is not None:
                    loop.call_exception_handler(
                        {
                            'message': f'{task.get_name()} failed while {self.name!r} was stopping',
                            'exception': task.exception(),
                            'task': task,
                        }
                    )

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._state = LoopState.STOPPED
        _live.clear()
        if self._loop is not None:
            _inherited.append(self._loop)


def refuse_on_loop_thread(what: str, instead: str) -> None:
    """Raise `WrongThread` when this code runs on one of Treadle's loops, which must not block.

    :param what: the blocking call, such as `'run()'`.
    :param instead: what to call there, such as `'await engine.run_async()'`.
    """
    thread = _live.get(threading.get_ident())
    if thread is not None:
        raise WrongThread(f'{what} called on {thread.name!r}; use {instead}')
