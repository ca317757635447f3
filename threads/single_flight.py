"""A job that is asked for often: it runs beside the steps, never twice at once, and again if asked for meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .errors import LoopClosed, StartFailed
from .permits import StepThreads

LOGGER = logging.getLogger(__name__)


class SingleFlight:
    """Runs a job on a borrowed thread whenever it is asked for.

    :param job: called without arguments, where it may block. What it raises is logged.
    :param threads: the pool; a thread of it is borrowed, beside the permits, while the job runs.
    :param name: how the log names it.

    Guarantees: after each :meth:`ask` the job begins once more, however many calls there were, unless the pool has
    stopped.
    """

    def __init__(self, job: Callable[[], object], threads: StepThreads, *, name: str) -> None:
        self._job = job
        self._threads = threads
        self._name = name
        self._lock = threading.Lock()
        self._runs = False
        self._again = False

    def ask(self) -> None:
        """Run the job soon; from any thread, never blocking."""
        with self._lock:
            if self._runs:
                self._again = True
                return
            self._runs = True
        try:
            self._threads.post_beside(self._run)
        except (LoopClosed, StartFailed) as error:  # it stops; or the interpreter exits, which starts no thread
            LOGGER.debug('%s does not run: %s', self._name, error)
            with self._lock:
                self._runs = self._again = False

    def _run(self) -> None:
        while True:
            try:
                self._job()
            except BaseException:  # such as SystemExit of user code; the next run must not wait for this one
                LOGGER.exception('%s failed, it is tried again when it is asked for', self._name)
            with self._lock:
                if not self._again:
                    self._runs = False
                    return
                self._again = False
