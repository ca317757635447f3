"""The writing connection to a store in a PostgreSQL database.

Rows are locked one by one, at READ COMMITTED; nothing is locked as a whole. What a transaction needs is said in
:mod:`..transaction` and below. Here is what becomes of a connection that is lost: the next transaction opens another,
and a commit whose answer did not come is looked up, for the server keeps what became of each transaction.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Final, cast

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from ....threads import run_in_child
from ...errors import OutcomeUnknown, StoreError, StoreLost
from ..connections import uncut
from ..transaction import Cursor
from .connection import PgConnection, connect, leave_inherited
from .errors import is_busy, is_held, is_lost, translate_error
from .revision import check_schema, ensure_schema
from .server import Server
from .snapshot import Snapshot

__all__ = ['PLANS', 'PostgresqlDatabase']

LOGGER = logging.getLogger(__name__)

#: Seconds between two looks whether others have committed.
LOOK: Final = 0.1
#: The share of a lease after which the server ends a transaction whose engine stands still, and the least seconds.
STALL_SHARE, STALL_LEAST = 0.25, 1.0
#: The share of a lease for which to wait for a row that another holds: the engine is to beat meanwhile. Seconds for the
#: same when something waits already, and for a statement.
LOCK_SHARE, HASTE, STATEMENT_PATIENCE = 0.25, 0.02, 60.0
#: A plan is made once and kept. One that was made while there were few rows would read the whole table for each batch
#: until the next ANALYZE, so it is to use indexes from the beginning. Plans that have no choice would seem costly
#: enough for the just-in-time compiler.
PLANS: Final = {'enable_seqscan': 'off', 'jit': 'off'}
#: Seconds after which a command no longer asks what became of its commit; an engine asks until it stops.
ASK_PATIENCE: Final = 60.0
# Seconds between two attempts to learn what became of a commit: at first, and at most.
_PAUSE_FIRST, _PAUSE_MOST = 0.02, 2.0

_ASK: Final = 'SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_xact_status(%(number)s::text::xid8) END'
_BEGIN: Final = 'BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_current_xact_id()::text'
_BEGIN_HASTILY: Final = _BEGIN.replace(';', f"; SET LOCAL lock_timeout = '{round(1000 * HASTE)}ms';")


class PostgresqlDatabase:
    """The writing connection; made anywhere, then used by one thread alone.

    :param name: what the server shows it as.
    :param lease: seconds after which others may take over from its engine.
    """

    def __init__(self, server: Server, *, name: str, lease: float) -> None:
        self._server = server
        self._name = name
        self._lock_patience = max(HASTE, LOCK_SHARE * lease)
        self._stall = max(STALL_LEAST, STALL_SHARE * lease)
        self._connection: PgConnection | None = None
        self._transaction_id = 0
        self._inside = False
        self._is_marked: Callable[[Cursor], bool] | None = None
        self._ask_patience = ASK_PATIENCE
        self.hurry = threading.Event()
        self._look_due = 0.0
        self._snapshot: Snapshot | None = None
        self._own = 0
        run_in_child(self._after_fork)

    # -- connecting ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, making the tables if there are none."""
        ensure_schema(self._server)
        self.connect()
        self._ask_patience = math.inf

    def connect(self) -> None:
        """Connect to tables that are there and are of our schema."""
        try:
            self._connection = self._open()
        except psycopg.Error as error:
            raise translate_error(error, self._server) from error

    def _open(self) -> PgConnection:
        stall, locks, statements = (
            f'{round(1000 * seconds)}ms' for seconds in (self._stall, self._lock_patience, STATEMENT_PATIENCE)
        )
        connection = connect(
            self._server,
            name=self._name,
            # What an engine that was stopped in the middle of a transaction has locked is free again by then.
            idle_in_transaction_session_timeout=stall,
            lock_timeout=locks,
            statement_timeout=statements,
            **PLANS,
            # The server, too, notices a peer that is gone without a word, or takes no more of what it is told.
            tcp_user_timeout=f'{round(4000 * self._stall)}ms',
            tcp_keepalives_idle='5',
            tcp_keepalives_interval='2',
            tcp_keepalives_count='3',
        )
        try:
            check_schema(connection, self._server)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connected(self) -> PgConnection:
        connection = self._connection
        if connection is None or connection.closed:
            self._drop()
            # Whatever others have committed meanwhile was not heard of.
            self._snapshot = None
            connection = self._connection = self._open()
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Disconnect."""
        self._drop()

    def _after_fork(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            leave_inherited(connection)

    # -- a transaction ---------------------------------------------------------------------------------------

    def begin(self, *, hasty: bool = False) -> Cursor:
        """Begin a transaction that has its number, by which its end can be looked up; reconnects if need be."""
        self._transaction_id = 0
        self._is_marked = None
        uncut.__enter__()
        try:
            cursor = self._connected().cursor()
            try:
                cursor.execute(_BEGIN_HASTILY if hasty else _BEGIN, prepare=False)
            except errors.FeatureNotSupported as error:
                # A standby says so. The next attempt opens a session anew, with the primary if that is elsewhere.
                self._drop()
                raise errors.ReadOnlySqlTransaction(str(error)) from error
            while cursor.nextset():
                pass
            row = cursor.fetchone()
            if row is None:
                raise StoreError(f'the store {self._server} gave a transaction no number; connect to it directly')
            self._transaction_id = int(row[0])
        except BaseException:
            uncut.__exit__()
            raise
        self._inside = True
        return cast(Cursor, cursor)

    def mark(self, is_left: Callable[[Cursor], bool]) -> None:
        """How to see that the transaction is in.

        Its number alone does not tell: a server that crashed before it had written anything of the transaction to its
        log knows nothing of it when it comes back, and gives the same number to another one.
        """
        self._is_marked = is_left

    def commit(self) -> None:
        """Make the transaction durable; an answer that does not come is looked up on another connection.

        :raises psycopg.Error: it is certain that nothing was committed.
        :raises OutcomeUnknown: it could not be learned, for the engine is to stop, or a command has waited for long.
        """
        connection = self._connection
        if connection is None:
            raise psycopg.InterfaceError('the connection was lost before the commit')
        try:
            cursor = connection.execute('COMMIT', prepare=False)
        except psycopg.Error as error:
            if not (connection.closed or is_lost(error)):
                raise
            self._end()  # asking may take long
            if not self._was_committed(error):
                raise
        else:
            if cursor.statusmessage != 'COMMIT':
                raise StoreError(f'the store {self._server} rolled a transaction back: {cursor.statusmessage}')
        self._own += 1
        self._end()

    def _was_committed(self, lost: psycopg.Error) -> bool:
        """What became of the transaction whose commit got no answer; asks until somebody knows.

        Whatever keeps the answer from us, a name that is not known or a server that does not let us in, says nothing
        of the transaction, and to write it again would be to guess.
        """
        LOGGER.warning('the answer to a commit was lost: %s; asking what became of it', self.translate(lost))
        give_up = time.monotonic() + self._ask_patience
        pause, said = _PAUSE_FIRST, ''
        while True:
            problem: BaseException = lost
            try:
                self._drop()
                status = self._ask_for_end()
            except Exception as error:
                status, problem = None, self.translate(error)
                if str(problem) != said and not is_busy(error):
                    LOGGER.warning('what became of a commit cannot be asked now, trying again: %s', problem)
                    said = str(problem)
            if status in ('committed', 'aborted'):
                LOGGER.info('the transaction was %s', status)
                return status == 'committed'
            is_over = isinstance(problem, StoreLost) or time.monotonic() > give_up
            if is_over or self.hurry.wait(pause * random.uniform(0.5, 1.0)):
                raise OutcomeUnknown(
                    f'whether the store {self._server} has taken a transaction is not known, so it is not written '
                    f'again; see what is there when the server is back ({self.translate(problem)})'
                ) from lost
            pause = min(2 * pause, _PAUSE_MOST)

    def _ask_for_end(self) -> str | None:
        """What the server that writes says; ``None`` while it does not know, or there is none.

        A standby may have heard nothing yet of what its primary has committed, and knows as little of its own.
        """
        connection = self._connected()
        try:
            row = connection.execute(_ASK, {'number': str(self._transaction_id)}).fetchone()
        except errors.InvalidParameterValue:
            return 'aborted'  # a server that took over has never heard of it
        status: str | None = None if row is None else row[0]
        if status == 'committed' and self._is_marked is not None:
            return 'committed' if self._is_marked(cast(Cursor, connection.cursor())) else 'aborted'
        return status

    def rollback(self) -> None:
        """Undo the transaction; the server has done so already if the connection is lost."""
        try:
            self._undo()
        finally:
            self._end()

    def _end(self) -> None:
        if self._inside:
            self._inside = False
            uncut.__exit__()

    def _undo(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        status = connection.info.transaction_status
        if status == TransactionStatus.IDLE:
            return
        if status == TransactionStatus.ACTIVE:  # interrupted in the middle of a statement
            self._drop()
            return
        try:
            connection.execute('ROLLBACK', prepare=False)
        except psycopg.Error:
            self._drop()
        else:
            self._own += 1

    # -- errors ----------------------------------------------------------------------------------------------

    def is_busy(self, error: BaseException) -> bool:
        """Whether others got in first, or the server is away for now."""
        return is_busy(error)

    def is_held(self, error: BaseException) -> bool:
        """Whether it is a row that another holds that could not be waited for."""
        return is_held(error)

    def translate(self, error: BaseException) -> BaseException:
        """PostgreSQL's errors as ours, others as they are."""
        return translate_error(error, self._server) if isinstance(error, psycopg.Error) else error

    # -- others ----------------------------------------------------------------------------------------------

    def changed_elsewhere(self) -> bool:
        """Whether another connection has committed since the last time this was asked.

        It is asked of the server at most every :data:`LOOK` seconds. Any database of the server counts.
        """
        now = time.monotonic()
        connection = self._connection
        if now < self._look_due or connection is None:
            return False
        self._look_due = now + LOOK
        try:
            row = connection.execute('SELECT pg_current_snapshot()::text').fetchone()
        except psycopg.Error as error:
            if not is_lost(error):
                raise
            self._drop()  # the next transaction, such as a heartbeat, opens another
            return False
        if row is None:
            return False
        before, self._snapshot = self._snapshot, Snapshot.parse(row[0])
        own, self._own = self._own, 0
        return before is None or self._snapshot.ended_since(before) != own
