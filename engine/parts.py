"""What the parts of an engine need of one another; ``core.py`` puts them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..threads import StepThreads
    from .aborts import Aborts
    from .dispatcher import Dispatcher
    from .faults import Faults
    from .homes import Homes
    from .node import Source
    from .store.store_thread import StoreThread
    from .terminations import Terminations

__all__ = ['RETRY_FIRST', 'RETRY_MOST', 'EngineParts']

#: Seconds before what the store could not write is tried again: first, and at most.
RETRY_FIRST, RETRY_MOST = 0.1, 10.0


class EngineParts(Protocol):
    """An engine as its parts see it."""

    store: StoreThread
    steps: StepThreads
    dispatcher: Dispatcher
    homes: Homes
    terminations: Terminations
    aborts: Aborts
    source: Source
    faults: Faults

    def park(self, pid: int, reason: str) -> None:
        """Do not claim this process again; tell whoever waits for it."""

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with a process, if it does not."""

    def has_room(self) -> None:
        """A process has left; see whether others can be claimed."""
