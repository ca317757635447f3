"""How SQLAlchemy is to put statements together for SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from .wording import SqliteWording

__all__ = ['SqliteDialect']


class SqliteDialect(SqliteWording):
    """SQLite's: one writer at a time, and nothing is locked but the file."""

    locks_rows = False

    _dialect = sqlite.dialect()

    def compile(self, statement: sa.ClauseElement) -> str:
        """The statement's text with ``:name`` parameters."""
        return str(statement.compile(dialect=self._dialect, compile_kwargs={'literal_binds': True}))

    def parameter(self, name: str) -> sa.ColumnElement[Any]:
        """``:name``."""
        return sa.literal_column(self.named(name))

    def is_member(self, column: sa.ColumnElement[int], name: str = 'pids') -> sa.ColumnElement[bool]:
        """``column IN (SELECT value FROM json_each(:name))``."""
        return column.in_(self.members(name))

    def is_among(self, column: sa.ColumnElement[int], pids: sa.SelectBase) -> sa.ColumnElement[bool]:
        """``column IN (SELECT ...)``."""
        return column.in_(pids)

    def members(self, name: str) -> sa.Select[Any]:
        """``SELECT value FROM json_each(:name)``."""
        values = sa.func.json_each(self.parameter(name)).table_valued('value')
        return sa.select(values.c.value)

    def insert(self, table: sa.Table) -> Any:
        """SQLite's own insert."""
        return sqlite.insert(table)

    def each(self, **types: sa.types.TypeEngine[Any]) -> Mapping[str, sa.ColumnElement[Any]]:
        """Parameters."""
        return {name: self.parameter(name) for name in types}

    def insert_each(self, table: sa.Table, *names: str) -> Any:
        """``INSERT ... VALUES (:a, :b)``."""
        # It asks for no row back: from Python 3.12 on one that nobody takes keeps COMMIT from succeeding.
        return self.insert(table).inline().values({name: self.parameter(name) for name in names})
