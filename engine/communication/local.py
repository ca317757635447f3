"""The communicator inside one OS process: no broker, and no message leaves it."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import Any, Generic, TypeVar

from ...threads import ForkGuard, LoopClosed, StartFailed, StepThreads, Strand
from ..errors import CommunicatorClosed, DuplicateSubscriberIdentifier, UnroutableError
from .communicator import (
    BroadcastFilter,
    BroadcastSubscriber,
    Communicator,
    ProcessSubscriber,
    RpcSubscriber,
    TaskSubscriber,
)
from .deliveries import Broadcast, Delivery, Rpc, TaskDelivery, TaskOrigin
from .messages import intent_for_all

__all__ = ['LocalCommunicator', 'as_pid']

LOGGER = logging.getLogger(__name__)
S = TypeVar('S', bound=Callable[..., Any])
D = TypeVar('D')


class _Subscribers(Generic[S, D]):
    """The subscribers of one kind, by their identifiers, each with the messages that wait for it."""

    def __init__(self, kind: str, deliver: Callable[[Hashable, S, D], object], threads: StepThreads) -> None:
        self._kind = kind
        self._deliver = deliver
        self.threads = threads
        self.all: dict[Hashable, tuple[S, Strand[D]]] = {}

    def add(self, subscriber: S, identifier: Hashable | None) -> Hashable:
        """Add one; returns its identifier."""
        if not callable(subscriber):
            raise TypeError(f'a {self._kind} subscriber is a function, not {subscriber!r}')
        called = subscriber.subscriber if isinstance(subscriber, BroadcastFilter) else subscriber
        if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(type(called).__call__):
            raise TypeError(
                f'a {self._kind} subscriber is called on a thread, and {subscriber!r} is a coroutine function; give a '
                f'plain one, which may return a future'
            )
        if identifier is None:
            identifier = uuid.uuid4().hex
        if identifier in self.all:
            raise DuplicateSubscriberIdentifier(
                f'there is a {self._kind} subscriber {identifier!r} already; remove it first, or use another identifier'
            )
        handle = functools.partial(self._deliver, identifier, subscriber)
        self.all[identifier] = subscriber, Strand(handle, self.threads, name=f'{self._kind} subscriber {identifier}')
        return identifier

    def remove(self, identifier: Hashable) -> list[D]:
        """Take one away; returns the messages that it has not got."""
        if identifier not in self.all:
            raise ValueError(f'there is no {self._kind} subscriber {identifier!r}')
        return self.all.pop(identifier)[1].drop()

    def strands(self) -> list[Strand[D]]:
        """All of their messages."""
        return [strand for _, strand in self.all.values()]


class LocalCommunicator:
    """A :class:`~.communicator.Communicator` for the threads of one OS process; see there for what it promises.

    Messages are handed over as they are, so whoever gets one should not change it. A sender that cancels its future
    before the subscriber is called takes the message back.

    :param name: how errors and the log name it.
    :ivar threads: what its subscribers are called on.
    :param face: whom its subscribers are given as the communicator, if it only does the last stretch for another one.
    """

    def __init__(self, name: str = 'local', *, face: Communicator | None = None) -> None:
        self.name = name
        self._face: Communicator = self if face is None else face
        self._fork_guard = ForkGuard(remedy='create one of its own in the child')
        self.threads = StepThreads(permits=1, name='treadle-subscriber', kind='subscriber')
        self._lock = threading.Lock()
        self._closed = False
        self._rpcs: _Subscribers[RpcSubscriber, Delivery] = _Subscribers('RPC', _deliver, self.threads)
        self._processes: _Subscribers[ProcessSubscriber, Delivery] = _Subscribers('process', _deliver, self.threads)
        self._broadcasts: _Subscribers[BroadcastSubscriber, Delivery] = _Subscribers(
            'broadcast', _deliver, self.threads
        )
        self._tasks: _Subscribers[TaskSubscriber, TaskDelivery] = _Subscribers('task', self._do_task, self.threads)
        # In order. Single operations of a dictionary are atomic: what is cancelled is taken out without the lock.
        self._unassigned: dict[TaskDelivery, None] = {}

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r} {"closed" if self.is_closed() else "open"}>'

    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closed or self._fork_guard.forked

    @property
    def is_heard(self) -> bool:
        """Whether there is a broadcast subscriber."""
        return bool(self._broadcasts.all)

    def recipients(self) -> list[Hashable]:
        """The identifiers of the RPC subscribers."""
        with self._lock:
            return list(self._rpcs.all)

    @property
    def answers_for_pids(self) -> bool:
        """Whether there is a process subscriber."""
        return bool(self._processes.all)

    @property
    def takes_tasks(self) -> bool:
        """Whether there is a task subscriber."""
        return bool(self._tasks.all)

    # -- subscribers -----------------------------------------------------------------------------------------

    def add_rpc_subscriber(self, subscriber: RpcSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have RPCs to ``identifier`` answered by ``subscriber(communicator, message)``."""
        with self._open():
            return self._rpcs.add(subscriber, identifier)

    def remove_rpc_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to ``identifier``."""
        self._remove_recipient(self._rpcs, identifier)

    def add_process_subscriber(
        self, subscriber: ProcessSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have RPCs to pids answered by ``subscriber(communicator, pid, message)``."""
        with self._open():
            return self._processes.add(subscriber, identifier)

    def remove_process_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to pids."""
        self._remove_recipient(self._processes, identifier)

    def add_task_subscriber(self, subscriber: TaskSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have tasks done by ``subscriber(communicator, task)``, those first that have waited for one."""
        with self._open():
            identifier = self._tasks.add(subscriber, identifier)
            strand = self._tasks.all[identifier][1]
            for task in list(self._unassigned):
                strand.post(task)
                self._unassigned.pop(task, None)
            return identifier

    def remove_task_subscriber(self, identifier: Hashable) -> None:
        """Do no more tasks; those that have not begun are left to others."""
        with self._open():
            left = self._tasks.remove(identifier)
        for task in left:
            self._offer(task)

    def add_broadcast_subscriber(
        self, subscriber: BroadcastSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have ``subscriber(communicator, body, sender, subject, correlation_id)`` hear what is broadcast."""
        with self._open():
            return self._broadcasts.add(subscriber, identifier)

    def remove_broadcast_subscriber(self, identifier: Hashable) -> None:
        """Hear no more broadcasts."""
        with self._open():
            self._broadcasts.remove(identifier)

    def _remove_recipient(self, subscribers: _Subscribers[Any, Delivery], identifier: Hashable) -> None:
        with self._open():
            left = subscribers.remove(identifier)
        for delivery in left:
            delivery.refuse(UnroutableError(f'the subscriber {identifier!r} was removed before it got the message'))

    # -- sending ---------------------------------------------------------------------------------------------

    def rpc_send(self, recipient_id: Hashable, msg: Any) -> Future[Any]:
        """Ask a recipient; see :meth:`.Communicator.rpc_send`."""
        with self._open():
            call, strand = self._recipient(recipient_id)
            rpc = Rpc(functools.partial(call, msg))
            strand.post(rpc)
        return rpc.future

    def _recipient(self, recipient_id: Hashable) -> tuple[Callable[[Any], Any], Strand[Delivery]]:
        if recipient_id in self._rpcs.all:
            subscriber, strand = self._rpcs.all[recipient_id]
            return functools.partial(subscriber, self._face), strand
        pid = as_pid(recipient_id)
        if pid is None or not self._processes.all:
            raise UnroutableError(
                f'nobody answers to {recipient_id!r}'
                + ('' if pid is None else '; an engine answers for the processes of its store while it runs')
            )
        for_pids, strand = next(iter(self._processes.all.values()))
        return functools.partial(for_pids, self._face, pid), strand

    def task_send(self, task: Any, no_reply: bool = False) -> Future[Any] | None:
        """Have a task done by some subscriber; see :meth:`.Communicator.task_send`."""
        answer = self.deliver_task(task, no_reply=no_reply)
        return None if no_reply else answer

    def deliver_task(self, task: Any, *, no_reply: bool = False, origin: TaskOrigin | None = None) -> Future[Any]:
        """:meth:`task_send`, for a task that came from elsewhere; whoever hands it on wants the answer in any case."""
        delivery = TaskDelivery(task, no_reply=no_reply, origin=origin)
        with self._open():
            self._assign(delivery)  # nobody can have rejected it yet
        # Its sender may take it back before anybody subscribes, or may have done so by now: so not with the lock held.
        delivery.future.add_done_callback(lambda done: self._unassigned.pop(delivery, None))
        return delivery.future

    def broadcast_send(
        self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> bool:
        """Tell all broadcast subscribers; see :meth:`.Communicator.broadcast_send`."""
        with self._open():
            for call, strand in self._hearers(body, sender, subject, correlation_id):
                try:
                    strand.post(Broadcast(call))
                except StartFailed as error:  # the interpreter exits; others may have a thread
                    LOGGER.warning('%s does not hear %r: %s', strand.name, subject, error)
        return True

    def _hearers(
        self, body: Any, sender: Any, subject: Any, correlation_id: Any
    ) -> Iterator[tuple[Callable[[], Any], Strand[Delivery]]]:
        for subscriber, strand in self._broadcasts.all.values():
            if isinstance(subscriber, BroadcastFilter):
                if not subscriber.passes(sender, subject):
                    continue
                subscriber = subscriber.subscriber
            yield functools.partial(subscriber, self._face, body, sender, subject, correlation_id), strand
        message = intent_for_all(subject, body)
        if message is not None:
            for for_pids, strand_for_pids in islice(self._processes.all.values(), 1):
                yield functools.partial(for_pids, self._face, None, message), strand_for_pids

    @contextmanager
    def _open(self) -> Iterator[None]:
        self._fork_guard.check(f'communicator {self.name!r}')
        with self._lock:
            if self._closed:
                raise self._closed_error('takes nothing more')
            yield

    def _closed_error(self, what: str) -> CommunicatorClosed:
        return CommunicatorClosed(f'communicator {self.name!r} is closed and {what}; use that of a running engine')

    # -- tasks -----------------------------------------------------------------------------------------------

    def _do_task(self, identifier: Hashable, subscriber: TaskSubscriber, task: TaskDelivery) -> None:
        if not task.offer(functools.partial(subscriber, self._face)):
            task.rejected_by.add(identifier)
            self._offer(task)

    def _offer(self, task: TaskDelivery) -> None:
        """Give a task to somebody else."""
        try:
            with self._lock:
                assigned = self._assign(task)
        except (LoopClosed, StartFailed) as error:
            task.refuse(self._closed_error('did not get to this task') if self._closed else error)
            return
        if not assigned:
            task.reject()

    def _assign(self, task: TaskDelivery) -> bool:
        """Give a task to the next in turn that has not rejected it; ``False`` when all have. Holds the lock."""
        for identifier, (_, strand) in self._tasks.all.items():
            if identifier not in task.rejected_by:
                strand.post(task)
                self._tasks.all[identifier] = self._tasks.all.pop(identifier)  # the last in turn from now on
                return True
        if task.is_rejected:
            return False
        if self._closed:
            raise LoopClosed('closed while the task was handed on')
        self._unassigned[task] = None
        return True

    # -- closing ---------------------------------------------------------------------------------------------

    def close(self, timeout: float = 30.0) -> None:
        """Take nothing more, deliver what was taken, and end; see :meth:`.Communicator.close`.

        Called by a subscriber, it does not wait for that one.
        """
        if self._fork_guard.forked:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            unassigned = list(self._unassigned)
            self._unassigned.clear()
        for task in unassigned:
            task.refuse(self._closed_error('nobody has taken this task'))
        kinds: tuple[_Subscribers[Any, Any], ...] = (self._rpcs, self._processes, self._tasks, self._broadcasts)
        strands: list[Strand[Any]] = [strand for kind in kinds for strand in kind.strands()]
        for strand in strands:
            strand.refuse()
        try:
            self.threads.stop(timeout)
        finally:
            for strand in strands:
                for delivery in strand.drop():
                    delivery.refuse(self._closed_error('did not get to this message'))


def _deliver(identifier: Hashable, subscriber: Callable[..., Any], delivery: Delivery) -> None:
    delivery.deliver()


def as_pid(recipient: Hashable) -> int | None:
    """The pid that a recipient is, if it is one; on a wire it is text."""
    if isinstance(recipient, str) and recipient.isascii() and recipient.isdigit():
        return int(recipient)
    return recipient if isinstance(recipient, int) and not isinstance(recipient, bool) else None
