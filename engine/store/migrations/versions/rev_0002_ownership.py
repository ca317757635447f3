"""Count the engines that have died over a process; say when an engine last beat.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

engines_go_on = True


def upgrade() -> None:
    op.add_column('process', sa.Column('crashes', sa.Integer, nullable=False, server_default=sa.text('0')))
    op.add_column('engine', sa.Column('beat_at', sa.Double()))
