"""The rows of a store as a whole, whatever database keeps them: what moving, retiring and upgrading ask of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlalchemy as sa  # which takes long to import

__all__ = ['Contents']


class Contents(Protocol):
    """All tables of one store."""

    def revision(self) -> str | None:
        """The revision of the schema; ``None`` when the database is empty.

        :raises StoreError: there is no store, or it cannot be reached.
        """

    def snapshot(self, *, any_revision: bool = False) -> AbstractContextManager[sa.Connection]:
        """A connection in a transaction that sees one moment of the store, and holds nobody up.

        :param any_revision: also if the schema is not this Treadle's.
        :raises StoreError: from the body as well: the database's errors are translated.
        """

    def alone(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a transaction before or after which all others write; committed at the end of the body.

        :raises StoreError: from the body as well: the database's errors are translated.
        """

    def last_number(self, connection: sa.Connection, table: sa.Table) -> int:
        """The last number that the database gave to a row of the table by itself."""

    def go_on_from(self, connection: sa.Connection, table: sa.Table, number: int) -> None:
        """Have the database give higher numbers than this one, and than those that are there."""
