"""The communicator on RabbitMQ: ``kiwipy``'s exchanges and wire format, on a loop of its own thread.

Whatever thread sends, only the loop of ``treadle-communicator`` touches the connection. What comes in is handed to the
subscribers by a :class:`~.local.LocalCommunicator`, on its ``treadle-subscriber`` threads, and answers cross back by
the bridge.

The connection may be lost at any moment. It is made anew with growing pauses, what was subscribed is subscribed again,
and what was not acknowledged comes again. Meanwhile broadcasts wait in a mailbox, as many as it takes; the others are
dropped, since a message is a hint and the store the truth.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, Final

from kiwipy.rmq import defaults
from kiwipy.rmq.messages import BroadcastMessage

from ...threads import (
    ForkGuard,
    LoopClosed,
    StartFailed,
    StopTimeout,
    refuse_on_loop_thread,
    wait,
)
from ..errors import CommunicatorClosed, MessageNotSent, UnroutableError
from . import answers
from .address import BrokerAddress
from .communicator import BroadcastSubscriber, ProcessSubscriber, RpcSubscriber, TaskSubscriber
from .incoming import STATE_CHANGED, Incoming
from .link import SEND_TIMEOUT, Link
from .local import LocalCommunicator, as_pid
from .replies import Replies
from .session import Outgoing, Receivers, Wanted, can_be_name, named_rpc_key, rpc_key
from .wire import encode

__all__ = ['RabbitCommunicator']

LOGGER = logging.getLogger(__name__)

#: The part of its time that closing waits for what is on its way to and from the broker.
DRAIN_SHARE: Final = 0.4


class RabbitCommunicator:
    """A :class:`~.communicator.Communicator` over RabbitMQ; see there for what it promises.

    An RPC goes to a pid, which any engine of the store answers, or to a subscriber that has a name, here or elsewhere.
    A task waits in the broker's queue, durably, until some worker has taken it; one that is rejected by all who take
    tasks is answered with their reasons. ``rpc_send`` waits until the broker has the message, a fraction of a
    millisecond when it is well, and so refuses Treadle's own loops; nothing else waits.

    :param address: where the broker is.
    :param name: how errors and the log name it.
    :param on_hint: called on the loop with what other engines have committed, in letters (see :mod:`.hints`); must not
        block.
    :param debug: asyncio's debug mode on its loop.
    :param slow_callback: seconds from which on that reports a callback.
    :param send_timeout: seconds in which a task or an RPC is handed to the broker, or fails.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        name: str = 'rabbit',
        on_hint: Callable[[str], object] | None = None,
        debug: bool | None = None,
        slow_callback: float | None = None,
        send_timeout: float = SEND_TIMEOUT,
    ) -> None:
        self.name = name
        self.address = address
        self._identity = uuid.uuid4().hex
        self._fork_guard = ForkGuard(remedy='create one of its own in the child')
        self._lock = threading.Lock()
        self._state: str = 'new'
        self._leaves_work = False
        self._local = LocalCommunicator(name, face=self)
        self.link = Link(
            address,
            name=name,
            identity=self._identity,
            wanted=self._wanted,
            on_hint=on_hint,
            debug=debug,
            slow_callback=slow_callback,
            send_timeout=send_timeout,
        )
        self._incoming = Incoming(self._local, self.link, self._identity)
        self._replies = Replies(self._local.threads)
        self.link.receivers = Receivers(
            answer=self._replies.on_answer,
            broadcast=self._incoming.on_broadcast,
            pid_rpc=self._incoming.on_pid_rpc,
            named_rpc=self._incoming.on_named_rpc,
            task=self._incoming.on_task,
            hint=self.link.hints.on_hint,
            failed=self._incoming.on_failure,
        )

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r} {"closed" if self.is_closed() else "open"}, {self.address}>'

    # -- starting and closing --------------------------------------------------------------------------------

    def start(self, timeout: float | None = None, *, is_needed: bool = True) -> None:
        """Connect.

        :param timeout: seconds; the address has a bound of its own for connecting.
        :param is_needed: ``False`` goes on trying if the broker is not there.
        :raises BrokerUnavailable: it is not there, or does not answer in time.
        :raises BrokerRefused: it does not let us in; says why.
        """
        self._fork_guard.check(f'communicator {self.name!r}')
        try:
            self.link.start(timeout, is_needed=is_needed)
        except BaseException:
            self._state = 'closed'
            self._local.close(0.0)
            raise
        with self._lock:
            self._state = 'open'

    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._state == 'closed' or self._fork_guard.forked

    def close(self, timeout: float = 30.0) -> None:
        """Take nothing more, deliver what was taken, and end; see :meth:`.Communicator.close`.

        Tasks that no subscriber has begun go back to the broker. What others have not answered yet fails.
        """
        if self._fork_guard.forked:
            return
        with self._lock:
            before, self._state = self._state, 'closed'
        if before != 'open':
            return
        deadline = time.monotonic() + timeout
        late: list[StopTimeout] = []
        self.link.drain(DRAIN_SHARE * timeout)
        self.link.soon(self._incoming.hand_back_tasks)
        try:
            self._local.close(max(0.0, deadline - time.monotonic()))
        except StopTimeout as error:
            late.append(error)
        self.link.drain_answers(max(DRAIN_SHARE * (deadline - time.monotonic()), 0.5))
        self._replies.close(
            CommunicatorClosed(f'communicator {self.name!r} is closed, and the answer had not come by then')
        )
        try:
            self.link.thread.stop(max(1.0, deadline - time.monotonic()))
        except StopTimeout as error:
            late.append(error)
        if late:
            raise late[0]

    def _wanted(self) -> Wanted:
        local = self._local
        return Wanted(
            broadcasts=local.is_heard or local.answers_for_pids,
            pids=local.answers_for_pids and not self._leaves_work,
            tasks=local.takes_tasks and not self._leaves_work,
            names=frozenset(local.recipients()),
        )

    @contextmanager
    def _subscribing(self) -> Iterator[None]:
        """Change who subscribes, and have the broker know of it before the caller goes on, if the broker is there."""
        refuse_on_loop_thread('subscribing', 'await asyncio.to_thread(...)')
        with self._open():
            yield
        if self._state == 'open':
            self.link.sync()

    # -- subscribers -----------------------------------------------------------------------------------------

    @property
    def is_heard(self) -> bool:
        """Whether a broadcast might reach a subscriber, here or elsewhere: it cannot be told, so it might."""
        return not self.is_closed()

    def add_rpc_subscriber(self, subscriber: RpcSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have RPCs to ``identifier`` answered by ``subscriber(communicator, message)``.

        :raises ValueError: it is too long for a broker, or has a ``*`` or ``#`` in it.
        """
        if identifier is not None and not can_be_name(identifier):
            raise ValueError(f'{identifier!r} cannot be addressed on a broker; take a shorter text without * and #')
        with self._subscribing():
            return self._local.add_rpc_subscriber(subscriber, identifier)

    def remove_rpc_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to ``identifier``."""
        with self._subscribing():
            self._local.remove_rpc_subscriber(identifier)

    def add_process_subscriber(
        self, subscriber: ProcessSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have RPCs to pids answered by ``subscriber(communicator, pid, message)``."""
        with self._subscribing():
            return self._local.add_process_subscriber(subscriber, identifier)

    def remove_process_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to pids."""
        with self._subscribing():
            self._local.remove_process_subscriber(identifier)

    def leave_work_to_others(self) -> None:
        """Take no more RPCs to pids and no more tasks, from soon on; what has come is dealt with, or given back."""
        self._leaves_work = True
        if self._state == 'open':
            self.link.sync_soon()

    def add_task_subscriber(self, subscriber: TaskSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have tasks done by ``subscriber(communicator, task)``."""
        with self._subscribing():
            return self._local.add_task_subscriber(subscriber, identifier)

    def remove_task_subscriber(self, identifier: Hashable) -> None:
        """Do no more tasks; those that have not begun are left to others."""
        with self._subscribing():
            self._local.remove_task_subscriber(identifier)
        if not self._local.takes_tasks:
            self.link.soon(self._incoming.hand_back_tasks)

    def add_broadcast_subscriber(
        self, subscriber: BroadcastSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have ``subscriber(communicator, body, sender, subject, correlation_id)`` hear what is broadcast."""
        with self._subscribing():
            return self._local.add_broadcast_subscriber(subscriber, identifier)

    def remove_broadcast_subscriber(self, identifier: Hashable) -> None:
        """Hear no more broadcasts."""
        with self._subscribing():
            self._local.remove_broadcast_subscriber(identifier)

    # -- sending ---------------------------------------------------------------------------------------------

    def rpc_send(self, recipient_id: Hashable, msg: Any) -> Future[Any]:
        """Ask a recipient; see :meth:`.Communicator.rpc_send`.

        :raises InvalidMessage: the message is more than data, or too large.
        :raises UnroutableError: nobody answers to that.
        """
        refuse_on_loop_thread('rpc_send()', 'await asyncio.to_thread(communicator.rpc_send, ...)')
        pid, correlation_id = as_pid(recipient_id), uuid.uuid4().hex
        if not can_be_name(recipient_id):
            raise UnroutableError(f'nobody answers to {recipient_id!r}')
        message = Outgoing(
            exchange=defaults.MESSAGE_EXCHANGE,
            routing_key=named_rpc_key(recipient_id) if pid is None else rpc_key(pid),
            body=encode(msg),
            mandatory=True,
            correlation_id=correlation_id,
            reply_to=self.link.answers_queue,
        )
        with self._open():
            answer = self._replies.expect(correlation_id)
            sent = self.link.submit(message)
        try:
            wait(sent, what='rpc_send()')
        except UnroutableError:
            self._replies.forget(correlation_id)
            raise UnroutableError(
                f'nobody answers to {recipient_id!r}'
                + ('' if pid is None else '; an engine answers for the processes of its store while it runs')
            ) from None
        except (MessageNotSent, LoopClosed, CancelledError) as error:
            self._replies.fail(correlation_id, self._as_unsent(error))
        return answer

    def task_send(self, task: Any, no_reply: bool = False) -> Future[Any] | None:
        """Have a task done by some subscriber; see :meth:`.Communicator.task_send`.

        :raises InvalidMessage: the task is more than data, or too large.
        """
        correlation_id = uuid.uuid4().hex
        message = Outgoing(
            exchange=defaults.TASK_EXCHANGE,
            routing_key=defaults.TASK_QUEUE,
            body=encode([task, no_reply]),
            mandatory=True,
            persistent=True,
            correlation_id=correlation_id,
            reply_to=None if no_reply else self.link.answers_queue,
        )
        with self._open():
            answer = None if no_reply else self._replies.expect(correlation_id)
            sent = self.link.submit(message)
        sent.add_done_callback(lambda done: self._task_sent(correlation_id, no_reply, done))
        return answer

    def _task_sent(self, correlation_id: str, no_reply: bool, done: Future[None]) -> None:
        error = CancelledError('it was given up') if done.cancelled() else done.exception()
        if error is None:
            return
        unsent = self._as_unsent(error)
        if no_reply:
            LOGGER.warning('a task without a reply was not sent: %s', unsent)
        else:
            self._replies.fail(correlation_id, unsent)

    def _as_unsent(self, error: BaseException) -> Exception:
        if isinstance(error, MessageNotSent):
            return error
        if isinstance(error, LoopClosed):
            return CommunicatorClosed(f'communicator {self.name!r} closed before the message was sent')
        return MessageNotSent(f'the broker {self.address} did not take the message: {error}')

    def broadcast_send(
        self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> bool:
        """Tell all broadcast subscribers; ``False`` when it is dropped, since too many wait for the broker.

        :raises InvalidMessage: the message is more than data, or too large.
        """
        said = BroadcastMessage.create(body=body, sender=sender, subject=subject, correlation_id=correlation_id)
        is_change = isinstance(subject, str) and subject.startswith(STATE_CHANGED)
        message = Outgoing(
            exchange=defaults.MESSAGE_EXCHANGE,
            routing_key=defaults.BROADCAST_TOPIC,
            body=encode(said),
            kind=STATE_CHANGED if is_change else None,
        )
        with self._open():
            return self.link.outbox.put(message)

    # -- answers that others may have begun to give: see ReplySender -------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._state == 'open' and self.link.is_connected

    def send_answer(self, reply_to: str, correlation_id: str, pid: int, outcome: Future[Any]) -> Future[None]:
        """Send how a task came out to whoever sent it; resolves when the broker has it.

        :param pid: the process that has come of it.
        :param outcome: is done.
        """
        error, in_store = outcome.exception(), f'what process {pid} has put out is in the store'
        body = answers.result(outcome.result(), instead=in_store) if error is None else answers.failed(error)
        message = Outgoing(
            exchange='', routing_key=reply_to, body=body, correlation_id=correlation_id, persistent=True
        )
        with self._open():
            return self.link.submit_answer(message, in_store)

    @contextmanager
    def _open(self) -> Iterator[None]:
        self._fork_guard.check(f'communicator {self.name!r}')
        with self._lock:
            if self._state == 'closed':
                raise CommunicatorClosed(
                    f'communicator {self.name!r} is closed and takes nothing more; use that of a running engine'
                )
            try:
                yield
            except (LoopClosed, StartFailed) as error:
                raise CommunicatorClosed(f'communicator {self.name!r} does not run: {error}') from error
