"""The engines of a store: they join, beat, and end, or are declared dead by others, who then own nothing of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from .intents import pause
from .records import EngineRecord
from .transaction import Cursor, Transaction

__all__ = [
    'KEPT', 'Mark', 'beat', 'declare_dead', 'end_engine', 'register_engine', 'rejoin', 'release_all_but', 'sign',
]  # fmt: skip

#: Seconds for which the row of an engine that has ended is kept at least, for people to look it up.
KEPT: Final = 3 * 86400.0
#: How many rows an engine removes when it comes, so that it does not wait for long.
_FORGOTTEN: Final = 1000


class Mark(NamedTuple):
    """What a transaction has left in its engine's own row: whoever finds it knows that the transaction is in."""

    uuid: str
    heartbeat: int

    def is_left(self, cursor: Cursor, statement: str) -> bool:
        """Whether it is in the database, by the statement ``has_mark``."""
        cursor.execute(statement, {'uuid': self.uuid, 'heartbeat': self.heartbeat})
        return bool(cursor.fetchall())


def register_engine(transaction: Transaction, record: EngineRecord) -> int:
    """Add an engine, and forget some that ended long ago; returns its id, which is never used again.

    :raises StoreRetired: the store was closed for good.
    """
    parameters = msgspec.structs.asdict(record)
    del parameters['id']
    engine_id = int(transaction.row(transaction.sql.insert_engine, parameters)[0])
    # The second, as whoever retires the store comes to the tables in this order.
    transaction.refuse_if_retired()
    _forget_engines(transaction)
    return engine_id


def _forget_engines(transaction: Transaction) -> None:
    """Remove the rows of engines that ended long ago and have left nothing that is unfinished.

    A script that is run every minute leaves half a million a year, which every engine would look through all the time.
    By the clock, which may be wrong: an engine that comes back and finds no row takes itself for dead, as it is.
    """
    transaction.cursor.execute(
        transaction.sql.forget_engines, {'before': transaction.now - KEPT, 'most': _FORGOTTEN}
    )


def sign(transaction: Transaction) -> Mark | None:
    """Put the transaction under its engine's name; ``None`` when that has ended, or was declared dead."""
    row = transaction.row(transaction.sql.sign, {'engine_id': transaction.engine_id, 'at': transaction.now})
    return None if row is None else Mark(*row)


def rejoin(transaction: Transaction, record: EngineRecord | None) -> Mark | None:
    """Go on as another engine, since this one was declared dead; ``None`` for none, which claims nothing."""
    transaction.engine_id = 0 if record is None else register_engine(transaction, record)
    transaction.has_rejoined = record is not None
    return None if record is None else Mark(record.uuid, record.heartbeat)


def beat(transaction: Transaction) -> None:
    """Raise the engine's heartbeat."""
    transaction.cursor.execute(transaction.sql.beat, {'engine_id': transaction.engine_id, 'at': transaction.now})


def end_engine(transaction: Transaction, how: str) -> None:
    """End the engine, which stops by itself, and release what it owns."""
    transaction.touch_all()
    transaction.cursor.execute(transaction.sql.release_all, {'old_owner': transaction.engine_id})
    transaction.cursor.execute(transaction.sql.end_engine, {'engine_id': transaction.engine_id, 'how': how})


def release_all_but(transaction: Transaction, pids: Iterable[int]) -> None:
    """Release what the engine owns, except for these, whose steps still execute; from now on it beats no more."""
    transaction.touch_all()
    transaction.cursor.execute(
        transaction.sql.release_others,
        {'old_owner': transaction.engine_id, 'pids': transaction.as_set(pids)},
    )
    transaction.cursor.execute(transaction.sql.give_up_lease, {'engine_id': transaction.engine_id})


def declare_dead(
    transaction: Transaction, engine_id: int, *, seen: int | None, max_crashes: int | None
) -> list[int] | None:
    """Declare another engine dead, and take away what it owned.

    The epochs are raised, so nothing that the engine may yet write counts.

    :param seen: the heartbeat that was seen last; ``None`` when its death is proven, whatever it was.
    :param max_crashes: how many such deaths in a row a process may see before it is paused; ``None`` when its
        processes have nothing to do with it.
    :returns: the processes that were paused for that; ``None`` when it was not this call that declared it, or when it
        has beaten or ended since.
    """
    transaction.cursor.execute(transaction.sql.declare_dead, {'engine_id': engine_id, 'seen': seen})
    if transaction.cursor.rowcount != 1:
        return None
    fatal = [] if max_crashes is None else _quarantine_the_fatal(transaction, engine_id, max_crashes)
    blame = 0 if max_crashes is None else 1
    transaction.cursor.execute(transaction.sql.take_away, {'old_owner': engine_id, 'blame': blame})
    return fatal


def _quarantine_the_fatal(transaction: Transaction, engine_id: int, most: int) -> list[int]:
    """Pause what has seen more deaths of its engines than it may, before it is taken from the last of them."""
    fatal = transaction.rows(transaction.sql.fatal, {'old_owner': engine_id, 'most': most})
    for pid, crashes in fatal:
        pause(
            transaction,
            [pid],
            f'quarantined: {crashes + 1} engines in a row have died while they ran it, before it came to a '
            f'checkpoint; look into its step, then play it',
        )
    return [pid for pid, _ in fatal]
