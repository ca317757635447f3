"""Answers that senders in this OS process wait for."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, InvalidStateError
from typing import Any

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from ...threads import LoopClosed, StartFailed, StepThreads, Strand
from . import answers
from .connection import tag_of

__all__ = ['Replies']

LOGGER = logging.getLogger(__name__)


class Replies:
    """Futures of answers, by the correlation ids of what was sent.

    They are resolved on a thread where user code may run, one after the other: a callback may block, and must not wait
    for another answer.
    """

    def __init__(self, threads: StepThreads) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[str, Future[Any]] = {}
        # Those whose sender has been told that the answer comes later; a task that is delivered again says so again.
        self._pending: set[str] = set()
        self._strand: Strand[tuple[Future[Any], answers.Kind, Any]] = Strand(
            lambda item: _resolve(*item), threads, name='answers'
        )

    def __len__(self) -> int:
        """How many are awaited."""
        return len(self._awaited)

    def expect(self, correlation_id: str) -> Future[Any]:
        """The future of the answer to what is about to be sent."""
        with self._lock:
            return self._await(correlation_id)

    def _await(self, correlation_id: str) -> Future[Any]:
        # With the lock held.
        future = self._awaited[correlation_id] = Future()
        future.add_done_callback(lambda done: self._done(correlation_id, done))
        return future

    def _done(self, correlation_id: str, future: Future[Any]) -> None:
        """A future that its sender has cancelled is not kept for an answer that may never come."""
        if future.cancelled():
            with self._lock:
                if self._awaited.get(correlation_id) is future:
                    self._pop(correlation_id)

    def fail(self, correlation_id: str, error: Exception) -> None:
        """No answer will come."""
        with self._lock:
            future = self._pop(correlation_id)
        if future is not None:
            self._post(future, answers.Kind.FAILED, error)

    def forget(self, correlation_id: str) -> None:
        """The sender was told otherwise, and has no future."""
        with self._lock:
            self._pop(correlation_id)

    def _pop(self, correlation_id: str) -> Future[Any] | None:
        # With the lock held.
        self._pending.discard(correlation_id)
        return self._awaited.pop(correlation_id, None)

    async def on_answer(self, channel: Channel, message: DeliveredMessage) -> None:
        """An answer has come."""
        correlation_id = message.header.properties.correlation_id or ''
        kind, said = answers.read(message.body)
        with self._lock:
            if kind is not answers.Kind.PENDING:
                future = self._pop(correlation_id)
            elif correlation_id in self._pending:
                future = None
            elif (future := self._awaited.get(correlation_id)) is not None:
                said = self._await(correlation_id)
                self._pending.add(correlation_id)
        if future is None:
            LOGGER.debug('an answer came that nobody waits for, or once more')
        else:
            self._post(future, kind, said)
        # Only now: one that is under way when the connection is lost comes again.
        await channel.basic_ack(tag_of(message))

    def close(self, error: Exception) -> None:
        """Fail all that is left."""
        with self._lock:
            left, self._awaited = self._awaited, {}
            self._pending.clear()
        for future in left.values():
            _resolve(future, answers.Kind.FAILED, error)

    def _post(self, future: Future[Any], kind: answers.Kind, said: Any) -> None:
        try:
            self._strand.post((future, kind, said))
        except (LoopClosed, StartFailed):  # it closes: there is nothing left to hold up
            _resolve(future, kind, said)


def _resolve(future: Future[Any], kind: answers.Kind, said: Any) -> None:
    try:
        if not future.set_running_or_notify_cancel():
            return  # the sender has cancelled
        if kind is answers.Kind.FAILED:
            future.set_exception(said)
        else:
            future.set_result(said)
    except InvalidStateError:
        LOGGER.debug('an answer was resolved twice')
