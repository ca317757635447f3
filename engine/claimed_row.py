"""The row of a claimed process, as this engine's last commit has left it."""

from __future__ import annotations

import msgspec

from .store.records import Advance, Fence, Held, ProcessRecord

__all__ = ['ClaimedRow']


class ClaimedRow:
    """What is known of the row without reading it again: nobody else writes it while the claim lasts.

    :ivar record: the row as it was claimed.
    :ivar visits: how many steps are committed.
    """

    __slots__ = ('checkpoint', 'outputs', 'record', 'version', 'visits')

    def __init__(self, record: ProcessRecord) -> None:
        self.record = record
        self.version = record.version
        self.visits = record.visit
        self.outputs = record.outputs
        self.checkpoint = record.checkpoint

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.record.pid

    @property
    def fence(self) -> Fence:
        """What the row must still be when something is written to it."""
        return Fence(self.record.pid, self.record.epoch, self.version)

    def advanced(self, advance: Advance, held: Held) -> None:
        """A step is committed."""
        self.version = held.version
        self.visits += 1
        self.checkpoint = advance.checkpoint
        if advance.outputs is not None:
            self.outputs = advance.outputs

    def final(self, advance: Advance, held: Held) -> ProcessRecord:
        """The whole row after that commit, which has ended the process."""
        return msgspec.structs.replace(
            self.record,
            state=advance.state,
            visit=advance.visit,
            step=None,
            exit_status=advance.exit_status,
            exit_message=advance.exit_message,
            exception=advance.exception,
            checkpoint=None,
            outputs=self.outputs,
            owner=None,
            version=held.version,
            changed_at=held.at,
        )
