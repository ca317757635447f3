"""Units of commit, made of what was done, and what a verdict on one means. Pure functions: nothing is written here.

A unit says all that its row must get together: see :class:`~.store.records.Unit`.
"""

from __future__ import annotations

from .errors import LeaseLost, StepAborted
from .exit_code import ExitCode
from .processes.machine import Ending
from .processes.process import Process, StepResult
from .processes.visit import Visit
from .states import ProcessState
from .store.records import Advance, Held, Lost, ProcessRecord, Unit, Verdict, storable
from .values import Codec, dump_exception

__all__ = ['creation', 'held', 'lost', 'unit_of_error', 'unit_of_function', 'unit_of_step']


def creation(record: ProcessRecord, visit: Visit | None) -> Unit:
    """A new process, made by a call of that visit's or by plain code."""
    return Unit(fence=None if visit is None else visit.fence, create=(record,))


def unit_of_step(process: Process, visit: Visit, result: StepResult, codec: Codec) -> Unit:
    """What a step has done.

    :raises UnstorableValue: a value in the context or among the outputs cannot be stored.
    :raises StoreError: a large value could not be written now.
    """
    ended = result.ending is Ending.FINISH
    saved = None if ended else process._save()
    # Nothing is noted here of what was encoded: if the rest cannot be, all of it is encoded anew.
    outputs = codec.encode(process._outputs, 'outputs') if process._outputs_changed else None
    advance = Advance(
        state=result.ending.value,
        visit=visit.number + 1,
        step=result.next_step,
        checkpoint=None if saved is None else codec.encode(saved, 'self'),
        outputs=outputs,
        exit_status=result.exit_code.status if ended else None,
        exit_message=_message_of(result.exit_code) if ended else None,
        awaiting=result.awaiting,
    )
    return Unit(
        fence=visit.fence,
        advance=advance,
        create=tuple(visit.children),
        log=tuple(visit.log),
        kept_calls=_kept_calls(visit),
        pauses=visit.pauses,
        emitted=tuple(visit.emitted),
        job=result.job,
    )


def unit_of_function(visit: Visit, exit_code: ExitCode, outputs: str | None) -> Unit:
    """What a process function has done that was called.

    :param outputs: encoded; ``None`` when it has returned nothing.
    """
    return Unit(
        fence=visit.fence,
        advance=Advance(
            ProcessState.FINISHED,
            visit.number + 1,
            outputs=outputs,
            exit_status=exit_code.status,
            exit_message=_message_of(exit_code),
        ),
        create=tuple(visit.children),
        log=tuple(visit.log),
        kept_calls=_kept_calls(visit),
        emitted=tuple(visit.emitted) if outputs is not None else (),
    )


def unit_of_error(visit: Visit, error: BaseException) -> Unit:
    """A step or function has raised: it leaves no children behind, but what it has logged is kept."""
    return Unit(
        fence=visit.fence,
        advance=Advance(ProcessState.EXCEPTED, visit.number + 1, exception=dump_exception(error)),
        log=tuple(visit.log),
        kept_calls=_kept_calls(visit),
    )


def _message_of(exit_code: ExitCode) -> str | None:
    return storable(exit_code.message) if exit_code.message else None


def _kept_calls(visit: Visit) -> frozenset[int] | None:
    """The calls that a replayed step has made once more; what else is on record goes."""
    return frozenset(visit.asked) if visit.replayed else None


def held(visit: Visit | None, verdict: Verdict) -> Held:
    """The verdict on a unit of this visit's, unless the visit has lost its process; raises what unwinds it then."""
    if isinstance(verdict, Held):
        return verdict
    if visit is None:
        raise RuntimeError('a unit without a fence was refused')
    raise lost(visit.pid, verdict)


def lost(pid: int, verdict: Lost) -> StepAborted:
    """What unwinds a step whose row has moved on."""
    if verdict.state == ProcessState.KILLED:
        return StepAborted(f'process {pid} was killed: {verdict.message}')
    return LeaseLost(f"process {pid} is no longer this engine's (it is {verdict.state}); its step counts for nothing")
