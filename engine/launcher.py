"""``ProcessLauncher``: starts processes that tasks ask for."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from .communication.deliveries import AnsweredAgain, AnsweredLater, TaskOrigin, task_origin
from .communication.messages import ContinueTask, CreateTask, LaunchTask, decode_task
from .errors import (
    InvalidMessage,
    KeyConflict,
    ProcessNotFound,
    SpecError,
    TaskInvalid,
    TaskRejected,
    UnstorableValue,
    ValidationError,
)
from .launch import resolve
from .processes.functions import process_class_of
from .processes.identity import ClassMissing, find
from .store.records import OwedReply, storable
from .store.tasks import owe_reply

if TYPE_CHECKING:
    from .communication import Communicator
    from .engine import Engine
    from .node import ProcessNode
    from .store.records import ProcessRecord

__all__ = ['ProcessLauncher']

LOGGER = logging.getLogger(__name__)

#: What is wrong with a task itself; another worker would do no better.
_MISTAKES = (
    InvalidMessage, KeyConflict, ProcessNotFound, SpecError, TypeError, UnstorableValue, ValidationError,
)  # fmt: skip


class ObjectLoader(Protocol):
    """Finds classes by name, as ``plumpy``'s loaders do."""

    def load_object(self, identifier: str) -> Any:
        """The class or process function of that name; a ``ValueError`` says that there is none."""


class ProcessLauncher:
    """A task subscriber that starts processes in an engine; it works over any communicator. ::

        engine.communicator.add_task_subscriber(ProcessLauncher(engine))

    It does the tasks ``launch``, ``create`` and ``continue`` of ``plumpy``, and answers with a future of the pid, or of
    the outputs where the sender wants to wait for them. Such a sender gets a ``RemoteException`` when the process
    raised, or was killed. A task that is wrong in itself is rejected for good: unknown, with arguments missing, with
    inputs that do not fit or a pid that there is not. One for a class that cannot be imported here, or for a process
    that this engine does not run, is left to others, and rejected when they do not want it either.

    A process that was created is in the store, and runs like any other: ``continue`` makes sure that this engine can
    run it, and waits. So nothing is lost when that message is.

    A task that came by a broker leads to one process however often it is delivered, known by its correlation id; it
    may be acknowledged when the call returns, since all is in the store by then. The outputs are sent by whichever
    engine has ended the process, also when this one is no more. Without a broker a ``key`` in the ``metadata`` among
    the inputs makes a second task find the process of the first, and the sender hears if this engine stops.

    :param engine: a running engine.
    :param loader: finds the classes; by default they are imported by ``module:Name``.
    """

    def __init__(self, engine: Engine, loader: ObjectLoader | None = None) -> None:
        self._engine = engine
        self._loader = loader

    def __call__(self, communicator: Communicator, task: Any) -> Any:
        """Do one task.

        :raises TaskInvalid: nobody can do it; says why.
        :raises TaskRejected: this engine does not do it; says why.
        """
        try:
            match decode_task(task):
                case LaunchTask() as launch:
                    return self._start(launch, nowait=launch.nowait)
                case CreateTask() as create:
                    return self._start(create, nowait=True)
                case ContinueTask() as goes_on:
                    return self._go_on(goes_on)
        except TaskRejected as error:
            LOGGER.warning('a task is rejected: %s', error)
            raise
        except ClassMissing as error:
            LOGGER.warning('a task is rejected: %s', error)
            raise TaskRejected(str(error)) from error
        except _MISTAKES as error:
            LOGGER.warning('a task is rejected: %s', error)
            raise TaskInvalid(str(error)) from error

    def _start(self, task: LaunchTask | CreateTask, *, nowait: bool) -> Any:
        origin = _origin_to_keep()
        if origin is None:
            return self._answer(self._engine.submit(self._target(task), task.inputs), nowait)
        pid = self._engine.core.source.reader.process_of_task(origin.correlation_id)
        was_there = pid is not None
        if pid is None:
            starts = self._engine.core.take_call().starts
            target, given = resolve(self._target(task), task.inputs, {})
            pid, was_there = starts.submit_once(target, given, origin.correlation_id)
        if was_there:
            LOGGER.info('a task came again that has led to process %d', pid)
        return self._answer_by_mark(origin, pid, nowait=nowait, is_new=not was_there or origin.is_redelivered)

    def _target(self, task: LaunchTask | CreateTask) -> Any:
        target = self._find(task.process_class)
        process_class_of(target)
        return target

    def _go_on(self, task: ContinueTask) -> Any:
        node, origin = self._take_up(task.pid), _origin_to_keep()
        if origin is None:
            return self._answer(node, task.nowait)
        if task.nowait:
            return AnsweredAgain(node.pid, says_so=True)
        was_there = self._engine.core.source.reader.process_of_task(origin.correlation_id) is not None
        return self._answer_by_mark(origin, node.pid, nowait=False, is_new=not was_there or origin.is_redelivered)

    def _answer_by_mark(self, origin: TaskOrigin, pid: int, *, nowait: bool, is_new: bool) -> Any:
        """What tells the sender, once, that the task was taken; the end is told by whoever commits it."""
        if nowait or origin.reply_to is None:
            return AnsweredAgain(pid, says_so=is_new)
        owed, core = OwedReply(origin.correlation_id, origin.reply_to, pid), self._engine.core

        def put_on_record() -> Future[None]:
            recorded = core.store.call(lambda transaction: owe_reply(transaction, owed))
            # It may have ended before.
            recorded.add_done_callback(lambda _: core.messaging.reply_if_ended(pid))
            return recorded

        return AnsweredLater(put_on_record, says_so=is_new)

    def _find(self, name: str) -> Any:
        try:
            return find(name, None) if self._loader is None else self._loader.load_object(name)
        except (TypeError, ValueError) as error:
            raise ClassMissing(f'{name} is no process class or process function: {error}') from error

    def _take_up(self, pid: int) -> ProcessNode:
        """A process that is there; whoever runs it, or will."""
        node = self._engine.load(pid)
        record = node._row()
        if node.is_terminated or record.owner is not None:
            return node
        reason = self._why_not(record)
        if reason is None:
            self._engine.core.claims.look()
        elif not self._others_live():
            raise TaskRejected(reason)
        return node

    def _why_not(self, record: ProcessRecord) -> str | None:
        """Why the engine does not run a process, if it does not."""
        core = self._engine.core
        try:
            find(record.class_name, record.class_hash)  # imports it, if that is what keeps the engine from running it
        except ClassMissing as error:
            return str(error)
        core.claims.learn_origins()  # an engine may have ended since the last search
        if core.claims.admits(record):
            return None
        return core.why_parked(record.pid) or (
            f"process {record.pid} was submitted by another script, and engine {self._engine.name!r} runs only its "
            f"own; send the task to one with claims='all'"
        )

    def _others_live(self) -> bool:
        core = self._engine.core
        return any(each.id != core.membership.engine_id for each in core.source.reader.live_engines())

    def _answer(self, node: ProcessNode, nowait: bool) -> Future[Any]:
        if nowait:
            return _done(node.pid)
        answer: Future[Any] = Future()

        def resolve(done: Future[ProcessNode]) -> None:
            try:
                answer.set_result(self._engine.core.calls.waits.outcome(done.result()))
            except BaseException as error:  # whatever the process raised
                answer.set_exception(error)

        self._engine.future(node).add_done_callback(resolve)
        return answer


def _done(result: Any) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(result)
    return done


def _origin_to_keep() -> TaskOrigin | None:
    """Where the task came from, if by a broker; it is to be kept in the store.

    :raises InvalidMessage: not every store can keep it. It must be refused here, since a store's error is no verdict.
    """
    origin = task_origin()
    if origin is not None:
        for name, text in (('correlation_id', origin.correlation_id), ('reply_to', origin.reply_to or '')):
            if storable(text) != text:
                raise InvalidMessage(f'the {name} {text!r} of the message is no text that can be stored')
    return origin
