"""One message on its way to a subscriber inside this OS process, and what becomes of its answer."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from ..errors import RemoteException, TaskInvalid, TaskRejected, TreadleError
from .communicator import final_answer

__all__ = [
    'AnsweredAgain',
    'AnsweredLater',
    'Broadcast',
    'Delivery',
    'Rpc',
    'TaskDelivery',
    'TaskOrigin',
    'task_origin',
]

LOGGER = logging.getLogger(__name__)


class TaskOrigin(msgspec.Struct, frozen=True, gc=False):
    """Where a task came from, if it came by a broker.

    :ivar correlation_id: the sender's own mark, the same when the task is delivered again.
    :ivar reply_to: where the sender waits for answers, ``None`` if it does not.
    :ivar is_redelivered: whether somebody may have dealt with it before, and been cut off.
    """

    correlation_id: str
    reply_to: str | None
    is_redelivered: bool = False


_origin: contextvars.ContextVar[TaskOrigin | None] = contextvars.ContextVar('treadle_task_origin', default=None)


def task_origin() -> TaskOrigin | None:
    """Where the task came from that the subscriber, in whose call this is asked, has been given."""
    return _origin.get()


class AnsweredLater(Future[Any]):
    """What a task subscriber returns whose answer comes another way, when it is there.

    :ivar says_so: whether the sender is to be told that it was taken, and that the answer follows.
    :ivar put_on_record: called when the sender has been told; has the answer sent from then on, by whoever has it. The
        task is done with when the future that it returns has resolved.
    """

    def __init__(self, put_on_record: Callable[[], Future[Any]], *, says_so: bool = True) -> None:
        super().__init__()
        self.put_on_record = put_on_record
        self.says_so = says_so


class AnsweredAgain(msgspec.Struct, frozen=True):
    """What a task subscriber returns that has done the task for good, and would say the same if it were given it again.

    So the task is done with only when the sender has the answer: if this OS process dies before that, it comes again.

    :ivar answer: what that is.
    :ivar says_so: whether the sender is first to be told that it was taken.
    """

    answer: Any
    says_so: bool


class Delivery(Protocol):
    """A message that a subscriber is to get."""

    def deliver(self) -> None:
        """Call the subscriber; on a thread where user code may run."""

    def refuse(self, error: Exception) -> None:
        """It will not be delivered; tell the sender."""


class Broadcast:
    """A broadcast for one of those who hear it."""

    __slots__ = ('_call',)

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def deliver(self) -> None:
        """Call the subscriber; what it raises is logged."""
        try:
            self._call()
        except BaseException:  # such as SystemExit, which concerns nobody but this subscriber
            LOGGER.exception('a broadcast subscriber raised')

    def refuse(self, error: Exception) -> None:
        """Nobody waits for an answer."""


class Rpc:
    """A question to one recipient."""

    __slots__ = ('_call', 'future')

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.future: Future[Any] = Future()

    def deliver(self) -> None:
        """Call the subscriber, unless the sender has cancelled; what it returns or raises is the answer."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            answer = self._call()
        except BaseException as error:
            self.future.set_exception(_as_seen_by_sender(error, 'an RPC'))
        else:
            self.future.set_result(_answer(answer, 'an RPC'))

    def refuse(self, error: Exception) -> None:
        """Tell the sender."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class TaskDelivery:
    """A task; if one subscriber rejects it, another is asked.

    :ivar rejected_by: the subscribers that it need not be offered to again.
    :param origin: where it came from, if from elsewhere.
    :param no_reply: whether nobody waits for the answer.
    """

    __slots__ = ('_no_reply', '_origin', '_reasons', '_taken', 'body', 'future', 'rejected_by')

    def __init__(self, body: Any, *, no_reply: bool, origin: TaskOrigin | None = None) -> None:
        self.body = body
        self._origin = origin
        self.future: Future[Any] = Future()
        self.rejected_by: set[Hashable] = set()
        self._no_reply = no_reply
        self._reasons: list[str] = []
        self._taken = False

    def offer(self, call: Callable[[Any], Any]) -> bool:
        """Have it done by ``call``; ``False`` when that has rejected it."""
        if not self._taken:
            if not self.future.set_running_or_notify_cancel():
                return True  # the sender has cancelled
            self._taken = True
        token = _origin.set(self._origin)
        try:
            answer = call(self.body)
        except TaskInvalid as error:
            self._fail(error)
        except TaskRejected as error:
            self._reasons.append(str(error) or 'without a reason')
            return False
        except BaseException as error:
            self._fail(_as_seen_by_sender(error, 'a task'))
        else:
            is_for_broker = isinstance(answer, AnsweredLater | AnsweredAgain)
            self.future.set_result(answer if is_for_broker else _answer(answer, 'a task'))
        finally:
            _origin.reset(token)
        return True

    @property
    def is_rejected(self) -> bool:
        """Whether some subscriber has rejected it."""
        return bool(self._reasons)

    def reject(self) -> None:
        """Nobody is left to be asked."""
        self._fail(TaskRejected('; '.join(dict.fromkeys(self._reasons))))

    def refuse(self, error: Exception) -> None:
        """It will not be done; tell the sender."""
        if self._taken or self.future.set_running_or_notify_cancel():
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._no_reply:
            LOGGER.warning('a task without a reply failed: %s', error)
        self.future.set_exception(error)


def _answer(returned: Any, what: str) -> Any:
    """What a subscriber returned, as the sender gets it; of several futures in a row there is one left."""
    if not isinstance(returned, Future):
        return returned
    pending: Future[Any] = Future()
    pending.set_running_or_notify_cancel()

    def resolve(done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            pending.set_result(done.result())
        else:
            pending.set_exception(_as_seen_by_sender(error, what))

    final_answer(returned).add_done_callback(resolve)
    return pending


def _as_seen_by_sender(error: BaseException, what: str) -> Exception:
    """The sender may be in another OS process, where it gets no more than the text of an error."""
    if isinstance(error, TaskRejected):
        return error
    if not isinstance(error, TreadleError):  # those are meant for the sender, others may be bugs of the subscriber
        LOGGER.warning('the subscriber of %s raised', what, exc_info=error)
    remote = RemoteException(f'{type(error).__name__}: {error}')
    remote.__cause__ = error
    return remote
