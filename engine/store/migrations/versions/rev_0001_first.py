"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None

engines_go_on = True

APPLICATION_ID = 0x7472646C


def upgrade() -> None:
    # Copied from the schema as it was at this revision, not imported: the schema moves on, this does not.
    number = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    real: sa.Double[float] = sa.Double()
    none, zero = sa.text("''"), sa.text('0')

    op.create_table(
        'process',
        sa.Column('pid', number, nullable=False, autoincrement=False),
        sa.Column('uuid', sa.Text, nullable=False),
        sa.Column('parent', number),
        sa.Column('call_visit', sa.Integer),
        sa.Column('call_number', sa.Integer),
        sa.Column('nesting', sa.Integer, nullable=False, server_default=zero),
        sa.Column('driven', sa.Integer, nullable=False, server_default=zero),
        sa.Column('class_name', sa.Text, nullable=False),
        sa.Column('class_hash', sa.Text),
        sa.Column('process_label', sa.Text, nullable=False, server_default=none),
        sa.Column('label', sa.Text, nullable=False, server_default=none),
        sa.Column('description', sa.Text, nullable=False, server_default=none),
        sa.Column('key', sa.Text),
        sa.Column('fingerprint', sa.Text),
        sa.Column('state', sa.Text, nullable=False),
        sa.Column('paused', sa.Integer, nullable=False, server_default=zero),
        sa.Column('visit', sa.Integer, nullable=False, server_default=zero),
        sa.Column('step', sa.Text),
        sa.Column('exit_status', sa.Integer),
        sa.Column('exit_message', sa.Text),
        sa.Column('exception', sa.Text),
        sa.Column('inputs', sa.Text, nullable=False),
        sa.Column('checkpoint', sa.Text),
        sa.Column('outputs', sa.Text),
        sa.Column('origin', number, nullable=False),
        sa.Column('owner', number),
        sa.Column('epoch', sa.Integer, nullable=False, server_default=zero),
        sa.Column('version', sa.Integer, nullable=False, server_default=zero),
        sa.Column('wake_at', real),
        sa.Column('created_at', real, nullable=False),
        sa.Column('changed_at', real, nullable=False),
        sa.PrimaryKeyConstraint('pid', name='pk_process'),
        sa.UniqueConstraint('parent', 'call_visit', 'call_number', name='uq_process_call'),
        sa.UniqueConstraint('uuid', name='uq_process_uuid'),
    )
    _partial(
        'process_runnable',
        [sa.text('nesting DESC'), 'pid'],
        "owner IS NULL AND driven = 0 AND state IN ('created', 'running') AND paused = 0",
    )
    _partial('process_owner', ['owner'], 'owner IS NOT NULL')
    _partial('process_key', ['key'], "key IS NOT NULL AND state NOT IN ('killed', 'excepted')", unique=True)
    _partial('process_wake_at', ['wake_at'], 'wake_at IS NOT NULL')

    op.create_table(
        'awaiting',
        sa.Column('awaited', number, nullable=False, autoincrement=False),
        sa.Column('waiter', number, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint('awaited', 'waiter', name='pk_awaiting'),
        sqlite_with_rowid=False,
    )
    op.create_index('awaiting_waiter', 'awaiting', ['waiter'])

    op.create_table(
        'log',
        sa.Column('id', number, nullable=False, autoincrement=True),
        sa.Column('pid', number, nullable=False),
        sa.Column('at', real, nullable=False),
        sa.Column('level', sa.Integer, nullable=False),
        sa.Column('logger', sa.Text, nullable=False),
        sa.Column('message', sa.Text, nullable=False),
        sa.PrimaryKeyConstraint('id', name='pk_log'),
    )
    op.create_index('log_pid', 'log', ['pid', 'id'])

    op.create_table(
        'engine',
        sa.Column('id', number, nullable=False, autoincrement=True),
        sa.Column('uuid', sa.Text, nullable=False),
        sa.Column('name', sa.Text, nullable=False),
        sa.Column('host', sa.Text, nullable=False),
        sa.Column('boot_id', sa.Text, nullable=False),
        sa.Column('os_pid', sa.Integer, nullable=False),
        sa.Column('script', sa.Text),
        sa.Column('started_at', real, nullable=False),
        sa.Column('heartbeat', sa.Integer, nullable=False, server_default=zero),
        sa.Column('lease', real, nullable=False),
        sa.Column('ended', sa.Text),
        sa.PrimaryKeyConstraint('id', name='pk_engine'),
        sa.UniqueConstraint('uuid', name='uq_engine_uuid'),
        sqlite_autoincrement=True,
    )

    counter = op.create_table(
        'counter',
        sa.Column('name', sa.Text, nullable=False),
        sa.Column('next', number, nullable=False),
        sa.PrimaryKeyConstraint('name', name='pk_counter'),
    )
    op.bulk_insert(counter, [{'name': 'pid', 'next': 1}])

    if op.get_context().dialect.name == 'sqlite':
        op.execute(f'PRAGMA application_id = {APPLICATION_ID}')


def _partial(name: str, columns: list[str | sa.TextClause], where: str, *, unique: bool = False) -> None:
    predicate = sa.text(where)
    op.create_index(
        name, 'process', columns, unique=unique, sqlite_where=predicate, postgresql_where=predicate
    )
