"""How SQLite wants its statements worded, as far as that can be said without SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from ..transaction import Cursor

__all__ = ['SqliteWording']


class SqliteWording:
    """SQLite: sets travel as JSON arrays, since the number of parameters of a statement is fixed."""

    def named(self, name: str) -> str:
        """``:name``."""
        return f':{name}'

    def among_pids(self, column: str) -> str:
        """``column IN (SELECT value FROM json_each(:pids))``."""
        return f'{column} IN (SELECT value FROM json_each(:pids))'

    def pids(self, pids: Iterable[int]) -> str:
        """The pids as a JSON array."""
        return msgspec.json.encode(list(pids)).decode()

    def lock(self, name: str) -> None:
        """Whoever writes is alone."""

    def run_each(self, cursor: Cursor, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """One after the other."""
        cursor.executemany(statement, rows)
