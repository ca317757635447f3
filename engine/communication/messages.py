"""What the messages say, in the words of ``plumpy``: broadcasts of changes, intents for a process, tasks.

Messages come from anyone, so each is validated before anything is done with it: what is no message raises
:class:`~treadle.engine.errors.InvalidMessage`, which says what is wrong and where.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

import msgspec

from ..errors import InvalidMessage
from ..states import ProcessState

__all__ = [
    'HINT_CHANGES',
    'HINT_WORK',
    'ContinueTask',
    'CreateTask',
    'Intent',
    'IntentMessage',
    'LaunchTask',
    'Task',
    'continue_body',
    'create_body',
    'decode_intent',
    'decode_subject',
    'decode_task',
    'intent_body',
    'intent_for_all',
    'launch_body',
    'state_subject',
]

T = TypeVar('T')

_STATE_CHANGED = 'state_changed'
#: What stands in a subject for the state of a process that was not there before.
_NO_STATE = 'None'

#: As large as every database's integers; a larger one would be the database's error, and not the message's.
Pid: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


# -- broadcasts ----------------------------------------------------------------------------------------


def state_subject(before: str, after: str) -> str:
    """The subject of the broadcast of a change, such as ``state_changed.running.finished``; its sender is the pid.

    :param before: the state before, empty for a process that has just come into being.
    """
    return f'{_STATE_CHANGED}.{before or _NO_STATE}.{after}'


def decode_subject(subject: Any) -> tuple[str, str]:
    """The states before and after of a change; the one before is empty for a process that has come into being.

    :raises InvalidMessage: it is the subject of something else.
    """
    parts = subject.split('.') if isinstance(subject, str) else []
    states = [state.value for state in ProcessState]
    if len(parts) != 3 or parts[0] != _STATE_CHANGED or parts[1] not in (*states, _NO_STATE) or parts[2] not in states:
        raise InvalidMessage(f'{subject!r} is no subject such as state_changed.running.finished')
    return '' if parts[1] == _NO_STATE else parts[1], parts[2]


# -- hints between engines ---------------------------------------------------------------------------------

#: The letters of a hint: something is to be run that its writer has not taken itself; and processes have ended, or were
#: killed, paused or played.
HINT_WORK, HINT_CHANGES = 'w', 'c'


# -- intents, by RPC to a pid ----------------------------------------------------------------------------


class Intent(enum.StrEnum):
    """What is asked of a process."""

    PLAY = 'play'
    PAUSE = 'pause'
    KILL = 'kill'
    STATUS = 'status'


class IntentMessage(msgspec.Struct, frozen=True):
    """An RPC to a process.

    :ivar message: the reason, for people.
    :ivar force_kill: sent by ``plumpy``; a kill is never waited for here, so it makes no difference.
    """

    intent: Intent
    message: str | None = None
    force_kill: bool = False


def intent_body(intent: Intent, message: str | None = None) -> dict[str, Any]:
    """The body of an RPC to a process."""
    return {'intent': intent.value, 'message': message}


def intent_for_all(subject: Any, body: Any) -> dict[str, Any] | None:
    """The body of an RPC that says to one process what a broadcast says to all; ``None`` if that says nothing so."""
    if subject not in (Intent.PLAY, Intent.PAUSE, Intent.KILL):
        return None
    return {**(body if isinstance(body, Mapping) else {'message': body}), 'intent': str(subject)}


def decode_intent(body: Any) -> IntentMessage:
    """The intent in the body of an RPC.

    :raises InvalidMessage: it is none; says why.
    """
    return _convert(body, IntentMessage, 'an RPC to a process is {"intent": "play", "message": ...}')


# -- tasks -----------------------------------------------------------------------------------------------


class LaunchTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start a process; answered with its pid, or with its outputs.

    :ivar process_class: where the class or process function is found, as ``module:Name``.
    :ivar init_args: the inputs, as the one positional argument that ``plumpy``'s processes take first.
    :ivar init_kwargs: or the inputs as ``{'inputs': ...}``.
    :ivar persist: sent by ``plumpy``; every process is kept here.
    :ivar nowait: whether the answer is the pid, and not the outputs.
    """

    task: ClassVar[str] = 'launch'

    process_class: str
    init_args: list[Any] | None = None
    init_kwargs: dict[str, Any] | None = None
    persist: bool = False
    nowait: bool = True

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs of the process."""
        return _inputs(self.init_args, self.init_kwargs)


class CreateTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a process; answered with its pid. The fields are those of :class:`LaunchTask`."""

    task: ClassVar[str] = 'create'

    process_class: str
    init_args: list[Any] | None = None
    init_kwargs: dict[str, Any] | None = None
    persist: bool = False

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs of the process."""
        return _inputs(self.init_args, self.init_kwargs)


class ContinueTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See that a process goes on; answered with its pid, or with its outputs.

    :ivar tag: which checkpoint; there is one, the last, so it must be ``None``.
    :ivar nowait: whether the answer is the pid, and not the outputs.
    """

    task: ClassVar[str] = 'continue'

    pid: Pid
    tag: str | None = None
    nowait: bool = False


Task: TypeAlias = LaunchTask | CreateTask | ContinueTask

_TASKS: Mapping[str, type[Task]] = {each.task: each for each in (LaunchTask, CreateTask, ContinueTask)}


class _Envelope(msgspec.Struct, frozen=True):
    task: str
    args: dict[str, Any] = {}


def launch_body(
    process_class: str, inputs: Mapping[str, Any] | None = None, *, nowait: bool = True
) -> dict[str, Any]:
    """The body of a task that starts a process.

    :param process_class: where it is found, as ``module:Name``.
    :param inputs: ``metadata`` among them; one with a ``key`` makes a task that is delivered twice start one process.
    """
    return _body(LaunchTask.task, {**_creation(process_class, inputs), 'nowait': nowait})


def create_body(process_class: str, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of a task that makes a process, with the arguments of :func:`launch_body`."""
    return _body(CreateTask.task, _creation(process_class, inputs))


def continue_body(pid: int, *, nowait: bool = False) -> dict[str, Any]:
    """The body of a task that sees to it that a process goes on."""
    return _body(ContinueTask.task, {'pid': pid, 'nowait': nowait, 'tag': None})


def decode_task(body: Any) -> Task:
    """The task in a message's body.

    :raises InvalidMessage: it is none; says why.
    """
    envelope = _convert(body, _Envelope, 'a task is {"task": "launch", "args": {...}}')
    kind = _TASKS.get(envelope.task)
    if kind is None:
        raise InvalidMessage(f'{envelope.task!r} is no task; there is {", ".join(_TASKS)}')
    task = _convert(envelope.args, kind, f'the arguments of the task {envelope.task!r}')
    if not isinstance(task, ContinueTask):
        _inputs(task.init_args, task.init_kwargs)
    elif task.tag is not None:
        raise InvalidMessage(f'there is no checkpoint {task.tag!r} of process {task.pid}; only the last one is kept')
    return task


def _body(task: str, args: dict[str, Any]) -> dict[str, Any]:
    return {'task': task, 'args': args}


def _creation(process_class: str, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    init_kwargs = None if inputs is None else {'inputs': dict(inputs)}
    return {'process_class': process_class, 'persist': True, 'init_args': None, 'init_kwargs': init_kwargs}


def _inputs(args: list[Any] | None, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    named = {name: value for name, value in (kwargs or {}).items() if value is not None}
    given = [*(args or ()), *([named.pop('inputs')] if 'inputs' in named else ())]
    if named:
        raise InvalidMessage(
            f'init_kwargs: {", ".join(map(repr, named))} cannot be given; a process is started with its inputs alone'
        )
    if len(given) > 1:
        raise InvalidMessage(f'init_args and init_kwargs give {len(given)} arguments; there is one, the inputs')
    inputs = given[0] if given else None
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise InvalidMessage(f'the inputs of a process are a mapping with names as keys, not {inputs!r}')
    return dict(inputs)


def _convert(value: Any, kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidMessage(f'{what}: {error}') from error
