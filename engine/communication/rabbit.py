"""The communicator on RabbitMQ: ``kiwipy``'s exchanges and wire format, on a loop of its own thread.

Whatever thread sends, only the loop of ``treadle-communicator`` touches the connection. What comes in is handed to the
subscribers by a :class:`~.local.LocalCommunicator`, on its ``treadle-subscriber`` threads, and answers cross back by
the bridge.

The connection may be lost at any moment. It is made anew with growing pauses, what was subscribed is subscribed again,
and what was not acknowledged comes again. Meanwhile broadcasts wait in a mailbox, as many as it takes; the others are
dropped, since a message is a hint and the store the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from kiwipy.rmq import defaults
from kiwipy.rmq.messages import BroadcastMessage

from ...threads import (
    Forked,
    ForkGuard,
    LoopClosed,
    LoopThread,
    StartFailed,
    StopTimeout,
    refuse_on_loop_thread,
    wait,
)
from ..errors import BrokerUnavailable, CommunicatorClosed, MessageNotSent, UnroutableError
from . import answers
from .address import BrokerAddress
from .communicator import BroadcastSubscriber, ProcessSubscriber, RpcSubscriber, TaskSubscriber
from .hints import Hints
from .incoming import STATE_CHANGED, Incoming
from .lifeline import Lifeline, publish_until
from .local import LocalCommunicator, as_pid
from .outbox import Outbox
from .replies import Replies
from .session import Outgoing, Session, Wanted, named_rpc_key, rpc_key
from .wire import encode

__all__ = ['RabbitCommunicator']

LOGGER = logging.getLogger(__name__)

#: Seconds in which a task or an RPC is handed to the broker, or its sender is told that it was not.
SEND_TIMEOUT: Final = 10.0
#: Tasks, RPCs and answers that are on their way to the broker; more are refused.
MOST_SENDING: Final = 10_000
#: Seconds that closing waits, of its time, for what is on its way to and from the broker.
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
        #: What identifies the store that the virtual host is for; if that is another's, the broker is of no use.
        #: ``None`` leaves it unchecked.
        self.store: str | None = None
        self._send_timeout = send_timeout
        self._identity = uuid.uuid4().hex
        self._answers_queue = f'treadle-answers-{self._identity}'
        self._fork_guard = ForkGuard(remedy='create one of its own in the child')
        self._lock = threading.Lock()
        self._state: str = 'new'
        self._local = LocalCommunicator(name, face=self)
        self._incoming = Incoming(self._local, self, self._identity)
        self._replies = Replies(self._local.threads)
        self._lifeline = Lifeline(
            f'the broker {address}', open_session=self._open_session, set_up=self._set_up
        )
        self._outbox = Outbox(self._lifeline)
        self.hints = Hints(self._lifeline, self._identity, on_hint)
        self._sending: set[asyncio.Task[Any]] = set()
        self._publishing: asyncio.Task[None] | None = None
        self.thread = LoopThread(
            'treadle-communicator', debug=debug, slow_callback=slow_callback, main=self._main
        )

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r} {"closed" if self.is_closed() else "open"}, {self.address}>'

    # -- starting and closing --------------------------------------------------------------------------------

    def start(self, timeout: float | None = None, *, is_needed: bool = True) -> None:
        """Connect.

        :param timeout: seconds; the address has a bound of its own for connecting.
        :param is_needed: ``False`` returns at once, and goes on trying until the broker is there.
        :raises BrokerUnavailable: it is not there, or does not answer in time.
        :raises BrokerRefused: it does not let us in; says why.
        """
        self._fork_guard.check(f'communicator {self.name!r}')
        self._lifeline.is_patient = not is_needed
        try:
            self.thread.start(timeout)
            self.hints.bridge = self.thread.bridge
            if is_needed:
                try:
                    wait(self._lifeline.connected, timeout, what='start()')
                except TimeoutError:
                    raise BrokerUnavailable(
                        f'the broker {self.address} ({self.address.source}) did not answer within {timeout:g} s'
                    ) from None
        except BaseException:
            self._state = 'closed'
            self.thread.request_stop()
            with contextlib.suppress(StopTimeout):
                self.thread.join(5.0)
            self._local.close(0.0)
            raise
        with self._lock:
            self._state = 'open'

    async def _main(self, thread: LoopThread) -> None:
        self._publishing = asyncio.create_task(self._outbox.run(), name='broadcasts are published')
        await self._lifeline.run(thread)

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
        self._run_to_end(self._drain_incoming, DRAIN_SHARE * timeout)
        try:
            self._local.close(max(0.0, deadline - time.monotonic()))
        except StopTimeout as error:
            late.append(error)
        self._run_to_end(self._drain_answers, max(DRAIN_SHARE * (deadline - time.monotonic()), 0.5))
        self._replies.close(
            CommunicatorClosed(f'communicator {self.name!r} is closed, and the answer had not come by then')
        )
        try:
            self.thread.stop(max(1.0, deadline - time.monotonic()))
        except StopTimeout as error:
            late.append(error)
        if late:
            raise late[0]

    def _run_to_end(self, drain: Callable[[float], Coroutine[Any, Any, None]], timeout: float) -> None:
        try:
            wait(self.thread.bridge.submit(drain, timeout), timeout + 1.0, what='close()')
        except (LoopClosed, TimeoutError) as error:
            LOGGER.debug('%r: closing goes on without what is on its way: %s', self.name, error)

    async def _drain_incoming(self, seconds: float) -> None:
        """Have everything sent that was taken, and take what has come by then; nothing more is consumed after that."""
        self._outbox.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_sent()
                session = self._lifeline.current
                if session is not None:
                    await session.catch_up()
        session = self._lifeline.current
        if session is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1.0):
                    await session.sync(Wanted(False, False, False, frozenset()))
        self._incoming.hand_back_tasks()

    async def _drain_answers(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_sent()
                session = self._lifeline.current
                if session is not None:
                    await session.catch_up()
                    await session.delete_answers()

    async def _all_sent(self) -> None:
        if self._lifeline.current is None:
            return  # nobody waits for a broker that is away
        if self._publishing is not None:
            await asyncio.wait([self._publishing])
        while self._sending:
            await asyncio.wait(self._sending)

    # -- the session -----------------------------------------------------------------------------------------

    async def _open_session(self) -> Session:
        return await Session.open(
            self.address,
            self,
            answers=self._answers_queue,
            store=self.store,
            name=f'treadle {self.name}',
            hints=self.hints.are_heard,
        )

    async def _set_up(self, session: Session) -> None:
        await session.sync(self._wanted())

    def _wanted(self) -> Wanted:
        local = self._local
        return Wanted(
            broadcasts=local.is_heard or local.answers_for_pids,
            pids=local.answers_for_pids,
            tasks=local.takes_tasks,
            names=frozenset(local.recipients()),
        )

    async def _sync(self) -> None:
        session = self._lifeline.current
        if session is None:
            return  # the next one begins with what is wanted
        try:
            await session.sync(self._wanted())
        except Exception as error:
            LOGGER.debug('%r: subscribing failed, and is done again with the next connection: %r', self.name, error)

    def _subscribers_changed(self) -> None:
        """Have the broker know of it before the caller goes on, if the broker is there."""
        if self._state != 'open':
            return
        with contextlib.suppress(LoopClosed, TimeoutError):
            wait(self.thread.bridge.submit(self._sync), self._send_timeout, what='subscribing')

    # -- what comes in: see Receivers ------------------------------------------------------------------------

    @property
    def on_answer(self) -> Any:
        """Answers."""
        return self._replies.on_answer

    @property
    def on_broadcast(self) -> Any:
        """Broadcasts."""
        return self._incoming.on_broadcast

    @property
    def on_pid_rpc(self) -> Any:
        """RPCs to pids."""
        return self._incoming.on_pid_rpc

    @property
    def on_named_rpc(self) -> Any:
        """RPCs to named subscribers."""
        return self._incoming.on_named_rpc

    @property
    def on_task(self) -> Any:
        """Tasks."""
        return self._incoming.on_task

    @property
    def on_hint(self) -> Any:
        """Hints."""
        return self.hints.on_hint

    # -- what incoming messages need: see Link ---------------------------------------------------------------

    def reply(self, message: Outgoing) -> None:
        """Send an answer; on the loop."""
        self._track(self._reply(message), 'an answer is sent')

    async def _reply(self, message: Outgoing) -> None:
        try:
            await self.send(message)
        except (MessageNotSent, UnroutableError) as error:
            LOGGER.warning('an answer was not sent: %s', error)

    async def send(self, message: Outgoing) -> None:
        """Send, and return when the broker has confirmed; on the loop.

        :raises MessageNotSent: not in time.
        :raises UnroutableError: nobody is there for it.
        """
        await publish_until(
            self._lifeline, time.monotonic() + self._send_timeout, lambda session: session.publish(message)
        )

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback on the loop; from any thread."""
        with contextlib.suppress(LoopClosed, Forked):  # it closes: what was not acknowledged comes again
            self.thread.bridge.post(callback, *args)

    async def count_task_consumers(self) -> int:
        """How many consume the task queue."""
        session = await self._lifeline.session(time.monotonic() + self._send_timeout)
        return await session.count_task_consumers()

    def _track(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _send_tracked(self, message: Outgoing) -> None:
        if len(self._sending) >= MOST_SENDING:
            raise MessageNotSent(
                f'{len(self._sending)} messages are on their way to the broker {self.address} already; send fewer at a '
                f'time, or wait for their answers'
            )
        await self._track(self.send(message), 'a message is sent')

    # -- subscribers -----------------------------------------------------------------------------------------

    @property
    def is_heard(self) -> bool:
        """Whether a broadcast might reach a subscriber, here or elsewhere: it cannot be told, so it might."""
        return not self.is_closed()

    def add_rpc_subscriber(self, subscriber: RpcSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have RPCs to ``identifier`` answered by ``subscriber(communicator, message)``."""
        with self._open():
            identifier = self._local.add_rpc_subscriber(subscriber, identifier)
        self._subscribers_changed()
        return identifier

    def remove_rpc_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to ``identifier``."""
        with self._open():
            self._local.remove_rpc_subscriber(identifier)
        self._subscribers_changed()

    def add_process_subscriber(
        self, subscriber: ProcessSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have RPCs to pids answered by ``subscriber(communicator, pid, message)``."""
        with self._open():
            identifier = self._local.add_process_subscriber(subscriber, identifier)
        self._subscribers_changed()
        return identifier

    def remove_process_subscriber(self, identifier: Hashable) -> None:
        """Answer no more RPCs to pids."""
        with self._open():
            self._local.remove_process_subscriber(identifier)
        self._subscribers_changed()

    def add_task_subscriber(self, subscriber: TaskSubscriber, identifier: Hashable | None = None) -> Hashable:
        """Have tasks done by ``subscriber(communicator, task)``."""
        with self._open():
            identifier = self._local.add_task_subscriber(subscriber, identifier)
        self._subscribers_changed()
        return identifier

    def remove_task_subscriber(self, identifier: Hashable) -> None:
        """Do no more tasks; those that have not begun are left to others."""
        with self._open():
            self._local.remove_task_subscriber(identifier)
        self._subscribers_changed()
        if not self._local.takes_tasks:
            self.soon(self._incoming.hand_back_tasks)

    def add_broadcast_subscriber(
        self, subscriber: BroadcastSubscriber, identifier: Hashable | None = None
    ) -> Hashable:
        """Have ``subscriber(communicator, body, sender, subject, correlation_id)`` hear what is broadcast."""
        with self._open():
            identifier = self._local.add_broadcast_subscriber(subscriber, identifier)
        self._subscribers_changed()
        return identifier

    def remove_broadcast_subscriber(self, identifier: Hashable) -> None:
        """Hear no more broadcasts."""
        with self._open():
            self._local.remove_broadcast_subscriber(identifier)
        self._subscribers_changed()

    # -- sending ---------------------------------------------------------------------------------------------

    def rpc_send(self, recipient_id: Hashable, msg: Any) -> Future[Any]:
        """Ask a recipient; see :meth:`.Communicator.rpc_send`.

        :raises InvalidMessage: the message is more than data.
        :raises UnroutableError: nobody answers to that.
        """
        refuse_on_loop_thread('rpc_send()', 'await asyncio.to_thread(communicator.rpc_send, ...)')
        pid, correlation_id = as_pid(recipient_id), uuid.uuid4().hex
        message = Outgoing(
            exchange=defaults.MESSAGE_EXCHANGE,
            routing_key=named_rpc_key(recipient_id) if pid is None else rpc_key(pid),
            body=encode(msg),
            mandatory=True,
            correlation_id=correlation_id,
            reply_to=self._answers_queue,
        )
        with self._open():
            answer = self._replies.expect(correlation_id)
            sent = self.thread.bridge.submit(self._send_tracked, message)
        try:
            wait(sent, what='rpc_send()')
        except UnroutableError:
            self._replies.forget(correlation_id)
            raise UnroutableError(
                f'nobody answers to {recipient_id!r}'
                + ('' if pid is None else '; an engine answers for the processes of its store while it runs')
            ) from None
        except (MessageNotSent, LoopClosed) as error:
            self._replies.fail(correlation_id, self._as_unsent(error))
        return answer

    def task_send(self, task: Any, no_reply: bool = False) -> Future[Any] | None:
        """Have a task done by some subscriber; see :meth:`.Communicator.task_send`.

        :raises InvalidMessage: the task is more than data.
        """
        correlation_id = uuid.uuid4().hex
        message = Outgoing(
            exchange=defaults.TASK_EXCHANGE,
            routing_key=defaults.TASK_QUEUE,
            body=encode([task, no_reply]),
            mandatory=True,
            persistent=True,
            correlation_id=correlation_id,
            reply_to=None if no_reply else self._answers_queue,
        )
        with self._open():
            answer = None if no_reply else self._replies.expect(correlation_id)
            sent = self.thread.bridge.submit(self._send_tracked, message)
        sent.add_done_callback(lambda done: self._task_sent(correlation_id, no_reply, done))
        return answer

    def _task_sent(self, correlation_id: str, no_reply: bool, done: Future[None]) -> None:
        error = done.exception()
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

        :raises InvalidMessage: the message is more than data.
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
            return self._outbox.put(message)

    # -- answers that others may have begun to give: see ReplySender -------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._state == 'open' and self._lifeline.current is not None

    def send_answer(self, reply_to: str, correlation_id: str, outcome: Future[Any]) -> Future[None]:
        """Send how a task came out to whoever sent it; resolves when the broker has it.

        :param outcome: is done.
        """
        error = outcome.exception()
        body = answers.result(outcome.result()) if error is None else answers.failed(error)
        message = Outgoing(
            exchange='', routing_key=reply_to, body=body, correlation_id=correlation_id, persistent=True
        )
        with self._open():
            return self.thread.bridge.submit(self._send_tracked, message)

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
