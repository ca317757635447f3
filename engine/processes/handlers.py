"""``process_handler``: methods of a :class:`~.restart.BaseRestartWorkChain` that look at how its child ended."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

from ..errors import SpecError
from ..exit_code import ExitCode

if TYPE_CHECKING:
    from ..node import ProcessNode

__all__ = ['ProcessHandler', 'ProcessHandlerReport', 'process_handler']


class ProcessHandlerReport(NamedTuple):
    """What a handler returns when the ended child was its business; ``None`` says that it was not.

    :param do_break: no other handler is to look at the child.
    :param exit_code: with a status other than 0 the work chain ends with it, else it goes on and runs the child again.
    """

    do_break: bool = False
    exit_code: ExitCode = ExitCode()


Handle = Callable[[Any, 'ProcessNode'], ProcessHandlerReport | None]


class ProcessHandler:
    """A decorated method; of an instance it is called with the child's node, like any method.

    :ivar priority: handlers of a higher one are called first.
    :ivar enabled: whether it is called unless ``handler_overrides`` says otherwise.
    :ivar exit_codes: it is called only for children that ended with the status of one of them; ``None`` for all.
    """

    def __init__(
        self, function: Handle, *, priority: int, exit_codes: tuple[ExitCode, ...] | None, enabled: bool
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.priority = priority
        self.exit_codes = exit_codes
        self.enabled = enabled

    __name__: str

    def __call__(self, process: Any, node: ProcessNode) -> ProcessHandlerReport | None:
        """Call the method, unless the child's exit status is none of those that it is for.

        :raises TypeError: it returned neither a report nor ``None``.
        """
        if self.exit_codes is not None and node.exit_status not in [code.status for code in self.exit_codes]:
            return None
        returned: Any = self._function(process, node)
        if returned is None:
            return None
        if not isinstance(returned, ProcessHandlerReport) or not isinstance(returned.exit_code, ExitCode):
            raise TypeError(
                f'the handler {self.__name__} of {type(process).__name__} returned {returned!r}; return None or a '
                f'ProcessHandlerReport(do_break, exit_code)'
            )
        return returned

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> types.MethodType: ...
    def __get__(self, instance: object | None, owner: type) -> Self | types.MethodType:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f'<process handler {self.__name__}, priority {self.priority}>'


@overload
def process_handler(wrapped: Handle, /) -> ProcessHandler: ...
@overload
def process_handler(
    *, priority: int = ..., exit_codes: ExitCode | Sequence[ExitCode] | None = ..., enabled: bool = ...
) -> Callable[[Handle], ProcessHandler]: ...
def process_handler(
    wrapped: Handle | None = None,
    /,
    *,
    priority: int = 0,
    exit_codes: ExitCode | Sequence[ExitCode] | None = None,
    enabled: bool = True,
) -> ProcessHandler | Callable[[Handle], ProcessHandler]:
    """Make a method of a :class:`~.restart.BaseRestartWorkChain` one of its handlers.

    The method takes the ended child's node and returns ``None``, when there is nothing for it to do, or a
    :class:`ProcessHandlerReport`. ::

        @process_handler(priority=10, exit_codes=Relax.exit_codes.ERROR_NO_CONVERGENCE)
        def more_steps(self, node):
            self.ctx.inputs.steps *= 2
            return ProcessHandlerReport(do_break=True)

    :param priority: handlers of a higher one are called first; among equals, in the order of their names.
    :param exit_codes: call it only for children that ended with one of these.
    :param enabled: call it at all; ``handler_overrides`` of a single process may say otherwise.
    :raises SpecError: an argument is not what it must be, or the method does not take a node alone.
    """
    if wrapped is None:
        return functools.partial(_decorate, priority=priority, exit_codes=exit_codes, enabled=enabled)
    return _decorate(wrapped, priority=priority, exit_codes=exit_codes, enabled=enabled)


def _decorate(function: Any, *, priority: Any, exit_codes: Any, enabled: Any) -> ProcessHandler:
    if not isinstance(function, types.FunctionType):
        raise SpecError(
            f'@process_handler decorates a method, not {function!r}; give its options by name, as in '
            f'@process_handler(priority=10)'
        )
    name = function.__name__
    if inspect.iscoroutinefunction(function):
        raise SpecError(f'the handler {name} is a coroutine function; define it with def')
    parameters = inspect.signature(function).parameters.values()
    if len(parameters) != 2 or any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in parameters):
        raise SpecError(f'the handler {name} must be defined as {name}(self, node)')
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise SpecError(f'the handler {name}: priority must be an int, not {priority!r}')
    if not isinstance(enabled, bool):
        raise SpecError(f'the handler {name}: enabled must be True or False, not {enabled!r}')
    if isinstance(exit_codes, ExitCode):
        exit_codes = (exit_codes,)
    if exit_codes is not None:
        if not isinstance(exit_codes, (list, tuple)) or not all(
            isinstance(code, ExitCode) for code in exit_codes
        ):
            raise SpecError(
                f'the handler {name}: exit_codes must be an ExitCode or a list of them, not {exit_codes!r}'
            )
        exit_codes = tuple(exit_codes)
    return ProcessHandler(function, priority=priority, exit_codes=exit_codes, enabled=enabled)
