"""Tasks that came by a broker: each leads to one process however often it is delivered, and its answer is not lost.

The mark of a task is written in the transaction that inserts the process, and stays when the process has ended: so the
second delivery of the same message finds the process of the first. Where the sender waits for the end, the mark says
where the answer goes until somebody has sent it, which whoever has ended the process does; see
:mod:`treadle.engine.task_replies`.
"""

from __future__ import annotations

from collections.abc import Sequence

from .records import Held, OwedReply, Unit
from .transaction import Transaction
from .units import apply

__all__ = ['create_once', 'owe_reply', 'settle']


def create_once(transaction: Transaction, correlation_id: str, unit: Unit) -> tuple[int, bool]:
    """Insert the process that a task asks for, unless the task has led to one before.

    :param correlation_id: the sender's own mark of the message, the same at each delivery.
    :returns: the pid, of the new process, of the one that holds its key, or of the one that was there for the task;
        and whether that is the last.
    """
    new = unit.create[0].pid
    mark = {'correlation_id': correlation_id, 'pid': new}
    # First of all: of two engines that have got the same message at once, the other waits here for the first.
    transaction.cursor.execute(transaction.sql.insert_task, mark)
    if transaction.cursor.rowcount == 0:
        return transaction.row(transaction.sql.process_of_task, {'correlation_id': correlation_id})[0], True
    (verdict,) = apply(transaction, [unit])
    attached = verdict.attached if isinstance(verdict, Held) else None
    if attached is None:
        return new, False
    transaction.cursor.execute(transaction.sql.point_task, {**mark, 'pid': attached.pid})
    return attached.pid, False


def owe_reply(transaction: Transaction, reply: OwedReply) -> None:
    """From now on whoever ends the process sends the answer of the task."""
    transaction.cursor.execute(
        transaction.sql.insert_task, {'correlation_id': reply.correlation_id, 'pid': reply.pid}
    )
    transaction.cursor.execute(
        transaction.sql.owe_reply, {'correlation_id': reply.correlation_id, 'reply_to': reply.reply_to}
    )


def settle(transaction: Transaction, correlation_ids: Sequence[str]) -> None:
    """The answers of these tasks are sent."""
    transaction.run_each(
        transaction.sql.settle_task, [{'correlation_id': each} for each in correlation_ids]
    )
