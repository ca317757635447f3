"""What PostgreSQL's errors mean: whether to try again, and what to tell the user."""

from __future__ import annotations

import re
from typing import Final

import psycopg
from psycopg import errors

from ...errors import (
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnavailable,
    TreadleError,
    UnstorableValue,
)
from .server import Server

__all__ = ['NotConnected', 'is_busy', 'is_held', 'is_lost', 'translate_error']

#: Somebody else holds what is wanted, or got in first: the same transaction may succeed a moment later.
_CONFLICTS: Final = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.ReadOnlySqlTransaction,  # the other server of the two is about to become the first
)
#: States in which a server is there and takes nobody, for a while, or has ended this session.
_AWAY: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.IdleSessionTimeout,
    errors.TooManyConnections,
    errors.DatabaseDropped,
)
# Errors of a connection that is being made carry no code; these are libpq's and the server's own words. A name that is
# not known is not among them: it may come to be known, as those of containers do, or its service be away for a moment.
_REFUSED: Final = re.compile(
    'authentication failed|no password supplied|does not exist|no pg_hba.conf entry|pg_hba.conf rejects'
    '|not permitted|permission denied|certificate|SSL|invalid ',
    re.IGNORECASE,
)
# The server, or the way to it, went away while TLS was being agreed upon.
_CUT_OFF: Final = re.compile(
    'SSL SYSCALL|closed (the connection )?unexpectedly|unexpected eof|SSL negotiation packet', re.IGNORECASE
)
# How psycopg begins what one of several hosts has answered.
_EACH_HOST: Final = '\n- host: '
#: The unique index over keys; two engines may have written the same key at the same moment.
_KEYS: Final = 'process_key'


class NotConnected(psycopg.OperationalError):
    """A session could not be had: nothing was asked of the server yet."""


def is_lost(error: BaseException) -> bool:
    """Whether the connection, or the server, is away, and may be back a moment later.

    What is said without a code on a connection that was open always means that: libpq has lost it, whatever the words.
    """
    if isinstance(error, _AWAY):
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    if error.sqlstate is not None:
        return error.sqlstate.startswith('08')
    return not _is_refused(error)


def _is_refused(error: psycopg.Error) -> bool:
    """Whether no server lets us in; one host of several that is merely away may do so when it is back."""
    if not isinstance(error, NotConnected):
        return False
    _, *each = str(error).split(_EACH_HOST)
    return all(_REFUSED.search(said) and not _CUT_OFF.search(said) for said in each or [str(error)])


def is_held(error: BaseException) -> bool:
    """Whether a statement has waited for too long, as it does for a row that another holds."""
    return isinstance(error, errors.LockNotAvailable | errors.QueryCanceled)


def is_busy(error: BaseException) -> bool:
    """Whether the same transaction may succeed a moment later."""
    if isinstance(error, errors.UniqueViolation):
        return error.diag.constraint_name == _KEYS
    return isinstance(error, _CONFLICTS) or is_lost(error)


def translate_error(error: psycopg.Error, server: Server) -> TreadleError:
    """The engine's error for one of PostgreSQL's, with what can be done about it. It is returned, not raised."""
    said = _said(error)
    for kind, form in _BY_KIND:
        if isinstance(error, kind):
            cls, text = form
            return cls(text.format(s=server, said=said))
    if isinstance(error, NotConnected):
        refusal: type[StoreError] = StoreRefused if _is_refused(error) else StoreUnavailable
        for pattern, text in _BY_WORDS:
            if re.search(pattern, str(error), re.IGNORECASE):
                return refusal(text.format(s=server, said=said))
    if is_lost(error):
        return StoreUnavailable(
            f'the PostgreSQL server at {server.place} does not answer for the store {server} ({said}); '
            'see whether it runs and whether this host reaches it'
        )
    return StoreUnavailable(f'the store {server} refused an operation: {said} ({type(error).__name__})')


_BY_KIND: Final[tuple[tuple[type[psycopg.Error], tuple[type[TreadleError], str]], ...]] = (
    (
        errors.DiskFull,
        (
            StoreFull,
            'the disk of the PostgreSQL server at {s.place} is full ({said}); free some space there, then go on: '
            'nothing of the failed write was kept, and what was committed before is intact',
        ),
    ),
    (
        errors.TooManyConnections,
        (
            StoreUnavailable,
            'the PostgreSQL server at {s.place} takes no more connections ({said}); end some, or raise its '
            'max_connections: an engine needs up to five',
        ),
    ),
    (
        errors.InsufficientPrivilege,
        (
            StoreReadOnly,
            'the role {s.user!r} may not do this in the database {s.database!r} at {s.place} ({said}); let its owner '
            'say GRANT CREATE ON DATABASE, or name another user or database in the URL of the store',
        ),
    ),
    (
        errors.ReadOnlySqlTransaction,
        (
            StoreReadOnly,
            'the PostgreSQL server at {s.place} only reads ({said}): it is a standby, or was set so; name the primary '
            'in the URL of the store, or both, with target_session_attrs=read-write',
        ),
    ),
    (
        errors.LockNotAvailable,
        (
            StoreUnavailable,
            'another program holds a row of the store {s} ({said}); end whatever has a long transaction on it, and try '
            'again',
        ),
    ),
    (
        errors.DataError,
        (UnstorableValue, 'the store {s} cannot hold a value: {said}; leave out what it names'),
    ),
    (
        errors.ProgramLimitExceeded,
        (UnstorableValue, 'the store {s} cannot hold a value: {said}; give a smaller one'),
    ),
)

_BY_WORDS: Final = (
    (
        'password authentication failed|no password supplied',
        'the PostgreSQL server at {s.place} refuses the password of the role {s.user!r} ({said}); set PGPASSWORD or '
        'write it into ~/.pgpass for this host, port, database and user, or into the URL of the store',
    ),
    (
        'role ".*" does not exist',
        'the PostgreSQL server at {s.place} has no role {s.user!r} ({said}); make it with `createuser`, or name '
        'another user in the URL of the store',
    ),
    (
        'database ".*" does not exist',
        'the PostgreSQL server at {s.place} has no database {s.database!r} ({said}); make it with `createdb '
        '{s.database}`, or name another in the URL of the store',
    ),
    (
        'no pg_hba.conf entry|pg_hba.conf rejects',
        'the PostgreSQL server at {s.place} does not let the role {s.user!r} into the database {s.database!r} from '
        'this host ({said}); let its pg_hba.conf allow that, or set sslmode in the URL of the store as it asks for',
    ),
    (
        'translate host name|Name or service not known|resolve',
        'the host {s.host!r} of the PostgreSQL server is not known ({said}); correct the URL of the store, or the '
        "network's name service",
    ),
    (
        'certificate|SSL',
        'TLS to the PostgreSQL server at {s.place} failed ({said}); sslmode, sslrootcert, sslcert and sslkey in the '
        'URL of the store say what is to be verified and how',
    ),
    (
        'timeout',
        'the PostgreSQL server at {s.place} did not answer in time ({said}); see whether this host reaches it, or set '
        'connect_timeout in the URL of the store',
    ),
    (
        'Connection refused|No such file or directory',
        'no PostgreSQL server listens at {s.place} ({said}); start it, or correct host and port in the URL of '
        'the store',
    ),
    (
        'remaining connection slots|too many clients|too many connections',
        'the PostgreSQL server at {s.place} takes no more connections ({said}); end some, or raise its '
        'max_connections: an engine needs up to five',
    ),
    (
        'session is read-only|session is not read-only',
        'no PostgreSQL server of {s.host} is of the kind that target_session_attrs asks for ({said}); start the '
        'primary, or name it in the URL of the store',
    ),
)


def _said(error: psycopg.Error) -> str:
    """The server's words in one line, without a detail that may repeat a user's values."""
    text = error.diag.message_primary or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if 'multiple connection attempts' in text else (lines[0] if lines else type(error).__name__)
