"""Computers, and the jobs of processes on them.

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None

engines_go_on = True


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    zero, one = sa.text('0'), sa.text('1')
    op.create_table(
        'computer',
        sa.Column('name', sa.Text, nullable=False),
        sa.Column('definition', sa.Text, nullable=False),
        sa.Column('note', sa.Text),
        sa.Column('changed_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('name', name='pk_computer'),
    )
    op.create_table(
        'job',
        sa.Column('pid', number, nullable=False, autoincrement=False),
        sa.Column('computer', sa.Text, nullable=False),
        sa.Column('state', sa.Text, nullable=False),
        sa.Column('request', sa.Text, nullable=False),
        sa.Column('attempt', sa.Integer, nullable=False, server_default=zero),
        sa.Column('epoch', sa.Integer, nullable=False, server_default=one),
        sa.Column('owner', number),
        sa.Column('folder', sa.Text),
        sa.Column('job_id', sa.Text),
        sa.Column('phase', sa.Text),
        sa.Column('outcome', sa.Text),
        sa.Column('retrieved', sa.Text),
        sa.Column('note', sa.Text),
        sa.Column('monitored', sa.Integer, nullable=False, server_default=zero),
        sa.Column('changed_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('pid', name='pk_job'),
    )
    live = sa.text("state NOT IN ('retrieved', 'refused', 'gone')")
    op.create_index('job_live', 'job', ['computer', 'pid'], sqlite_where=live, postgresql_where=live)
