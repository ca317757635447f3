"""Room for large numbers, indexes for what every engine asks all the time, and since when older engines can go on.

Revision ID: 0008
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None

#: PostgreSQL refuses every statement that was prepared before and returns a column whose type is another one now.
engines_go_on = False


def upgrade() -> None:
    if op.get_context().dialect.name != 'sqlite':  # whose integers have 64 bits
        for table, column, nullable in (('process', 'exit_status', True), ('engine', 'heartbeat', False)):
            op.alter_column(
                table, column, type_=sa.BigInteger(), existing_type=sa.Integer(), existing_nullable=nullable
            )
    _partial('process_unfinished', 'process', 'origin', "state NOT IN ('excepted', 'finished', 'killed')")
    _partial('engine_live', 'engine', 'id', 'ended IS NULL')
    # By hash, since a path may be longer than what an index in order takes.
    _partial('engine_ended', 'engine', 'script', 'ended IS NOT NULL', postgresql_using='hash')
    op.create_table(
        'compatibility',
        sa.Column('revision', sa.Text, nullable=False),
        sa.Column('since', sa.Text, nullable=False),
        sa.PrimaryKeyConstraint('revision', name='pk_compatibility'),
    )


def _partial(name: str, table: str, column: str, where: str, **options: Any) -> None:
    predicate = sa.text(where)
    op.create_index(name, table, [column], sqlite_where=predicate, postgresql_where=predicate, **options)
