"""How SQLAlchemy is to put statements together for PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from .wording import PostgresqlWording

__all__ = ['PostgresqlDialect']


class PostgresqlDialect(PostgresqlWording):
    """Rows are locked one by one, and psycopg's placeholders are used."""

    locks_rows = True

    # Not psycopg's own style, for which every literal column would have its percent signs doubled.
    _dialect: sa.Dialect = postgresql.dialect(paramstyle='named')  # type: ignore[no-untyped-call]

    def compile(self, statement: sa.ClauseElement) -> str:
        """The statement's text with ``%(name)s`` parameters."""
        return str(statement.compile(dialect=self._dialect, compile_kwargs={'literal_binds': True}))

    def parameter(self, name: str) -> sa.ColumnElement[Any]:
        """``%(name)s``."""
        return sa.literal_column(self.named(name))

    def is_member(self, column: sa.ColumnElement[int], name: str = 'pids') -> sa.ColumnElement[bool]:
        """``column = ANY(%(name)s::bigint[])``."""
        return column == sa.func.any(sa.literal_column(f'{self.named(name)}::bigint[]'))

    def is_among(self, column: sa.ColumnElement[int], pids: sa.SelectBase) -> sa.ColumnElement[bool]:
        """``column = ANY(ARRAY(SELECT ...))``: found by the index, where a join would read the whole table."""
        return column == sa.func.any(sa.func.array(pids.scalar_subquery()))

    def members(self, name: str) -> sa.Select[Any]:
        """``SELECT unnest(%(name)s::bigint[])``."""
        return sa.select(sa.literal_column(f'unnest({self.named(name)}::bigint[])', sa.BigInteger()))

    def insert(self, table: sa.Table) -> Any:
        """PostgreSQL's own insert."""
        return postgresql.insert(table)

    def each(self, **types: sa.types.TypeEngine[Any]) -> Mapping[str, sa.ColumnElement[Any]]:
        """The columns of ``unnest(%(a)s::BIGINT[], %(b)s::TEXT[]) AS given(a, b)``."""
        arrays: list[sa.ColumnElement[Any]] = [
            sa.literal_column(f'{self.named(name)}::{kind.compile(dialect=self._dialect)}[]')
            for name, kind in types.items()
        ]
        given = sa.func.unnest(*arrays).table_valued(*types).render_derived(name='given')
        return {name: given.c[name] for name in types}

    def insert_each(self, table: sa.Table, *names: str) -> Any:
        """``INSERT ... SELECT a, b FROM unnest(...)``."""
        given = self.each(**{name: table.c[name].type for name in names})
        return self.insert(table).from_select(names, sa.select(*given.values()))
