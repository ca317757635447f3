"""Broadcasts of what an engine has committed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import CommunicatorClosed
from .communicator import Communicator
from .messages import state_subject

if TYPE_CHECKING:
    from ..audience import Commit

__all__ = ['Publisher']

LOGGER = logging.getLogger(__name__)


class Publisher:
    """Broadcasts each committed change of state, with the pid as sender; one of those who hear an engine's commits."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def publish(self, commit: Commit) -> None:
        """Broadcast the changes of a commit, in their order."""
        try:
            for change in commit.changes:
                if change.before != change.after:
                    subject = state_subject(change.before, change.after)
                    self._communicator.broadcast_send(None, sender=change.pid, subject=subject)
        except CommunicatorClosed as error:
            LOGGER.debug('%d changes are not broadcast: %s', len(commit.changes), error)
