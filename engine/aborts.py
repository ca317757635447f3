"""Telling steps that their result no longer counts, and knowing when what they have started is gone.

A killed process is killed in the store at once; its step may still execute, and may have started something outside of
this OS process, such as a subprocess. The step says with ``on_kill`` how to end that. Whoever must not return before it
is gone (a script that ends after Ctrl-C) waits here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from ..threads import LoopClosed, StartFailed, wait
from .deadlines import remaining
from .dispatcher import Dispatcher
from .errors import LeaseLost, StepAborted
from .processes.visit import Visit

__all__ = ['Aborts']

LOGGER = logging.getLogger(__name__)


class Aborts:
    """Aborts the steps of killed processes.

    :param run_beside: runs a callback of the user's at once, on a thread where user code may run.
    """

    def __init__(self, *, dispatcher: Dispatcher, run_beside: Callable[[Callable[[], None]], None]) -> None:
        self._dispatcher = dispatcher
        self._run_beside = run_beside
        self._lock = threading.Lock()
        self._unwinding: dict[int, set[Future[None]]] = {}

    def killed(self, pids: Iterable[int]) -> None:
        """These processes were killed: tell the steps of theirs that go on; on the store thread, never blocking."""
        for visit in self._dispatcher.kill(pids):
            self.abort(visit, StepAborted(f'process {visit.pid} was killed'), self._run_beside)

    def lost(self) -> None:
        """All claims were taken away: tell every step that goes on; on the store thread, never blocking."""
        for visit in self._dispatcher.lose():
            reason = LeaseLost(
                f"process {visit.pid} is no longer this engine's, which was declared dead after its lease had passed; "
                f'another may run it by now, and this step counts for nothing'
            )
            self.abort(visit, reason, self._run_beside)

    def abort(self, visit: Visit, reason: StepAborted, run: Callable[[Callable[[], None]], None]) -> None:
        """Abort one step and have ``run`` call its ``on_kill`` callbacks."""
        callbacks = visit.abort(reason)
        if not callbacks:
            return  # it ends when it ends; nothing is known of it that would have to be gone
        jobs = [_Callback(visit.pid, callback) for callback in callbacks]
        self._watch(visit.pid, [self._dispatcher.end_of(visit), *(job.over for job in jobs)])
        for job in jobs:
            try:
                run(job)
            except (LoopClosed, StartFailed) as error:
                LOGGER.error('process %d: its on_kill callback cannot be called: %s', visit.pid, error)
                job.over.set_result(None)

    def _watch(self, pid: int, parts: list[Future[None]]) -> None:
        with self._lock:
            self._unwinding.setdefault(pid, set()).update(parts)
        for part in parts:
            part.add_done_callback(lambda done: self._is_over(pid, done))

    def _is_over(self, pid: int, part: Future[None]) -> None:
        with self._lock:
            left = self._unwinding.get(pid)
            if left is not None:
                left.discard(part)
                if not left:
                    del self._unwinding[pid]

    def wait(self, pids: Iterable[int], timeout: float) -> list[int]:
        """Wait until the callbacks of these processes have returned, and the steps that had some have ended.

        :param timeout: seconds for all of them.
        :returns: the processes for which that was too short.
        """
        deadline = time.monotonic() + timeout
        late = []
        for pid in pids:
            with self._lock:
                parts = list(self._unwinding.get(pid, ()))
            try:
                for part in parts:
                    wait(part, remaining(deadline), what='kill()')
            except TimeoutError:
                late.append(pid)
        return late


class _Callback:
    """One ``on_kill`` callback, called on a thread where user code may run."""

    __slots__ = ('_callback', '_pid', 'over')

    def __init__(self, pid: int, callback: Callable[[], object]) -> None:
        self._pid = pid
        self._callback = callback
        self.over: Future[None] = Future()

    def __call__(self) -> None:
        try:
            self._callback()
        except Exception:
            LOGGER.exception('process %d: its on_kill callback raised', self._pid)
        finally:
            self.over.set_result(None)
