"""``calcfunction`` and ``workfunction``: plain functions as durable processes.

Called, a process function runs in the calling thread, with that thread's locals, and returns what the function
returns; its inputs, outputs and fate are in the store. Submitted, it is a process with one step. A calcfunction
computes; a workfunction calls other processes. Both are kept alike; the two names say what the reader may expect.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

from ..errors import SpecError
from ..exit_code import ExitCode
from ..node import ResultAndNode, ResultAndPid
from ..spec import ProcessSpec
from ..tracebacks import SHORT_TRACEBACK
from .builder import ProcessBuilder, make_builder
from .process import Process
from .visit import Host, current_visit

__all__ = [
    'FunctionProcess',
    'ProcessFunction',
    'as_outputs',
    'as_returned',
    'calcfunction',
    'process_class_of',
    'workfunction',
]

P = ParamSpec('P')
R = TypeVar('R')

#: The name of the single output of a function that does not return a dictionary.
RESULT = 'result'

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
#: A field such as ``:param int steps: how many``, which ends at the next field or at an empty line.
_PARAM_FIELD = re.compile(r'^:param (?:[^:\n]* )?(\w+):(.*?)(?=^:|^\s*$|\Z)', re.MULTILINE | re.DOTALL)


class FunctionProcess(Process):
    """The process of one function; a subclass is made for each decorated function."""

    function: ClassVar[Callable[..., Any]]

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Take the ports from the function's signature."""
        super().define(spec)
        _declare_ports(spec, cls.function)

    def run(self) -> Any:
        """Call the function with the inputs and take what it returns as outputs."""
        returned = self.call()
        # Only None is stored as no outputs at all, so that the caller gets {} where the function gave that.
        self._outputs_changed = returned is not None
        if isinstance(returned, ExitCode):
            return returned
        self.out_many(as_outputs(returned))
        return None

    def call(self) -> Any:
        """Call the function with the inputs."""
        function = type(self).function
        args, kwargs = [], dict(self.inputs)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(kwargs.pop(parameter.name))
            elif parameter.kind in _POSITIONAL:
                args.append(kwargs.pop(parameter.name))
        return function(*args, **kwargs)


class ProcessFunction(Generic[P, R]):
    """A decorated function; call it, submit it, or ask for its spec.

    :ivar process_class: the :class:`FunctionProcess` made for it.
    """

    is_process_function = True

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.process_class = _make_class(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as a process.

        ``metadata={'label': ..., 'key': ...}`` may be added to the keyword arguments.

        :raises ValidationError: the arguments do not fit.
        :raises Exception: what the function raised.
        """
        with SHORT_TRACEBACK:
            return self.run_get_node(*args, **kwargs)[0]

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same as a call."""
        with SHORT_TRACEBACK:
            return self.run_get_node(*args, **kwargs)[0]

    def run_get_node(self, *args: P.args, **kwargs: P.kwargs) -> ResultAndNode[R]:
        """Like a call, and return the process's node too."""
        with SHORT_TRACEBACK:
            returned, node = _host().call_function(self, args, kwargs)
        return ResultAndNode(returned, node)

    def run_get_pid(self, *args: P.args, **kwargs: P.kwargs) -> ResultAndPid[R]:
        """Like a call, and return the process's number too."""
        with SHORT_TRACEBACK:
            returned, node = self.run_get_node(*args, **kwargs)
        return ResultAndPid(returned, node.pid)

    def spec(self) -> ProcessSpec:
        """The specification that follows from the signature."""
        return self.process_class.spec()

    def get_builder(self) -> ProcessBuilder:
        """A builder, see :meth:`Process.get_builder`."""
        return make_builder(self, self.spec().inputs, self.__name__)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs that a call with these arguments gives."""
        return _bind(self._function, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> ProcessFunction[P, R]:
        # Kept in a class body it is still the function, not a method: a process knows no ``self``.
        return self

    def __repr__(self) -> str:
        return f'<process function {self.__module__}.{self.__qualname__}>'

    __name__: str
    __qualname__: str


def calcfunction(function: Callable[P, R]) -> ProcessFunction[P, R]:
    """Make a function a process that computes outputs from inputs.

    Each parameter is an input: its annotation, if it is a type, is the port's ``valid_type``, its default the
    port's default, its ``:param name:`` in the docstring the port's help. ``*args`` is one input, a tuple;
    ``**kwargs`` makes the inputs dynamic. A returned dictionary whose keys are names gives an output for each key,
    and dots in a key nest; any other value is the output ``result``. The call returns the outputs, or the one
    value; nothing but an exit code gives an empty dictionary.

    :raises SpecError: the function cannot be a process, such as one defined with ``async def``.
    """
    return ProcessFunction(function)


def workfunction(function: Callable[P, R]) -> ProcessFunction[P, R]:
    """Make a function a process that calls other processes; see :func:`calcfunction`."""
    return ProcessFunction(function)


def process_class_of(target: Any) -> type[Process]:
    """The class of a process class or process function.

    :raises TypeError: it is neither; names it and the remedy.
    """
    if isinstance(target, ProcessFunction):
        return target.process_class
    if isinstance(target, type) and issubclass(target, Process):
        return target
    what = f'an instance of {type(target).__name__}' if isinstance(target, Process) else repr(target)
    raise TypeError(
        f'{what} is not a process; give a class derived from Process or WorkChain, or a function decorated with '
        f'@calcfunction or @workfunction'
    )


def as_outputs(returned: Any) -> dict[str, Any]:
    """What a function returned, as outputs."""
    if returned is None:
        return {}
    if isinstance(returned, Mapping) and all(isinstance(key, str) and _is_path(key) for key in returned):
        return dict(returned)
    return {RESULT: returned}


def as_returned(outputs: Mapping[str, Any] | None) -> Any:
    """What calling a function returns, from its outputs; ``None`` for one that had none to give."""
    if outputs is None:
        return None
    return outputs[RESULT] if set(outputs) == {RESULT} else dict(outputs)


def _is_path(name: str) -> bool:
    return all(part.isidentifier() for part in name.split('.'))


_default_host: Callable[[], Host] | None = None


def set_default_host(get: Callable[[], Host]) -> None:
    """Say which engine a function uses that is called from plain code."""
    global _default_host
    _default_host = get


def _host() -> Host:
    visit = current_visit()
    if visit is not None:
        return visit.host
    if _default_host is None:
        raise RuntimeError('import treadle.engine before calling a process function')
    return _default_host()


def _bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    inputs = dict(zip(names, args, strict=False))
    label = function.__name__
    if len(args) > len(names):
        rest = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL]
        if not rest:
            raise TypeError(f'{label}() takes {len(names)} positional argument(s), but {len(args)} were given')
        inputs[rest[0]] = args[len(names):]
    for name in kwargs:
        if name in inputs:
            raise TypeError(f'{label}() got two values for the argument {name!r}')
    return {**inputs, **kwargs}


def _make_class(function: Callable[..., Any]) -> type[FunctionProcess]:
    if not callable(function) or isinstance(function, type):
        raise SpecError(f'{function!r} is not a function; decorate a function defined with def')
    name = function.__name__
    if inspect.iscoroutinefunction(function):
        raise SpecError(f'{name}() is a coroutine function; process functions run in the calling thread, use def')
    body = {
        'function': staticmethod(function),
        '__module__': function.__module__,
        '__qualname__': function.__qualname__,
        '__doc__': function.__doc__,
    }
    made: type[FunctionProcess] = types.new_class(name, (FunctionProcess,), exec_body=lambda place: place.update(body))
    made.spec()  # a mistake in the signature shows where the function is defined
    return made


def _declare_ports(spec: ProcessSpec, function: Callable[..., Any]) -> None:
    hints = _hints(function)
    texts = _help_texts(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            spec.inputs.dynamic = True
            continue
        options: dict[str, Any] = {'help': texts.get(parameter.name)}
        if parameter.kind is parameter.VAR_POSITIONAL:
            options.update(valid_type=(tuple, list), default=())
        else:
            if parameter.name in hints:
                kind = hints[parameter.name]
                options['valid_type'] = (kind, None) if parameter.default is None else kind
            if parameter.default is not parameter.empty:
                options['default'] = parameter.default
        spec.input(parameter.name, **options)
    spec.outputs.dynamic = True


def _help_texts(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's ``:param name:`` fields say."""
    fields = _PARAM_FIELD.findall(inspect.getdoc(function) or '')
    return {name: ' '.join(text.split()) for name, text in fields}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that are types or unions of types."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation for a type checker only, whose names are not there at run time
        return {}
    hints.pop('return', None)
    return {name: kind for name, hint in hints.items() if (kind := _as_type(hint)) is not None}


def _as_type(hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [_as_type(member) for member in typing.get_args(hint)]
        return None if None in members else tuple(members)
    # The elements of list[int] are not checked, that it is a list is.
    kind = typing.get_origin(hint) or hint
    return kind if isinstance(kind, type) else None
