"""How PostgreSQL, through psycopg, wants its statements worded, as far as that can be said without SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable

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
