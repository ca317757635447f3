"""Connections to a PostgreSQL database: how they are opened, what is set on each, what becomes of them at a fork."""

from __future__ import annotations

import os
import socket
from typing import Any, Final

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.types.numeric import FloatDumper, Int8Dumper

from ...errors import StoreUnavailable
from ..connections import uncut
from .errors import NotConnected
from .server import Server

__all__ = ['MINIMUM_VERSION', 'SCHEMA', 'PgConnection', 'connect', 'leave_inherited']

#: The first version with ``pg_current_xact_id``.
MINIMUM_VERSION: Final = 130000
#: All tables are in a schema of this name, so that they meet no others.
SCHEMA: Final = 'treadle'

PgConnection = psycopg.Connection[tuple[Any, ...]]

# What a forked child got from its parent in the middle of being used, and must neither use nor close.
_inherited: list[PgConnection] = []


class _Int(Int8Dumper):
    """Without a type, so that one prepared statement serves numbers and NULL, and the column says which type it is."""

    oid = 0


class _Float(FloatDumper):
    """As :class:`_Int`."""

    oid = 0


_ADAPTERS: Final = AdaptersMap(psycopg.adapters)
_ADAPTERS.register_dumper(int, _Int)
_ADAPTERS.register_dumper(float, _Float)


def connect(server: Server, *, name: str = 'treadle', **settings: str) -> PgConnection:
    """Open a connection without implicit transactions.

    It may change threads, but only one at a time may use it. The session must be the server's own: a pooler that hands
    sessions round between transactions keeps neither the settings nor the prepared statements.

    :param name: what the server shows it as.
    :param settings: of the session, in PostgreSQL's words.
    :raises NotConnected: it cannot be made; see :func:`.errors.translate_error`.
    :raises StoreUnavailable: the server is too old.
    """
    parameters: dict[str, Any] = {'application_name': name[:63], **server.parameters}
    try:
        connection: PgConnection = psycopg.connect(
            **parameters, client_encoding='utf-8', autocommit=True, prepare_threshold=0, context=_ADAPTERS
        )
    except psycopg.OperationalError as error:
        raise NotConnected(str(error)) from error
    try:
        _check_version(connection, server)
        # Statements are few, and each has one form; none is ever given up.
        connection.prepared_max = None
        _set(connection, {'search_path': SCHEMA, 'client_min_messages': 'warning', **settings})
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: PgConnection, server: Server) -> None:
    version = connection.info.server_version
    if version < MINIMUM_VERSION:
        raise StoreUnavailable(
            f'the PostgreSQL server at {server.place} is version {version // 10000}.{version % 10000}; a store needs '
            f'{MINIMUM_VERSION // 10000} or newer'
        )


def _set(connection: PgConnection, settings: dict[str, str]) -> None:
    calls = ', '.join(f'set_config(%({name})s, %({name}_value)s, false)' for name in settings)
    # A commit that is answered is on a disk, whatever the server's administrator prefers for others.
    durable = (
        "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"
    )
    values = {name: name for name in settings} | {f'{name}_value': value for name, value in settings.items()}
    connection.execute(f'SELECT {durable}, {calls}', values, prepare=False).fetchall()


def leave_inherited(connection: PgConnection) -> None:
    """Get rid of a parent's connection in a forked child, without a word to the server, for whom it is the parent's.

    The child's copy of the socket is closed all the same, so that the server notices when the parent is gone. One that
    the fork has cut in the middle of a call may be half of what it should be, and is not touched otherwise.
    """
    if connection.closed:
        return
    here, there = socket.socketpair()
    with here, there:
        os.dup2(here.fileno(), connection.fileno())
    if uncut.clean:
        connection.close()
    else:
        _inherited.append(connection)
