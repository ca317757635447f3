"""The future of a process's end, as a host holds it: on threads, or on a loop of the host's."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..threads import LoopClosed, StartFailed, call_when_done
from .node import ProcessNode
from .terminations import End

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ['HostFuture', 'ProcessFuture']


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


class ProcessFuture(asyncio.Future[ProcessNode]):
    """An :class:`asyncio.Future` of the final node of a process, for a loop of the host's.

    It resolves when the end is committed, whoever commits it, and soon if the process has ended before. It fails with
    ``EngineStopped`` if the engine stops first, and with ``ProcessParked`` if that cannot go on with the process.
    Cancelling it leaves the process alone. Make it on the thread that runs the loop, or is about to.

    :param pid: the process, or its node.
    :param engine: a running engine on the process's store.
    :param loop: the loop; the one that runs, if none is given.
    :raises ProcessNotFound: there is no such process.
    :raises RuntimeError: no loop runs, and none is given.
    """

    def __init__(
        self, pid: int | ProcessNode, engine: Engine, *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                raise RuntimeError(
                    'a ProcessFuture belongs to a loop, and none runs here; give one as loop=, or use engine.future()'
                ) from None
        super().__init__(loop=loop)
        self._waits = engine.core.take_call().waits
        (self._node,) = self._waits.nodes_of(pid)
        self._ended = self._waits.end_of(self._node)
        self._unregister = call_when_done(self._ended, loop, self._resolve)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._node.pid

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the future and forget that it waited; the process goes on."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._let_go()
        return cancelled

    def _resolve(self) -> None:
        if self.done():
            return
        self._let_go()
        error = self._ended.exception()
        if error is not None:
            self.set_exception(error)
            return
        self._node._use(self._ended.result())
        self.set_result(self._node)

    def _let_go(self) -> None:
        self._unregister()
        self._waits.forget(self._node, self._ended)
