"""How PostgreSQL, through psycopg, wants its statements worded, as far as that can be said without SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..transaction import Cursor

__all__ = ['PostgresqlWording']


class PostgresqlWording:
    """Sets travel as the text of an array; which type it is of stands in the statement."""

    def named(self, name: str) -> str:
        """``%(name)s``."""
        return f'%({name})s'

    def among_pids(self, column: str) -> str:
        """``column = ANY(%(pids)s::bigint[])``."""
        return f'{column} = ANY(%(pids)s::bigint[])'

    def pids(self, pids: Iterable[int]) -> str:
        """The pids as an array, such as ``{1,2}``."""
        return f'{{{",".join(map(str, pids))}}}'

    def lock(self, name: str) -> str:
        """A lock of that name, which no table has to hold."""
        return f'SELECT pg_advisory_xact_lock(hashtextextended({self.named(name)}, 0))'

    def run_each(self, cursor: Cursor, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """All by one statement, with an array for each name.

        Many statements in a pipeline would be as fast. But the server heeds that a session stands still in a
        transaction only while it waits for the first message after a Sync; so an engine that is stopped, or cut off,
        while it sends a pipeline would keep its rows locked for as long as that lasts.
        """
        cursor.execute(statement, {name: _array(row[name] for row in rows) for name in rows[0]})


def _array(values: Iterable[int | float | str | None]) -> str:
    return f'{{{",".join(map(_element, values))}}}'


def _element(value: int | float | str | None) -> str:
    if value is None:
        return 'NULL'
    if isinstance(value, str):
        escaped = value.replace('\\', '\\\\').replace('"', '\\"')
        return f'"{escaped}"'
    return str(int(value)) if isinstance(value, int) else repr(value)
