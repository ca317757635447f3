"""The outline language of work chains: steps, ``if_``, ``while_`` and ``return_``, and its compiler.

An outline is compiled once per class. Steps and conditions are kept by name, hence an override in a
subclass takes effect, and a stored process finds its steps again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias

from ..errors import SpecError
from ..exit_code import ExitCode, check_status
from .instructions import End, Instruction, Op, Outline, Step

__all__ = [
    'Command',
    'Condition',
    'End',
    'If',
    'Instruction',
    'Op',
    'Outline',
    'Return',
    'Step',
    'While',
    'compile_outline',
    'if_',
    'return_',
    'while_',
]

#: A step, an ``if_``/``while_``/``return_`` or a tuple or list of them.
Command: TypeAlias = Any
Condition: TypeAlias = Callable[[Any], Any]


def if_(condition: Condition) -> If:
    """Run the steps that follow in a second pair of parentheses only when ``condition`` holds.

    ``if_(cls.odd)(cls.note).elif_(cls.even)(cls.skip).else_(cls.stop)``
    """
    return If(condition)


def while_(condition: Condition) -> While:
    """Repeat the steps that follow in a second pair of parentheses as long as ``condition`` holds."""
    return While(condition)


class If:
    """What :func:`if_` returns: branches, each with a condition (``None`` for else) and a body."""

    __slots__ = ('branches',)

    def __init__(self, condition: Condition) -> None:
        self.branches: list[tuple[Condition | None, tuple[Command, ...] | None]] = [(condition, None)]

    def __call__(self, *body: Command) -> If:
        condition, present = self.branches[-1]
        if present is not None:
            raise SpecError(f'{self!r} has its body already; put all its steps into one pair of parentheses')
        self.branches[-1] = (condition, _body(body, repr(self)))
        return self

    def elif_(self, condition: Condition) -> If:
        """Add a branch; its steps follow in a second pair of parentheses."""
        self._needs_open('elif_')
        self.branches.append((condition, None))
        return self

    def else_(self, *body: Command) -> If:
        """Add the branch for when no condition held; nothing can follow it."""
        self._needs_open('else_')
        self.branches.append((None, _body(body, 'else_')))
        return self

    def _needs_open(self, what: str) -> None:
        condition, body = self.branches[-1]
        if condition is None:
            raise SpecError(f'{what} follows the else_ of {self!r}; else_ comes last')
        if body is None:
            raise SpecError(f'{what} follows {self!r}, which has no body; write if_(condition)(step, ...)')

    def __repr__(self) -> str:
        return f'if_({_name_of(self.branches[0][0])})'


class While:
    """What :func:`while_` returns: a condition and a body."""

    __slots__ = ('body', 'condition')

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.body: tuple[Command, ...] | None = None

    def __call__(self, *body: Command) -> While:
        if self.body is not None:
            raise SpecError(f'{self!r} has its body already; put all its steps into one pair of parentheses')
        self.body = _body(body, repr(self))
        return self

    def __repr__(self) -> str:
        return f'while_({_name_of(self.condition)})'


class Return:
    """What :data:`return_` is: end the work chain here, successfully or with an exit code."""

    __slots__ = ('exit_code',)

    def __init__(self, exit_code: ExitCode | None = None) -> None:
        self.exit_code = exit_code

    def __call__(self, exit_code: ExitCode | int) -> Return:
        """Give the exit code, or its status, that the work chain ends with."""
        if isinstance(exit_code, int) and not isinstance(exit_code, bool):
            exit_code = ExitCode(exit_code)
        if not isinstance(exit_code, ExitCode) or exit_code.status < 0:
            raise SpecError(f'return_() takes an ExitCode or an int >= 0, not {exit_code!r}')
        try:
            check_status('return_()', exit_code.status)
        except (TypeError, ValueError) as error:
            raise SpecError(str(error)) from None
        return Return(exit_code)

    def __repr__(self) -> str:
        return 'return_' if self.exit_code is None else f'return_({self.exit_code.status})'


#: Ends the outline where it stands: ``return_`` with success, ``return_(code)`` with an exit code.
return_: Final = Return()


def compile_outline(cls: type | None, *commands: Command) -> Outline:
    """Compile what ``spec.outline()`` was given.

    :param cls: the class whose methods the steps are; ``None`` skips the check that they are.
    :raises SpecError: an item is no step, block or instruction, a body is missing or empty, or a step
        or condition does not take just ``self``; the message names the item and its place.
    """
    compiler = _Compiler(cls)
    compiler.block(commands, 'outline', 0)
    return Outline(tuple(compiler.code), '\n'.join(compiler.lines))


class _Compiler:
    """Emits instructions and text lines; one recursion per level of nesting."""

    def __init__(self, cls: type | None) -> None:
        self.cls = cls
        self.code: list[Instruction] = []
        self.lines: list[str] = []

    def block(self, commands: tuple[Command, ...] | list[Command], place: str, depth: int) -> None:
        if not commands:
            self.fail(place, 'is empty; it needs at least one step')
        for index, command in enumerate(commands):
            here = f'{place}[{index}]'
            if isinstance(command, If):
                self.branches(command, here, depth)
            elif isinstance(command, While):
                self.loop(command, here, depth)
            elif isinstance(command, Return):
                self.line(depth, repr(command))
                self.emit(Op.RETURN, exit_code=command.exit_code)
            elif isinstance(command, (tuple, list)):
                self.block(command, here, depth)
            else:
                name = self.method(command, here, 'a step')
                self.line(depth, name)
                self.emit(Op.STEP, name)

    def branches(self, command: If, place: str, depth: int) -> None:
        exits: list[int] = []
        for index, (condition, body) in enumerate(command.branches):
            last = index == len(command.branches) - 1
            if condition is None:
                self.line(depth, 'else_')
                self.block(body or (), f'{place}.else_', depth + 1)
                continue
            name = self.method(condition, place, 'a condition')
            label = f'{"elif_" if index else "if_"}({name})'
            if body is None:
                self.fail(f'{place} {label}', 'has no body; write its steps in a second pair of parentheses')
            self.line(depth, label)
            test = self.emit(Op.TEST, name)
            self.block(body, f'{place}.{label}', depth + 1)
            if not last:
                exits.append(self.emit(Op.JUMP))
            self.aim(test)
        for index in exits:
            self.aim(index)

    def loop(self, command: While, place: str, depth: int) -> None:
        name = self.method(command.condition, place, 'a condition')
        label = f'while_({name})'
        if command.body is None:
            self.fail(f'{place} {label}', 'has no body; write its steps in a second pair of parentheses')
        self.line(depth, label)
        test = self.emit(Op.TEST, name)
        self.block(command.body, f'{place}.{label}', depth + 1)
        self.emit(Op.JUMP, target=test)
        self.aim(test)

    def method(self, item: Any, place: str, role: str) -> str:
        """The name of the method that ``item`` is, after checking that it can be called with ``self``."""
        if not callable(item) or isinstance(item, type):
            self.fail(
                place,
                f'is {item!r} ({type(item).__name__}), not {role}; give a method, as in cls.step',
            )
        if inspect.ismethod(item):
            self.fail(place, f'is {item!r}, which is bound already; {role} is a plain method that takes self')
        if not _takes_one(item):
            self.fail(place, f'is {_name_of(item)}, but {role} takes self and nothing else')
        if role == 'a condition' and inspect.iscoroutinefunction(item):
            self.fail(place, f'is {_name_of(item)}, a coroutine function; a condition is a plain method')
        name = _attribute_name(self.cls, item)
        if name is None:
            owner = 'the class' if self.cls is None else self.cls.__name__
            self.fail(
                place,
                f'is {_name_of(item)}, which is no method of {owner}; steps and conditions are stored by '
                'name, so give a method of the class, as in cls.step',
            )
        return name

    def line(self, depth: int, text: str) -> None:
        self.lines.append(f'{"    " * depth}{text}')

    def emit(self, op: Op, name: str = '', *, target: int = -1, exit_code: ExitCode | None = None) -> int:
        self.code.append(Instruction(op, name, target, exit_code))
        return len(self.code) - 1

    def aim(self, index: int) -> None:
        """Let the instruction at ``index`` go to whatever is emitted next."""
        self.code[index] = self.code[index]._replace(target=len(self.code))

    def fail(self, place: str, problem: str) -> NoReturn:
        owner = '' if self.cls is None else f'{self.cls.__name__}: '
        raise SpecError(f'{owner}{place} {problem}')


def _body(body: tuple[Command, ...], owner: str) -> tuple[Command, ...]:
    if not body:
        raise SpecError(f'the body of {owner} is empty; it needs at least one step')
    return body


def _name_of(item: Any) -> str:
    return str(getattr(item, '__name__', None) or repr(item))


def _attribute_name(cls: type | None, item: Any) -> str | None:
    """The attribute under which ``cls`` or a base of it has ``item``, or ``None``."""
    name = getattr(item, '__name__', None)
    if cls is None:
        return name if isinstance(name, str) and name.isidentifier() else None
    if isinstance(name, str) and any(base.__dict__.get(name) is item for base in cls.__mro__):
        return name
    # Decorators that hide the name, aliases, and the mangled names of methods with two underscores.
    for base in cls.__mro__:
        for attribute, value in base.__dict__.items():
            if value is item:
                return attribute
    # What a descriptor makes on access is not found by identity; then the name must lead to its like.
    # A static method is called without self, so it is no step even if it would take one argument.
    if isinstance(name, str) and getattr(cls, name, None) == item:
        return None if isinstance(inspect.getattr_static(cls, name), staticmethod) else name
    return None


def _takes_one(item: Any) -> bool:
    """Whether ``item`` is called with one argument and has no other parameter a caller could give."""
    try:
        parameters = list(inspect.signature(item).parameters.values())
    except (TypeError, ValueError):
        # No signature to read, as for some callables written in C: the call itself will tell.
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.KEYWORD_ONLY for p in parameters) or len(positional) > 1:
        return False
    return bool(positional) or any(p.kind is p.VAR_POSITIONAL for p in parameters)
