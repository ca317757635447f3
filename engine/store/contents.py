"""A store as a whole, whatever database keeps it: what moving, retiring and upgrading ask of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlalchemy as sa  # which takes long to import

    from ..values import ObjectStore

__all__ = ['Contents']


class Contents(Protocol):
    """Everything that one store holds.

    :ivar name: for people; without a password.
    :ivar objects: the large contents.
    """

    name: str
    objects: ObjectStore

    def prepare(self) -> None:
        """Make the store where there is none."""

    def revision(self) -> str | None:
        """The revision of its schema; ``None`` when the database is empty."""

    def upgrade(self) -> None:
        """Bring it to this Treadle's schema, in one transaction that has the database for itself."""

    def snapshot(self, *, any_revision: bool = False) -> AbstractContextManager[sa.Connection]:
        """A connection in a transaction that sees one moment of the store, and holds nobody up.

        :param any_revision: also if the schema is not this Treadle's.
        """

    def alone(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a transaction before and after which all others write; committed at the end of the body."""

    def last_number(self, connection: sa.Connection, table: sa.Table) -> int:
        """The last number that the database gave to a row of the table by itself."""

    def go_on_from(self, connection: sa.Connection, table: sa.Table, number: int) -> None:
        """Have the database give higher numbers than this one."""
