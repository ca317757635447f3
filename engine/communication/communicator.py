"""What a communicator can do, whatever carries its messages; the names are those of ``kiwipy``.

* *Broadcasts* reach every broadcast subscriber.
* A *task* is taken by one task subscriber. It waits until there is one.
* An *RPC* goes to one recipient: the subscriber under that identifier. What is addressed to a pid, and nobody has
  subscribed under, goes to a process subscriber: so every process of a store can be reached, whether anything of it is
  in memory or not.

Subscribers are user code. They are called on threads where they may block, each one with one message at a time and in
the order in which messages were sent. What a broadcast subscriber raises is logged; what another one raises is the
answer to the sender.

A sender gets a future. It resolves to what the subscriber returned; if that was a future itself, then to a future of
the final answer. ``plumpy``'s controllers know that as a pending reply: the first future says that the message was
taken. :func:`final_answer` is for those who want to know the end only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeAlias

__all__ = [
    'BroadcastFilter',
    'BroadcastSubscriber',
    'Communicator',
    'ProcessSubscriber',
    'RpcSubscriber',
    'TaskSubscriber',
    'final_answer',
]

#: Called with the communicator and the message; what it returns is the answer.
RpcSubscriber: TypeAlias = 'Callable[[Communicator, Any], Any]'
#: Called with the communicator and the task; what it returns is the answer. ``TaskRejected`` leaves it to others.
TaskSubscriber: TypeAlias = 'Callable[[Communicator, Any], Any]'
#: Called with the communicator, the pid (``None`` for all processes) and the message; what it returns is the answer.
ProcessSubscriber: TypeAlias = 'Callable[[Communicator, int | None, Any], Any]'
#: Called with the communicator, body, sender, subject and correlation id.
BroadcastSubscriber: TypeAlias = 'Callable[[Communicator, Any, Any, Any, Any], Any]'


class Communicator(Protocol):
    """Sends messages, and calls subscribers with those that come in; its methods may be called from any thread.

    Adding a subscriber returns its identifier, a new one if none is given. Once a subscriber is removed, no call of it
    begins. All methods but the first two raise ``CommunicatorClosed`` after :meth:`close`, and ``Forked`` in a forked
    child: what they do not refuse happens, and a future that they hand out resolves.
    """

    def is_closed(self) -> bool:
        """Whether nothing more is taken."""

    def close(self, timeout: float = ...) -> None:
        """Take nothing more, deliver what was taken, and end; calling it again does nothing.

        What is not delivered in time is dropped: its senders get ``CommunicatorClosed``.

        :param timeout: seconds.
        :raises StopTimeout: a subscriber does not return; says where it stands.
        """

    @property
    def is_heard(self) -> bool:
        """Whether a broadcast might reach a broadcast subscriber."""

    def add_rpc_subscriber(self, subscriber: RpcSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have RPCs to ``identifier`` answered by ``subscriber(communicator, message)``.

        :raises DuplicateSubscriberIdentifier: the identifier is taken; so for the other kinds.
        """

    def remove_rpc_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to ``identifier``; those that have not begun are unroutable.

        :raises ValueError: there is no such subscriber; so for the other kinds.
        """

    def add_process_subscriber(
        self, subscriber: ProcessSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have RPCs to pids answered by ``subscriber(communicator, pid, message)``; the first such one is.

        It also gets the broadcasts with the subject ``pause``, ``play`` or ``kill``, which concern all processes: the
        pid is ``None`` then, and the message that of an RPC.
        """

    def remove_process_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to pids."""

    def add_task_subscriber(self, subscriber: TaskSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have tasks done by ``subscriber(communicator, task)``; several take turns."""

    def remove_task_subscriber(self, identifier: Hashable) -> None:
        """Do no more tasks; those that have not begun are left to others."""

    def add_broadcast_subscriber(
        self, subscriber: BroadcastSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have ``subscriber(communicator, body, sender, subject, correlation_id)`` hear what is broadcast.

        A :class:`BroadcastFilter` around it narrows that down.
        """

    def remove_broadcast_subscriber(self, identifier: Hashable) -> None:
        """Hear no more broadcasts; those that have not begun are dropped."""

    def rpc_send(self, recipient_id: Hashable, msg: Any) -> Future[Any]:
        """Ask a recipient; the future resolves to the answer, or to ``RemoteException`` if the recipient raised.

        :param recipient_id: the identifier of an RPC subscriber, or a pid.
        :raises UnroutableError: there is no such recipient.
        """

    def task_send(self, task: Any, no_reply: bool = False) -> Future[Any] | None:
        """Have a task done by some subscriber; the future resolves to the answer.

        It resolves to ``TaskRejected``, with the reasons, when every subscriber has rejected the task, and to
        ``RemoteException`` when one raised anything else.

        :param no_reply: whether nobody wants to know; ``None`` is returned then, and failures are logged.
        """

    def broadcast_send(
        self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> bool:
        """Tell all broadcast subscribers; ``True`` when it is on its way."""


class BroadcastFilter:
    """A broadcast subscriber that hears only what has one of these subjects, and one of these senders.

    :param subscriber: called with what passes.
    :param subject: a text in which ``*`` stands for anything, such as ``'state_changed.*.finished'``, or a compiled
        pattern, either to match the whole subject; or any other value, which it must equal. ``None`` lets all pass.
    :param sender: the same for the sender.
    """

    def __init__(self, subscriber: BroadcastSubscriber, subject: Any = None, sender: Any = None) -> None:
        if not callable(subscriber):
            raise TypeError(f'a subscriber is a function, not {subscriber!r}')
        self.subscriber = subscriber
        self._subjects: list[Callable[[Any], bool]] = []
        self._senders: list[Callable[[Any], bool]] = []
        if subject is not None:
            self.add_subject_filter(subject)
        if sender is not None:
            self.add_sender_filter(sender)

    def add_subject_filter(self, subject: Any) -> None:
        """Let such subjects pass too."""
        self._subjects.append(_matcher(subject))

    def add_sender_filter(self, sender: Any) -> None:
        """Let such senders pass too."""
        self._senders.append(_matcher(sender))

    def passes(self, sender: Any, subject: Any) -> bool:
        """Whether a broadcast with that sender and subject is heard."""
        return _fits(self._senders, sender) and _fits(self._subjects, subject)

    def __call__(
        self, communicator: Communicator, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> Any:
        """Call the subscriber if it wants to hear this."""
        if self.passes(sender, subject):
            return self.subscriber(communicator, body, sender, subject, correlation_id)
        return None


def _fits(matchers: list[Callable[[Any], bool]], value: Any) -> bool:
    return not matchers or any(matches(value) for matches in matchers)


def _matcher(wanted: Any) -> Callable[[Any], bool]:
    if isinstance(wanted, str):
        wanted = re.compile('.*'.join(map(re.escape, wanted.split('*'))), re.DOTALL)
    if isinstance(wanted, re.Pattern):
        fullmatch = wanted.fullmatch
        return lambda value: isinstance(value, str) and fullmatch(value) is not None
    return lambda value: bool(value == wanted)


def final_answer(future: Future[Any]) -> Future[Any]:
    """A future of the answer itself, also where the sender's future resolves to a future of it."""
    final: Future[Any] = Future()
    final.set_running_or_notify_cancel()
    _follow(future, final)
    return final


def _follow(future: Future[Any], final: Future[Any]) -> None:
    def resolve(done: Future[Any]) -> None:
        try:
            answer = done.result()
        except CancelledError:
            final.set_exception(CancelledError('the answer was cancelled by whoever was to give it'))
        except BaseException as error:
            final.set_exception(error)
        else:
            if isinstance(answer, Future):
                _follow(answer, final)
            else:
                final.set_result(answer)

    future.add_done_callback(resolve)
