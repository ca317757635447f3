"""Answers to the senders of tasks, when what they have started has ended, whoever has ended it.

Where an answer goes is in the store (see :mod:`.store.tasks`). The engine that commits the end sends it, right after
the commit; what an engine did not come to send, since it died, or the broker was away, or the end was committed by a
command without a broker, is found by a sweep of any engine that has one. The mark is cleared when the broker has
confirmed the answer, so a sender gets it at least once.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Final, Protocol

from ..threads import LoopClosed, SingleFlight, StartFailed
from .errors import EngineStopped, RemoteException, StoreError
from .states import TERMINAL_STATES
from .store.records import OwedReply
from .store.tasks import settle

if TYPE_CHECKING:
    from .audience import Commit
    from .calls import Calls
    from .parts import EngineParts

__all__ = ['ReplySender', 'TaskReplies']

LOGGER = logging.getLogger(__name__)

#: Seconds between two sweeps, and for which whoever has ended a process is given time to answer itself.
SWEEP: Final = 5.0
COURTESY: Final = 2.0


class ReplySender(Protocol):
    """What can send an answer."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""

    def send_answer(
        self, reply_to: str, correlation_id: str, pid: int, outcome: Future[object]
    ) -> Future[None]:
        """Send how a process came out; resolves when the broker has it, or fails."""


class TaskReplies:
    """Sends the answers that are owed.

    :param calls: knows what a process has ended with.
    """

    def __init__(self, *, parts: EngineParts, calls: Calls, sender: ReplySender) -> None:
        self._parts = parts
        self._calls = calls
        self._sender = sender
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._sweep_due = 0.0
        self._sweep = SingleFlight(self._send_all, parts.steps, name='the search for answers that are owed')

    def hear(self, commit: Commit) -> None:
        """This engine has committed something; where user code may run."""
        ended = [change.pid for change in commit.changes if change.after in TERMINAL_STATES]
        if ended:
            self.send_for(ended)

    def send_for(self, pids: Iterable[int]) -> None:
        """Send what is owed for these processes, which have ended."""
        if not self._sender.is_connected:
            return  # the sweep comes to it when the broker is back
        try:
            self._send(self._parts.source.reader.owed_replies_of(pids))
        except StoreError as error:
            LOGGER.warning('answers that are owed are sent later: %s', error)

    def send_if_ended(self, pid: int) -> None:
        """Send what is owed for a process soon, if it has ended; from any thread, never waiting."""

        def send() -> None:
            try:
                has_ended = self._parts.source.node(pid).is_terminated
            except StoreError as error:
                LOGGER.warning('an answer that may be owed is sent later: %s', error)
                return
            if has_ended:
                self.send_for([pid])

        try:
            self._parts.steps.post_beside(send)
        except (LoopClosed, StartFailed) as error:  # it stops; others find it
            LOGGER.debug('process %d is not looked at: %s', pid, error)

    def sweep_if_due(self) -> None:
        """Look for what was missed, from time to time; called all the time, never waiting."""
        now = time.monotonic()
        if now >= self._sweep_due and self._sender.is_connected:
            self._sweep_due = now + SWEEP
            self._sweep.ask()

    def _send_all(self) -> None:
        try:
            self._send(self._parts.source.reader.owed_replies(time.time() - COURTESY))
        except StoreError as error:
            LOGGER.warning('answers that are owed are sent later: %s', error)

    def _send(self, owed: Iterable[OwedReply]) -> None:
        for reply in owed:
            with self._lock:
                if reply.correlation_id in self._under_way:
                    continue
                self._under_way.add(reply.correlation_id)
            try:
                outcome = self._outcome(reply.pid)
                sent = self._sender.send_answer(reply.reply_to, reply.correlation_id, reply.pid, outcome)
            except BaseException:
                self._under_way.discard(reply.correlation_id)
                raise
            sent.add_done_callback(functools.partial(self._sent, reply))

    def _outcome(self, pid: int) -> Future[object]:
        outcome: Future[object] = Future()
        try:
            outcome.set_result(self._calls.waits.outcome(self._parts.source.node(pid)))
        except StoreError:
            raise
        except Exception as error:  # what the process raised, or that it was killed
            outcome.set_exception(RemoteException(f'{type(error).__name__}: {error}'))
        return outcome

    def _sent(self, reply: OwedReply, done: Future[None]) -> None:
        """The broker has it, or it is tried again later; on the communicator's loop."""
        error = CancelledError('it was cancelled') if done.cancelled() else done.exception()
        if error is not None:
            self._under_way.discard(reply.correlation_id)
            LOGGER.debug('the answer for process %d is sent later: %s', reply.pid, error)
            return

        def settled(answer: object) -> None:
            # Only now: who looks before that finds it owed still.
            self._under_way.discard(reply.correlation_id)

        try:
            self._parts.store.post(lambda transaction: settle(transaction, [reply.correlation_id]), settled)
        except EngineStopped:
            LOGGER.debug('the answer for process %d may be sent again, since the store has stopped', reply.pid)
