"""What a server says of the transactions that have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

__all__ = ['Snapshot']


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All transactions with numbers below ``next`` have ended, but for so many that are ``open``."""

    next: int
    open: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's ``xmin:xmax:xip_list``."""
        _, following, in_progress = text.split(':')
        return cls(int(following), len(in_progress.split(',')) if in_progress else 0)

    def ended_since(self, before: Snapshot) -> int:
        """How many transactions that write have ended since."""
        return (self.next - self.open) - (before.next - before.open)
