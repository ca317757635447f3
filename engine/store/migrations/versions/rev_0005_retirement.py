"""A mark in a store whose contents have moved to another one.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

engines_go_on = True


def upgrade() -> None:
    op.create_table(
        'retirement',
        sa.Column('at', sa.Double(), nullable=False, autoincrement=False),
        sa.Column('moved_to', sa.Text, nullable=False),
        sa.PrimaryKeyConstraint('at', name='pk_retirement'),
    )
