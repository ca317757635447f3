"""The future of a process's end, as a host holds it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..threads import LoopClosed, StartFailed
from .node import ProcessNode
from .terminations import End

__all__ = ['HostFuture']


class HostFuture(Future[ProcessNode]):
    """Resolves to the final node, on a thread of Treadle's, which never runs the host's callbacks.

    They may block, or call the engine; on the store thread, or on a worker's loop, that would be a deadlock.

    :param run_beside: runs a function on a thread where user code may run.
    """

    def __init__(self, node: ProcessNode, run_beside: Callable[[Callable[[], object]], None]) -> None:
        super().__init__()
        self._node = node
        self._run_beside = run_beside
        self._resolver: int | None = None

    def add_done_callback(self, fn: Callable[[Future[ProcessNode]], Any]) -> None:
        """Call ``fn`` with the future when it is done: here if it is, else on a thread where user code may run."""
        super().add_done_callback(functools.partial(self._call, fn))

    def when_cancelled(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called when the host cancels it."""
        super().add_done_callback(lambda done: callback() if done.cancelled() else None)

    def resolve(self, ended: End) -> None:
        """Take over how the process has ended, unless the host has cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        self._resolver = threading.get_ident()
        try:
            error = ended.exception()
            if error is None:
                self._node._use(ended.result())
                self.set_result(self._node)
            else:
                self.set_exception(error)
        finally:
            self._resolver = None

    def _call(self, callback: Callable[[Future[ProcessNode]], Any], done: Future[ProcessNode]) -> None:
        if threading.get_ident() == self._resolver:
            try:
                self._run_beside(functools.partial(callback, done))
                return
            except (LoopClosed, StartFailed):  # the engine has stopped; this thread holds up nothing any more
                pass
        callback(done)
