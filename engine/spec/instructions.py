"""A compiled outline: a flat tuple of instructions in which a position is one integer.

That integer, however deeply the outline nests, is all that a checkpoint holds of it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..exit_code import ExitCode


class Op(enum.StrEnum):
    """What an instruction does; the value goes into the digest."""

    STEP = 'step'
    TEST = 'test'
    JUMP = 'jump'
    RETURN = 'return'


class Instruction(NamedTuple):
    """One instruction; ``target`` is the index that a TEST (when false) or a JUMP goes to, else -1."""

    op: Op
    name: str = ''
    target: int = -1
    exit_code: ExitCode | None = None


class Step(NamedTuple):
    """The next step to run; ``after`` is the position to store once it is done."""

    name: str
    position: int
    after: int


class End(NamedTuple):
    """The outline is over; ``exit_code`` is what a ``return_`` gave, ``None`` where it gave none."""

    exit_code: ExitCode | None = None


class Outline:
    """A compiled outline. Immutable; safe to share between threads.

    Valid positions are ``0 <= position <= len(instructions)``, the last being the end.
    """

    __slots__ = (
        '_ends',
        '_resume',
        '_steps',
        'condition_names',
        'digest',
        'instructions',
        'step_names',
        'text',
    )

    def __init__(self, instructions: tuple[Instruction, ...], text: str) -> None:
        self.instructions = instructions
        #: Indented lines, one per step or block, for documentation and for showing differences.
        self.text = text
        self.step_names = _names(instructions, Op.STEP)
        self.condition_names = _names(instructions, Op.TEST)
        #: Equal where positions mean the same; the wording of messages and of :attr:`text` is not in it.
        self.digest = hashlib.sha256(_canonical(instructions).encode()).hexdigest()[:16]
        # Where a position leads once unconditional jumps are followed. No cycle: each loop has a TEST.
        end = len(instructions)
        resume = [*range(end + 1)]
        for start in range(end):
            at = start
            while at < end and instructions[at].op is Op.JUMP:
                at = instructions[at].target
            resume[start] = at
        self._resume: tuple[int, ...] = tuple(resume)
        self._steps: tuple[Step | None, ...] = tuple(
            Step(each.name, index, resume[index + 1]) if each.op is Op.STEP else None
            for index, each in enumerate(instructions)
        )
        self._ends = tuple(at == end or instructions[at].op is Op.RETURN for at in resume)

    def next_step(self, position: int, test: Callable[[str], Any]) -> Step | End:
        """Follow the outline from ``position`` to the next step, or to its end.

        :param test: evaluates the condition of that name. It is called once per condition that is
            passed, in order; an exception of its own passes through, so that it is also the place to
            stop a loop whose body never reaches a step.
        :raises TypeError: a condition returned something that has no truth value of its own, such as a
            string; forgetting to compare is the usual cause. ``None`` and whatever has ``__bool__``
            (as numpy's booleans do) is accepted, as in plumpy.
        :raises IndexError: the position lies outside of the outline.
        """
        self._check_position(position)
        instructions = self.instructions
        at: int = self._resume[position]
        while at < len(instructions):
            step: Step | None = self._steps[at]
            if step is not None:
                return step
            instruction = instructions[at]
            if instruction.op is Op.RETURN:
                return End(instruction.exit_code)
            verdict = test(instruction.name)
            if verdict is not True and verdict is not False:
                verdict = _truth(instruction.name, verdict)
            at = self._resume[at + 1 if verdict else instruction.target]
        return End()

    def ends_at(self, position: int) -> bool:
        """Whether certainly nothing follows: :meth:`next_step` would ask no condition and return an End."""
        self._check_position(position)
        return self._ends[position]

    def _check_position(self, position: int) -> None:
        # A negative index would silently count from the end.
        if not 0 <= position <= len(self.instructions):
            raise IndexError(
                f'position {position} lies outside of the outline (0 to {len(self.instructions)})'
            )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f'<Outline {self.digest}: {", ".join(self.step_names)}>'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outline) and other.instructions == self.instructions

    def __hash__(self) -> int:
        return hash(self.digest)


def _truth(name: str, verdict: Any) -> bool:
    if not hasattr(verdict, '__bool__'):
        raise TypeError(
            f'the condition {name} returned {verdict!r} ({type(verdict).__name__}); '
            'a condition returns True or False'
        )
    return bool(verdict)


def _names(instructions: tuple[Instruction, ...], op: Op) -> tuple[str, ...]:
    """The distinct names of the instructions of a kind, in the order of their first appearance."""
    return tuple(dict.fromkeys(each.name for each in instructions if each.op is op))


def _canonical(instructions: tuple[Instruction, ...]) -> str:
    """The text that is hashed. Stored digests depend on it: do not change it without a migration."""

    def status(each: Instruction) -> str:
        return '' if each.exit_code is None else str(each.exit_code.status)

    return ''.join(f'{each.op.value} {each.name} {each.target} {status(each)}\n' for each in instructions)
