"""What the parts of an engine need of one another; ``core.py`` puts them together."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from .errors import EngineStopped
from .store import notes

if TYPE_CHECKING:
    from ..threads import StepThreads
    from .aborts import Aborts
    from .desk.desks import Desks
    from .dispatcher import Dispatcher
    from .faults import Faults
    from .homes import Homes
    from .membership import Membership
    from .node import Source
    from .processes.visit import Visit
    from .store.store_thread import StoreThread
    from .terminations import Terminations
    from .transports import ConnectionAuthority

__all__ = ['RETRY_FIRST', 'RETRY_MOST', 'EngineParts', 'keep_log_of_killed']

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
    membership: Membership
    faults: Faults
    desks: Desks
    connections: ConnectionAuthority

    @property
    def engine_id(self) -> int:
        """The engine's number in the store, at present: it may be declared dead and go on under another."""

    def park(self, pid: int, reason: str) -> None:
        """Do not claim this process again; tell whoever waits for it."""

    def tell_parked(self, pid: int, reason: str) -> None:
        """Say in the log stream of a process why this engine leaves it alone, for those who look without an engine."""

    def why_parked(self, pid: int) -> str | None:
        """Why this engine does not go on with a process, if it does not."""

    def has_room(self) -> None:
        """A process has left; see whether others can be claimed."""


def keep_log_of_killed(parts: EngineParts, visit: Visit) -> None:
    """If the process of an ended visit was killed meanwhile, keep what it had logged: it may tell why that was done.

    Nothing is kept when the visit counts for nothing for another reason: the step is taken, and logs, again.
    """
    log = tuple(visit.log)
    if log:
        with contextlib.suppress(EngineStopped):  # closed, with all that it was to write
            parts.store.call(lambda transaction: notes.keep_log_of_killed(transaction, visit.fence, log))
