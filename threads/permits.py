"""Step threads: at most so many jobs execute at once, and a job that blocks gives its permit back.

A plain thread pool deadlocks when a job waits for another job of the same pool. Here a thread that is about
to wait says so (:meth:`StepThreads.blocked`); its permit passes on to the next job while it waits, and it
takes a permit again before it goes on. So the number of *executing* jobs is bounded, and the number of threads
is the executing ones plus the blocked ones.

Who gets a free permit: first a thread that comes back from waiting, then the job with the deepest nesting (what
somebody's thread waits for, so that blocked threads do not pile up), then the oldest job.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import LoopClosed, StartFailed, StopTimeout
from .stacks import top_of

LOGGER = logging.getLogger(__name__)

Job = Callable[[], object]


class _Thread:
    """One pool thread's place to wait for its next job."""

    __slots__ = ('job', 'wake')

    def __init__(self) -> None:
        self.job: Job | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class StepThreads:
    """Threads that run synchronous jobs, at most ``permits`` of them executing at the same time.

    :param permits: how many jobs may execute at once; at least 1.
    :param name: the threads are called ``<name>-1``, ``<name>-2``, ...
    :param kind: what errors call a job.
    :param idle: seconds after which a thread without work ends.

    Guarantees: a job that :meth:`post` accepts runs, also when :meth:`stop` comes first; jobs of the same nesting
    start in the order in which they were posted. A job should not raise; what it raises is logged.
    """

    def __init__(self, *, permits: int, name: str = 'treadle-step', kind: str = 'step', idle: float = 10.0) -> None:
        if permits < 1:
            raise ValueError(f'steps must be at least 1, not {permits!r}')
        self.permits = permits
        self._name = name
        self._kind = kind
        self._idle_seconds = idle
        self._lock = threading.Lock()
        self._free = permits
        self._blocked = 0
        self._backlog: list[tuple[int, int, Job]] = []
        self._order = itertools.count()
        self._returning: deque[threading.Lock] = deque()
        self._idle: list[_Thread] = []
        self._threads: set[threading.Thread] = set()
        #: How many threads will ask for another job.
        self._serving = 0
        self._numbers = itertools.count(1)
        self._closed = False
        self._local = threading.local()

    @property
    def blocked_count(self) -> int:
        """How many jobs have given their permit back and wait."""
        return self._blocked

    def post(self, job: Job, *, nesting: int = 0) -> None:
        """Run ``job`` as soon as a permit is free.

        :param nesting: how many blocked threads wait for this job; deeper jobs go first.
        :raises LoopClosed: after :meth:`stop`.
        :raises StartFailed: no thread can be started, and none is there that would take the job later; it will not run.
        """
        with self._lock:
            self._check_open()
            if self._free and self._can_start(job):
                self._free -= 1
            else:
                heapq.heappush(self._backlog, (-nesting, next(self._order), job))

    def post_beside(self, job: Job) -> None:
        """Run ``job`` at once on a thread of its own right, without a permit.

        For what must not queue behind steps, such as telling a step that it was killed.

        :raises LoopClosed: after :meth:`stop`.
        """
        with self._lock:
            self._check_open()
            self._start(_Beside(job))

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Give this thread's permit back while the body waits; take one again before going on.

        On a thread that holds no permit of ours (a host's thread) the body just runs.
        """
        if not getattr(self._local, 'has_permit', False):
            yield
            return
        with self._lock:
            self._blocked += 1
            self._pass_permit_on()
        self._local.has_permit = False
        try:
            yield
        finally:
            self._take_permit()
            self._local.has_permit = True

    @property
    def name(self) -> str:
        """What the threads' names begin with."""
        return self._name

    def start(self, timeout: float | None = None) -> None:
        """Nothing to do: threads are started when there is work."""

    def request_stop(self) -> None:
        """Take no more jobs; those that were accepted still run, so they should see that the end is wanted."""
        with self._lock:
            self._closed = True
            for thread in self._idle:
                thread.wake.release()
            self._idle.clear()

    def stop(self, timeout: float | None = None) -> None:
        """:meth:`request_stop`, and wait for the jobs that execute.

        :param timeout: seconds to wait for all of them.
        :raises StopTimeout: some still run; names their threads and where they are.
        """
        self.request_stop()
        deadline = None if timeout is None else time.monotonic() + timeout
        alive = self._others()
        while alive:
            # A job that waited for a permit may need a thread that is not there yet.
            for each in alive:
                each.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            alive = self._others()
            if deadline is not None and time.monotonic() >= deadline:
                break
        if alive:
            raise StopTimeout(
                f'{len(alive)} {self._kind}(s) did not end within {timeout:.3g} s: '
                + '; '.join(f'{each.name!r} is at {top_of(each)}' for each in alive),
                names=tuple(each.name for each in alive),
            )

    def _others(self) -> list[threading.Thread]:
        with self._lock:
            threads = self._threads - {threading.current_thread()}
        return sorted((each for each in threads if each.is_alive()), key=lambda each: each.name)

    def _check_open(self) -> None:
        if self._closed:
            raise LoopClosed(f"the '{self._name}' threads have stopped and take no more steps")

    def _can_start(self, job: Job) -> bool:
        # Called with the lock held. Without a thread for it the job waits for one that is busy and not blocked.
        try:
            self._start(job)
        except StartFailed:
            if self._serving <= self._blocked:
                raise
            return False
        return True

    def _start(self, job: Job) -> None:
        # Called with the lock held. The thread that went idle last is the one whose caches are warm.
        if self._idle:
            thread = self._idle.pop()
            thread.job = job
            thread.wake.release()
            return
        os_thread = threading.Thread(
            target=self._run, args=(job,), name=f'{self._name}-{next(self._numbers)}', daemon=True
        )
        self._threads.add(os_thread)
        try:
            os_thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is exiting
            self._threads.discard(os_thread)
            raise StartFailed(f'no thread could be started for a step: {error}') from error
        self._serving += 1

    def _run(self, job: Job | None) -> None:
        place = _Thread()
        try:
            while job is not None:
                beside = isinstance(job, _Beside)
                self._local.has_permit = not beside
                try:
                    job()
                except BaseException:
                    LOGGER.exception('a job on %s raised', threading.current_thread().name)
                job = None  # a thread that waits for work keeps nothing alive
                job = self._next_job(place, beside=beside)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _next_job(self, place: _Thread, *, beside: bool) -> Job | None:
        with self._lock:
            if not beside:
                if self._backlog and not self._returning:
                    return heapq.heappop(self._backlog)[2]
                self._pass_permit_on()
            elif self._free and self._backlog:  # no thread could be had for it
                self._free -= 1
                return heapq.heappop(self._backlog)[2]
            if self._closed:
                self._serving -= 1
                return None
            self._idle.append(place)
        if not place.wake.acquire(timeout=self._idle_seconds):
            with self._lock:
                if place in self._idle:
                    self._idle.remove(place)
                    self._serving -= 1
                    return None
            place.wake.acquire()  # a job came in the moment in which we gave up waiting
        job, place.job = place.job, None
        if job is None:
            with self._lock:
                self._serving -= 1
        return job

    def _pass_permit_on(self) -> None:
        # Called with the lock held, by a thread that gives up its permit.
        if self._returning:
            self._returning.popleft().release()
            return
        if self._backlog:
            try:
                self._start(self._backlog[0][2])
            except StartFailed as error:
                LOGGER.warning('%d steps wait for a thread: %s', len(self._backlog), error)
            else:
                heapq.heappop(self._backlog)
                return
        self._free += 1

    def _take_permit(self) -> None:
        with self._lock:
            self._blocked -= 1
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._returning.append(turn)
        turn.acquire()


class _Beside:
    """A job that runs without a permit."""

    __slots__ = ('_job',)

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self) -> None:
        self._job()
