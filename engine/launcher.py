"""``ProcessLauncher``: starts processes that tasks ask for."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from .communication.messages import ContinueTask, CreateTask, LaunchTask, decode_task
from .errors import (
    InvalidMessage,
    KeyConflict,
    ProcessNotFound,
    SpecError,
    TaskRejected,
    UnstorableValue,
    ValidationError,
)
from .processes.functions import process_class_of
from .processes.identity import ClassMissing, find

if TYPE_CHECKING:
    from .communication import Communicator
    from .engine import Engine
    from .node import ProcessNode
    from .store.records import ProcessRecord

__all__ = ['ProcessLauncher']

LOGGER = logging.getLogger(__name__)

#: What is wrong with a task itself; trying again would not help.
_MISTAKES = (
    ClassMissing, InvalidMessage, KeyConflict, ProcessNotFound, SpecError, TypeError, UnstorableValue, ValidationError,
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
    raised, was killed, or is left by an engine that stops. A task that is wrong in itself is rejected: unknown, with
    arguments missing, for a class that cannot be imported, inputs that do not fit or a pid that there is not.

    A process that was created is in the store, and runs like any other: ``continue`` makes sure that this engine can
    run it, and waits. So nothing is lost when that message is. A task may be delivered twice; a ``key`` in the
    ``metadata`` among the inputs makes the second delivery find the process of the first.

    :param engine: a running engine.
    :param loader: finds the classes; by default they are imported by ``module:Name``.
    """

    def __init__(self, engine: Engine, loader: ObjectLoader | None = None) -> None:
        self._engine = engine
        self._loader = loader

    def __call__(self, communicator: Communicator, task: Any) -> Future[Any]:
        """Do one task.

        :raises TaskRejected: it cannot be done; says why.
        """
        try:
            match decode_task(task):
                case LaunchTask() as launch:
                    return self._answer(self._start(launch), launch.nowait)
                case CreateTask() as create:
                    return self._answer(self._start(create), True)
                case ContinueTask() as goes_on:
                    return self._answer(self._take_up(goes_on.pid), goes_on.nowait)
        except TaskRejected as error:
            LOGGER.warning('a task is rejected: %s', error)
            raise
        except _MISTAKES as error:
            LOGGER.warning('a task is rejected: %s', error)
            raise TaskRejected(str(error)) from error

    def _start(self, task: LaunchTask | CreateTask) -> ProcessNode:
        target = self._find(task.process_class)
        process_class_of(target)
        return self._engine.submit(target, task.inputs)

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
        answer: Future[Any] = Future()
        if nowait:
            answer.set_result(node.pid)
            return answer

        def resolve(done: Future[ProcessNode]) -> None:
            try:
                answer.set_result(self._engine.core.calls.waits.outcome(done.result()))
            except BaseException as error:  # whatever the process raised
                answer.set_exception(error)

        self._engine.future(node).add_done_callback(resolve)
        return answer
