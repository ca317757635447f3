"""What classes declared when their processes began, to show the difference when they have changed.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

engines_go_on = True


def upgrade() -> None:
    op.create_table(
        'code',
        sa.Column('digest', sa.Text, nullable=False),
        sa.Column('text', sa.Text, nullable=False),
        sa.PrimaryKeyConstraint('digest', name='pk_code'),
    )
    # NULL for the processes that are there: of what they began with nothing is known.
    op.add_column('process', sa.Column('code', sa.Text))
