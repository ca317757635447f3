"""What the store asks of a database's writing connection, and one transaction on it, tried until it is in."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from .transaction import Cursor

__all__ = ['BUSY_PATIENCE', 'Database', 'transact']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

#: Seconds to keep trying while others hold what a transaction needs, or the database is away.
BUSY_PATIENCE = 60.0
# Seconds between two attempts: at first, and at most. They vary, so that engines do not collide again and again.
_PAUSE_FIRST, _PAUSE_MOST = 0.005, 1.0


class Database(Protocol):
    """A database connection as its one writer sees it; it is opened, used and closed on one thread.

    :ivar hurry: set it from any thread: from then on nothing that is away or busy is waited for.
    """

    hurry: threading.Event

    def open(self) -> None:
        """Connect as an engine does, making the store where there is none.

        :raises StoreError: names the thing and the remedy.
        """

    def connect(self) -> None:
        """Connect to a store that is there; it is neither made nor upgraded.

        :raises StoreError: names the thing and the remedy.
        """

    def close(self) -> None:
        """Disconnect."""

    def begin(self, *, hasty: bool = False) -> Cursor:
        """Begin a writing transaction.

        :param hasty: it waits for hardly a moment for rows that others hold, where rows are locked.
        """

    def mark(self, is_left: Callable[[Cursor], bool]) -> None:
        """The transaction leaves a mark in the database, by which to see that it is in if its commit gets no answer.

        :param is_left: whether the mark is there; called outside of the transaction, when that has ended.
        """

    def commit(self) -> None:
        """Make it durable.

        :raises OutcomeUnknown: it may be, and must not be written again.
        """

    def rollback(self) -> None:
        """Undo it."""

    def is_busy(self, error: BaseException) -> bool:
        """Whether the same transaction may succeed a moment later."""

    def is_held(self, error: BaseException) -> bool:
        """Whether it is a row that another holds, and not the database as a whole, that could not be waited for."""

    def translate(self, error: BaseException) -> BaseException:
        """The driver's error as one of ours."""

    def changed_elsewhere(self) -> bool:
        """Whether another connection may have committed since the last time this was asked."""


def transact(
    database: Database,
    work: Callable[[Cursor], T],
    *,
    patience: float = BUSY_PATIENCE,
    hasty: bool = False,
    waits_for_rows: bool = True,
) -> T:
    """What ``work`` returns, whose writes are durable by then; it runs more than once if the database is busy.

    :param work: writes with the cursor that it is given; must keep nothing of an attempt that fails.
    :param patience: seconds to go on trying.
    :param hasty: as for :meth:`Database.begin`.
    :param waits_for_rows: whether to go on trying for the sake of a row that another holds.
    :raises StoreError: the database does not take it.
    """
    give_up = time.monotonic() + patience
    pause = _PAUSE_FIRST
    while True:
        try:
            return _attempt(database, work, hasty)
        except Exception as error:
            if not waits_for_rows and database.is_held(error):
                raise database.translate(error) from error
            if not database.is_busy(error) or time.monotonic() > give_up or database.hurry.is_set():
                raise database.translate(error) from error
            # Once is enough for people; an outage may be long.
            level = logging.WARNING if pause == _PAUSE_FIRST else logging.DEBUG
            LOGGER.log(level, 'the store is busy, trying again: %s', database.translate(error))
        database.hurry.wait(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _PAUSE_MOST)


def _attempt(database: Database, work: Callable[[Cursor], T], hasty: bool) -> T:
    cursor = database.begin(hasty=hasty)
    try:
        result = work(cursor)
        database.commit()
    except BaseException:
        database.rollback()
        raise
    return result
