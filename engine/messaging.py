"""An engine's messages: the communicator that carries them, what is broadcast, and hints to other engines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..threads import LoopThread
from .communication import Communicator, LocalCommunicator
from .communication.messages import HINT_CHANGES, HINT_WORK
from .communication.publisher import Publisher
from .states import TERMINAL_STATES, ProcessState
from .task_replies import TaskReplies

if TYPE_CHECKING:
    from .audience import Audience
    from .calls import Calls
    from .communication.address import BrokerAddress
    from .communication.rabbit import RabbitCommunicator
    from .config import Diagnostics
    from .parts import EngineParts
    from .store.location import StoreLocation
    from .store.records import ProcessRecord, StateChange

__all__ = ['Broadcasts', 'Messaging']

LOGGER = logging.getLogger(__name__)

#: Which changes of state are broadcast: each, those that end a process, or none.
Broadcasts = Literal['all', 'terminal', 'none']


class Messaging:
    """What carries an engine's messages: a broker, or without one nothing beyond this OS process.

    :param broadcasts: which changes are told to whoever hears broadcasts. Hints go to other engines in any case.
    :param on_hint: called with the letters of another engine's hint (see :mod:`.communication.hints`); must not block.
    """

    def __init__(
        self,
        *,
        name: str,
        broker: BrokerAddress | None,
        broadcasts: Broadcasts,
        audience: Audience,
        diagnostics: Diagnostics,
        on_hint: Callable[[str], object],
    ) -> None:
        self._rabbit: RabbitCommunicator | None = None
        self._replies: TaskReplies | None = None
        if broker is None:
            self.communicator: Communicator = LocalCommunicator(name)
        else:
            # Who has no broker need not import what speaks to it, which takes a while.
            from .communication.rabbit import RabbitCommunicator  # noqa: PLC0415

            self._rabbit = self.communicator = RabbitCommunicator(
                broker,
                name=name,
                on_hint=on_hint,
                debug=diagnostics.asyncio_debug,
                slow_callback=diagnostics.watchdog or None,
            )
        if broadcasts != 'none':
            audience.add(
                Publisher(self.communicator, ends_alone=broadcasts == 'terminal').publish,
                name='broadcasts',
                wanted=lambda: self.communicator.is_heard,
            )

    @property
    def threads(self) -> list[LoopThread]:
        """The threads with a loop that it has."""
        return [] if self._rabbit is None else [self._rabbit.link.thread]

    def start(self, location: StoreLocation, deadline: float, *, needs_broker: bool) -> None:
        """Connect, if there is a broker.

        :param location: the store, which the virtual host is for.
        :param deadline: on the monotonic clock.
        :param needs_broker: whether it is an error if the broker is not there; else it is tried again until it is.
        :raises BrokerError: it cannot be had; says why.
        """
        if self._rabbit is not None:
            self._rabbit.link.store = location.identity()
            self._rabbit.start(max(0.1, deadline - time.monotonic()), is_needed=needs_broker)

    def leave_work_to_others(self) -> None:
        """Take no more of what any engine of the store may do: RPCs to pids, and tasks; never waits."""
        if self._rabbit is not None:
            self._rabbit.leave_work_to_others()

    def hint(
        self, changes: Sequence[StateChange], claims: Iterable[ProcessRecord], pauses: Mapping[int, bool]
    ) -> None:
        """Hint to other engines, if what was committed may concern them; on the store thread, never waiting."""
        if self._rabbit is None:
            return
        letters = ''
        if pauses or any(change.after in TERMINAL_STATES for change in changes):
            letters += HINT_CHANGES
        if not all(pauses.values()) or _leaves_work(changes, claims):
            letters += HINT_WORK
        if letters:
            self._rabbit.link.hints.send(letters)

    def take_over_replies(self, parts: EngineParts, calls: Calls, audience: Audience) -> None:
        """Answer the senders of tasks from now on, when what they have started ends."""
        if self._rabbit is not None:
            self._replies = TaskReplies(parts=parts, calls=calls, sender=self._rabbit)
            audience.add(self._replies.hear, name='answers to tasks', wanted=lambda: True)

    def reply_if_ended(self, pid: int) -> None:
        """A task is on record for a process that may have ended before."""
        if self._replies is not None:
            self._replies.send_if_ended(pid)

    def tick(self) -> None:
        """Time has passed; on the store thread."""
        if self._replies is not None:
            self._replies.sweep_if_due()

    def hint_work(self) -> None:
        """Hint that something is left to be run."""
        if self._rabbit is not None:
            self._rabbit.link.hints.send(HINT_WORK)


def _leaves_work(changes: Sequence[StateChange], claims: Iterable[ProcessRecord]) -> bool:
    """Whether something is to be run that was not claimed right away."""
    runnable: set[Any] = set()
    for change in changes:
        if change.after == ProcessState.CREATED or change.before == ProcessState.WAITING:
            runnable.add(change.pid)
        elif change.before == ProcessState.CREATED:
            runnable.discard(change.pid)  # it was claimed, or it is over
    if runnable:
        runnable.difference_update(record.pid for record in claims)
    return bool(runnable)
