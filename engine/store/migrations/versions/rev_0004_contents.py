"""What a database without files beside it keeps itself: large contents, and a name that no other store has.

Revision ID: 0004
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

engines_go_on = True


def upgrade() -> None:
    if op.get_context().dialect.name == 'sqlite':
        return
    op.create_table(
        'object',
        sa.Column('sha256', sa.Text, nullable=False),
        sa.Column('content', sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column('size', sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint('sha256', name='pk_object'),
    )
    op.create_table(
        'chunk',
        sa.Column('content', sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column('number', sa.Integer, nullable=False, autoincrement=False),
        sa.Column('bytes', sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint('content', 'number', name='pk_chunk'),
    )
    # Arrays and archives do not get smaller, and trying costs more than writing them.
    op.execute('ALTER TABLE chunk ALTER COLUMN bytes SET STORAGE EXTERNAL')
    op.execute('CREATE SEQUENCE content')
    identity = op.create_table(
        'identity',
        sa.Column('uuid', sa.Text, nullable=False),
        sa.PrimaryKeyConstraint('uuid', name='pk_identity'),
    )
    op.bulk_insert(identity, [{'uuid': str(uuid.uuid4())}])
