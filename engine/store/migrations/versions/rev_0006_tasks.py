"""The tasks that came by a broker: which process each has led to, and where its answer is to go.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None

engines_go_on = True


def upgrade() -> None:
    op.create_table(
        'task',
        sa.Column('correlation_id', sa.Text, nullable=False),
        sa.Column(
            'pid', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False, autoincrement=False
        ),
        sa.Column('reply_to', sa.Text),
        sa.PrimaryKeyConstraint('correlation_id', name='pk_task'),
    )
    predicate = sa.text('reply_to IS NOT NULL')
    op.create_index('task_owed', 'task', ['pid'], sqlite_where=predicate, postgresql_where=predicate)
