"""Names the frame that keeps a loop from coming round."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from .errors import Forked, LoopClosed, StartFailed, StopTimeout, WrongThread
from .fork import run_in_child
from .loop_thread import LoopState, LoopThread
from .stacks import stack_of, top_of

logger = logging.getLogger(__name__)


class _Probe:
    """What is known of one loop thread. `sent` is None while no ping is under way."""

    __slots__ = ('answered', 'reported', 'sent', 'thread')

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread
        self.sent: float | None = None
        self.answered: float | None = None
        self.reported = False


class Watchdog:
    """A daemon thread that pings loops and logs who holds one for too long.

    Each ping is a post to the loop's bridge. When it is not answered within `threshold`, a warning with the
    stack of the loop's thread is logged, once for each blockage, and another with the duration when the
    loop comes round again. Costs a few posts per second and loop.

    :param threads: the loop threads to watch; more by `watch()`. One that stops is forgotten.
    :param threshold: seconds that a loop may be held.
    :param interval: seconds between looks, half the threshold and at most half a second by default. A
        blockage is seen at the latest one interval after the threshold.
    :param clock: seconds that never go back; for tests.
    """

    name = 'treadle-watchdog'

    def __init__(
        self,
        threads: Iterable[LoopThread] = (),
        *,
        threshold: float = 1.0,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if threshold <= 0:
            raise ValueError(f'threshold must be more than 0 seconds, not {threshold!r}')
        self.threshold = threshold
        self.interval = min(threshold / 2, 0.5) if interval is None else interval
        self._clock = clock
        self._lock = threading.Lock()
        self._probes = {thread: _Probe(thread) for thread in threads}
        # Set to look at once: a blockage is over, or the watchdog is to stop.
        self._look = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} of {len(self._probes)} loops, threshold {self.threshold:g} s>'

    def watch(self, thread: LoopThread) -> None:
        """Watch `thread` too; from any thread. One that has not started yet is waited for."""
        with self._lock:
            self._probes.setdefault(thread, _Probe(thread))

    def unwatch(self, thread: LoopThread) -> None:
        """Watch `thread` no more."""
        with self._lock:
            self._probes.pop(thread, None)

    def start(self, timeout: float | None = None) -> None:
        """Start the thread; `timeout` is there for groups, and not needed.

        :raises StartFailed: it was started before, or no thread can be had.
        """
        with self._lock:
            if self._thread is not None:
                raise StartFailed(f'{self.name!r} was started before; a watchdog runs once, create another')
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is exiting
            raise StartFailed(f'{self.name!r} could not be started: {error}') from error

    def request_stop(self) -> None:
        """Ask the thread to stop and return at once; from any thread, any number of times."""
        self._stopping = True
        self._look.set()

    def stop(self, timeout: float | None = 10.0) -> None:
        """Stop the thread and wait for it, at most `timeout` seconds.

        :raises StopTimeout: it still runs.
        """
        thread = self._thread
        if thread is threading.current_thread():
            raise WrongThread(f'stop() called on {self.name!r}, which would wait for itself; use request_stop()')
        self.request_stop()
        if thread is None or thread.ident is None:
            return
        thread.join(timeout)
        if thread.is_alive():
            raise StopTimeout(
                f'{self.name!r} did not stop within {timeout:.3g} s; it is at {top_of(thread)}', names=(self.name,)
            )

    def check(self) -> None:
        """Look once at every loop: log what is new, and send the next pings. The thread does nothing else."""
        with self._lock:
            probes = list(self._probes.values())
        for probe in probes:
            try:
                self._check(probe)
            except (LoopClosed, Forked):
                self.unwatch(probe.thread)

    def _run(self) -> None:
        while not self._stopping:
            self._look.clear()
            self.check()
            self._look.wait(self.interval)

    def _check(self, probe: _Probe) -> None:
        thread = probe.thread
        if probe.sent is not None:
            if probe.answered is None:
                held = self._clock() - probe.sent
                if held > self.threshold and not probe.reported:
                    probe.reported = True
                    logger.warning(
                        '%s has been held for %.3g s, by %s\n%s',
                        thread.name,
                        held,
                        top_of(thread.thread),
                        stack_of(thread.thread),
                    )
                return
            if probe.reported:
                logger.warning('%s comes round again; it was held for %.3g s', thread.name, probe.answered -
                probe.sent)
        if thread.state is LoopState.NEW:
            return
        probe.answered = None
        probe.reported = False
        probe.sent = self._clock()
        thread.bridge.post(self._answer, probe)

    def _answer(self, probe: _Probe) -> None:
        probe.answered = self._clock()
        if probe.reported:
            self._look.set()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._probes.clear()
