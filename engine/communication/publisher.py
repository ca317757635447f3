"""Broadcasts of what an engine has committed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import CommunicatorClosed
from ..states import TERMINAL_STATES, ProcessState
from .communicator import Communicator
from .messages import state_subject

if TYPE_CHECKING:
    from ..audience import Commit

__all__ = ['Publisher']

LOGGER = logging.getLogger(__name__)


class Publisher:
    """Broadcasts each committed change of state, with the pid as sender; one of those who hear an engine's commits.

    :param ends_alone: whether only the ends of processes are broadcast.
    """

    def __init__(self, communicator: Communicator, *, ends_alone: bool = False) -> None:
        self._communicator = communicator
        self._ends_alone = ends_alone

    def publish(self, commit: Commit) -> None:
        """Broadcast the changes of a commit, in their order."""
        try:
            for change in commit.changes:
                self._publish(change.pid, change.before, change.after)
        except CommunicatorClosed as error:
            LOGGER.debug('%d changes are not broadcast: %s', len(commit.changes), error)

    def _publish(self, pid: int, before: str, after: str) -> None:
        if self._ends_alone and after not in TERMINAL_STATES:
            return
        if not before and after != ProcessState.CREATED:  # a function that is called runs from the beginning
            self._publish(pid, before, ProcessState.CREATED)
            before = ProcessState.CREATED
        if before != after:
            self._communicator.broadcast_send(None, sender=pid, subject=state_subject(before, after))
