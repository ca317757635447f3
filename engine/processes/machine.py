"""The life of a process as a pure function: an event goes in, the next life and commands come out.

Nothing here does anything. An execution carries the commands out in their order, which is the whole protocol: a state
is committed before anyone hears of it, and the next step starts only after the commit of the one before. Tests
compare lists of commands; no thread, loop or store is needed. The shape follows the worker state machine of
``distributed``.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TypeAlias

from ..states import ProcessState


class Phase(enum.Enum):
    """What is going on for a process on the engine that has claimed it."""

    CLAIMED = 'claimed'
    STEPPING = 'stepping'
    COMMITTING = 'committing'
    LEFT = 'left'


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """Where a claimed process stands.

    :ivar state: the state that the last commit, or the one under way, gives it.
    :ivar stopping: the engine wants to stop: no further step is started.
    """

    state: ProcessState
    phase: Phase = Phase.CLAIMED
    stopping: bool = False


# -- events ------------------------------------------------------------------------------------------


class Ending(enum.Enum):
    """How a step ended."""

    PROCEED = ProcessState.RUNNING
    AWAIT = ProcessState.WAITING
    FINISH = ProcessState.FINISHED
    RAISE = ProcessState.EXCEPTED


@dataclasses.dataclass(frozen=True, slots=True)
class Claimed:
    """The claim is committed: the process is ours to run."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepEnded:
    """A step, or the conditions that lead nowhere further, came to an end."""

    ending: Ending


@dataclasses.dataclass(frozen=True, slots=True)
class StepUnwound:
    """A step was unwound, because it was killed, lost its lease or the engine stops: it has no result."""


@dataclasses.dataclass(frozen=True, slots=True)
class PausedBefore:
    """The process was paused between its last commit, or its claim, and the step that would have come next."""


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseLapsed:
    """The step could not begin, since the engine's lease has passed; the database has to be asked first."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepParked:
    """A step cannot go on with the code that is loaded, or not be written; nothing is said about the process."""


@dataclasses.dataclass(frozen=True, slots=True)
class Committed:
    """The step's unit is durable.

    :ivar satisfied: a wait was over before it began.
    :ivar paused: the process is paused, and the commit has released it if it would have gone on.
    """

    satisfied: bool = False
    paused: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """The row has moved on without us: killed, or taken over. Nothing was written."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store could not write the unit, or a large value on the way to it; both are as good as before."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """What is stored of the process could not be read, so its step has not begun; that may pass."""


@dataclasses.dataclass(frozen=True, slots=True)
class StopRequested:
    """The engine wants to stop."""


Event: TypeAlias = (
    Claimed
    | StepEnded
    | StepUnwound
    | PausedBefore
    | LeaseLapsed
    | StepParked
    | Committed
    | Refused
    | StoreFailed
    | Unreadable
    | StopRequested
)


# -- commands ----------------------------------------------------------------------------------------


class Command(enum.Enum):
    """What the runner must do, in this order."""

    TAKE_STEP = 'take the next step, as soon as the lease allows it'
    TAKE_STEP_AGAIN = 'take the next step, after a pause'
    COMMIT = 'commit the unit of the step that ended'
    COMMIT_AGAIN = 'commit the same unit again, after a pause'
    END_AGAIN = 'put the results of the step into a unit again, after a pause'
    DISCARD = 'drop the results'
    RELEASE = 'give the claim back'
    SET_ASIDE = 'give the claim back, and take it again if it was played meanwhile'
    PARK = 'give the claim back and do not take it again'
    LEAVE = 'forget the process'


class InvalidTransition(Exception):
    """An event that cannot happen in this life: a bug of the engine's."""


def handle(life: Life, event: Event) -> tuple[Life, tuple[Command, ...]]:
    """What becomes of a process when ``event`` happens.

    :raises InvalidTransition: the event cannot happen here.
    """
    phase = life.phase
    if isinstance(event, StepEnded) and phase is Phase.STEPPING:
        return Life(event.ending.value, Phase.COMMITTING, life.stopping), (Command.COMMIT,)
    if isinstance(event, Committed) and phase is Phase.COMMITTING:
        return _after_commit(life, event)
    if isinstance(event, Claimed) and phase is Phase.CLAIMED:
        return _next_step(life)
    if isinstance(event, StoreFailed) and phase is Phase.COMMITTING:
        if life.stopping:
            return _leave(life, Command.DISCARD, Command.RELEASE)
        return life, (Command.COMMIT_AGAIN,)
    if isinstance(event, StoreFailed) and phase is Phase.STEPPING:
        if life.stopping:
            return _leave(life, Command.DISCARD, Command.RELEASE)
        return life, (Command.END_AGAIN,)
    if isinstance(event, Unreadable) and phase is Phase.STEPPING:
        if life.stopping:
            return _leave(life, Command.RELEASE)
        return life, (Command.TAKE_STEP_AGAIN,)
    if isinstance(event, Refused) and phase is Phase.COMMITTING:
        return _leave(life, Command.DISCARD)
    if isinstance(event, StepUnwound) and phase is Phase.STEPPING:
        return _leave(life, Command.DISCARD, Command.RELEASE)
    if isinstance(event, PausedBefore) and phase is Phase.STEPPING:
        return _leave(life, Command.SET_ASIDE)
    if isinstance(event, LeaseLapsed) and phase is Phase.STEPPING:
        return _next_step(life)
    if isinstance(event, StepParked) and phase in (Phase.STEPPING, Phase.CLAIMED, Phase.COMMITTING):
        return _leave(life, Command.PARK)
    if isinstance(event, StopRequested):
        return dataclasses.replace(life, stopping=True), ()
    raise InvalidTransition(f'{event} in {life}')


def _after_commit(life: Life, event: Committed) -> tuple[Life, tuple[Command, ...]]:
    if life.state.is_terminal:
        return _leave(life)
    if life.state is ProcessState.WAITING and not event.satisfied:
        return _leave(life)
    if event.paused:
        return _leave(life)
    return _next_step(life)


def _next_step(life: Life) -> tuple[Life, tuple[Command, ...]]:
    if life.stopping:
        return _leave(life, Command.RELEASE)
    return Life(ProcessState.RUNNING, Phase.STEPPING), (Command.TAKE_STEP,)


def _leave(life: Life, *commands: Command) -> tuple[Life, tuple[Command, ...]]:
    return dataclasses.replace(life, phase=Phase.LEFT), (*commands, Command.LEAVE)
