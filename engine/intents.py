"""Kill, pause and play: intents that are written into the rows, whatever runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..threads import wait
from .errors import EngineStopped, StoreError
from .faults import FaultPoint
from .parts import EngineParts
from .patience import RUN_INSTEAD
from .store.intents import kill, pause, play
from .store.transaction import Transaction

__all__ = ['Intents']

LOGGER = logging.getLogger(__name__)

#: Seconds that what a killed step has started gets to end, after Ctrl-C.
UNWINDING_PATIENCE = 5.0


class Intents:
    """Writes what is wanted of processes.

    :ivar in_haste: whether a second Ctrl-C came while the first one was being dealt with.
    """

    def __init__(self, *, parts: EngineParts) -> None:
        self._parts = parts
        self.in_haste = False

    def kill(self, pids: Sequence[int], message: str) -> Future[list[int]]:
        """Kill processes with all their descendants; the future resolves when it is durable."""
        return self._write(lambda transaction: kill(transaction, pids, message))

    def pause(self, pids: Sequence[int], message: str | None) -> Future[list[int]]:
        """Pause processes with all their descendants; the future resolves when it is durable."""
        return self._write(lambda transaction: pause(transaction, pids, message))

    def play(self, pids: Sequence[int]) -> Future[list[int]]:
        """Let processes go on; the future resolves when it is durable."""
        return self._write(lambda transaction: play(transaction, pids))

    def _write(self, operation: Callable[[Transaction], list[int]]) -> Future[list[int]]:
        faults = self._parts.faults
        written = self._parts.store.call(operation)
        faults.hit(FaultPoint.INTENT_POSTED)
        written.add_done_callback(lambda done: faults.hit(FaultPoint.INTENT_WRITTEN))
        return written

    def interrupted(self, pid: int) -> None:
        """After Ctrl-C: kill the process durably, then let what its steps have started come to an end.

        A second Ctrl-C comes out at once. Whatever else goes wrong is logged: the caller raises its KeyboardInterrupt.
        """
        try:
            killed = wait(self.kill([pid], 'interrupted (Ctrl-C)'), what='run()', instead=RUN_INSTEAD)
            late = self._parts.aborts.wait(killed, UNWINDING_PATIENCE)
        except KeyboardInterrupt:
            self.in_haste = True
            raise
        except (EngineStopped, StoreError) as error:
            LOGGER.warning('process %d could not be killed after Ctrl-C: %s', pid, error)
            return
        for each in late:
            LOGGER.warning(
                'process %d is killed, but what its step has started did not end within %g s', each, UNWINDING_PATIENCE
            )
