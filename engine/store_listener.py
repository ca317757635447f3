"""What an engine does when its store has committed something, and between two commits: all on the store thread."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .faults import FaultPoint
from .states import TERMINAL_STATES, ProcessState
from .store.records import EngineRecord, ProcessRecord, StateChange

if TYPE_CHECKING:
    from .core import Core

__all__ = ['StoreListener']

LOGGER = logging.getLogger(__name__)


class StoreListener:
    """Tells the parts of an engine what concerns them; see :class:`~.store.store_thread.Listener`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def committed(
        self, changes: Sequence[StateChange], claims: Sequence[ProcessRecord], pauses: Mapping[int, bool]
    ) -> None:
        """Changes are durable: first who must end is told, then who waits, who is to work, and who listens."""
        core = self._core
        killed = [change.pid for change in changes if change.after == ProcessState.KILLED]
        if killed:
            core.aborts.killed(killed)
        core.terminations.ended(change.pid for change in changes if change.after in TERMINAL_STATES)
        if claims:
            core.dispatcher.dispatch(claims)
        if killed or pauses:
            core.desks.ask()
        core.messaging.hint(changes, claims, pauses)
        core.audience.tell(changes, pauses)

    def paused(self, pauses: Mapping[int, bool]) -> None:
        """Processes are durably paused, or no longer."""
        self._core.dispatcher.pause(pauses)

    def next_life(self) -> EngineRecord | None:
        """The row to go on under, since this engine was declared dead."""
        return self._core.membership.next_life()

    def began_life(self, engine_id: int) -> None:
        """That row is durable. All that was held is held no longer."""
        core = self._core
        before = core.membership.engine_id
        core.membership.begin_life(engine_id)
        core.claims.add_origin(engine_id)
        core.aborts.lost()
        LOGGER.critical(
            'engine %d (%r) was silent for its lease of %g s and was declared dead; it has written nothing since, what '
            'it ran is taken over, and it goes on as engine %d. Was the machine suspended, the OS process stopped, or '
            'the interpreter held up?', before, core.name, core.membership.lease.seconds, engine_id,
        )  # fmt: skip
        core.faults.hit(FaultPoint.ENGINE_REJOINED)
        core.claims.look()

    def tick(self) -> None:
        """Time has passed: show that the engine lives, and look for what no commit of its own tells."""
        core = self._core
        core.membership.beat()
        if core.state in ('starting', 'stopped'):  # or the start has failed, and the store still writes
            return
        core.homes.check()
        if core.database.changed_elsewhere():
            core.claims.hear()
        if core.membership.is_to_watch():
            core.claims.watch()
        core.claims.look_if_due()
        core.messaging.tick()
