"""``Process``: what a user derives from, and how one step of it is taken.

The class holds what user code may see and do inside a step. Where the process stands, who owns it and what is
written is the runner's business and the pure machine's.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import SpecError
from ..exit_code import ExitCode, ExitCodesNamespace, check_status
from ..logging import ProcessLogger, process_logger, report_to
from ..spec import PortNamespace, ProcessSpec
from ..spec.exposure import exposed_class
from ..store.job_records import JobRecord
from ..store.records import INTENTS
from .attributes import AttributeDict, FrozenAttributes, plain, thawed
from .builder import ProcessBuilder, make_builder
from .machine import Ending

if TYPE_CHECKING:
    from ..node import ProcessNode
    from .visit import Host, Visit

__all__ = ['Process', 'StepResult']

#: Types of values that can always be stored and never change.
_IMMUTABLE = frozenset({int, float, bool, str, bytes, type(None)})

SUCCESS = ExitCode()


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended, with what the row needs to know of it.

    :ivar exit_code: for a process that finishes.
    :ivar awaiting: the pids that a process which goes to wait waits for.
    :ivar next_step: a name for people, such as the next step's; ``None`` if it hangs on a condition.
    :ivar job: the job that a process which goes to wait waits for.
    """

    ending: Ending
    exit_code: ExitCode = SUCCESS
    awaiting: tuple[int, ...] = ()
    next_step: str | None = None
    job: JobRecord | None = None


class _ExitCodes:
    """The exit codes that the spec declares; of a process and of its class, so that a parent can ask for them."""

    def __get__(self, process: Process | None, process_class: type[Process]) -> ExitCodesNamespace:
        return process_class.spec().exit_codes


class Process:
    """A durable unit of work with declared inputs and outputs; it ends ``finished``, ``excepted`` or ``killed``.

    Derive from it, declare the ports in :meth:`define` and the work in :meth:`run`. Instances are made by the
    engine; start one with :func:`treadle.engine.run` or :func:`treadle.engine.submit`.
    """

    spec_class: ClassVar[type[ProcessSpec]] = ProcessSpec
    exit_codes = _ExitCodes()

    def __init__(self, *, node: ProcessNode, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._node = node
        self._inputs = _namespace_view(inputs, self.spec().inputs, f'inputs of {node.process_label}')
        self._outputs: dict[str, Any] = dict(outputs)
        self._outputs_changed = False
        self._visit: Visit | None = None

    # -- what a subclass declares ----------------------------------------------------------------------

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Declare inputs, outputs and exit codes on ``spec``; call ``super().define(spec)`` first."""

    @classmethod
    def spec(cls) -> ProcessSpec:
        """The specification of this class: made once, unchangeable afterwards.

        :raises SpecError: :meth:`define` contradicts itself.
        """
        spec: ProcessSpec | None = cls.__dict__.get('_spec')
        if spec is None:
            spec = cls.spec_class(process_class=cls)
            cls.define(spec)
            cls._complete_spec(spec)
            spec.seal()
            cls._spec = spec
        return spec

    @classmethod
    def get_builder(cls) -> ProcessBuilder:
        """A builder: inputs are set one by one and checked at once; ``run`` and ``submit`` take it as it is."""
        return make_builder(cls, cls.spec().inputs, cls.__name__)

    _spec: ClassVar[ProcessSpec]

    @classmethod
    def _complete_spec(cls, spec: ProcessSpec) -> None:
        """Check what only the finished ``define`` shows."""
        if cls.run is Process.run:
            raise SpecError(
                f'{cls.__name__} does nothing: override run(), or derive from WorkChain and give an outline'
            )

    @classmethod
    def _split_metadata(cls, metadata: Any, values: dict[str, Any]) -> Any:
        """Take out of the metadata what is an input of such processes; returns the rest."""
        return metadata

    @classmethod
    def _check_inputs(cls, inputs: Mapping[str, Any]) -> None:
        """Refuse complete inputs that do not go together, at the call that gives them.

        :raises ValidationError: says which.
        """

    def run(self) -> Any:
        """The work of a process that is not a work chain, as one step; it may be written as ``async def``.

        :returns: ``None`` or 0 for success, else a non-zero exit status or an :class:`ExitCode`.
        """
        raise NotImplementedError(f'{type(self).__name__} has no run()')

    # -- what user code sees inside a step --------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process's number in the store."""
        return self._node.pid

    @property
    def uuid(self) -> str:
        """The process's universally unique id."""
        return self._node.uuid

    @property
    def node(self) -> ProcessNode:
        """The handle that callers see."""
        return self._node

    @property
    def inputs(self) -> FrozenAttributes:
        """The inputs: decoded copies, with defaults filled in, readable as attributes."""
        return self._inputs

    @property
    def outputs(self) -> FrozenAttributes:
        """The outputs so far."""
        return FrozenAttributes(self._outputs, f'outputs of {self._node.process_label}')

    @property
    def logger(self) -> ProcessLogger:
        """A logger whose records also go into the process's log stream."""
        return process_logger(self._node.process_label, self._node.pid)

    def out(self, name: str, value: Any) -> None:
        """Set an output; it becomes visible when the step is committed.

        :param name: the port's name, with dots for namespaces.
        The output is the value as it is now: later changes to the object do not count.

        :raises ValidationError: no such output is declared, or the value does not fit it.
        :raises UnstorableValue: the value cannot be written as data.
        """
        self.spec().check_output(name, value)
        if type(value) not in _IMMUTABLE:
            codec = self._here().host.codec
            value = plain(codec.decode(codec.encode(value, f'outputs.{name}')))
        *namespaces, last = name.split('.')
        there = self._outputs
        for namespace in namespaces:
            there = there.setdefault(namespace, {})
        there[last] = value
        self._outputs_changed = True
        visit = self._visit
        if visit is not None and visit.host.hears_outputs:
            visit.emitted.append((name, self.spec().is_dynamic_output(name)))

    def out_many(self, outputs: Mapping[str, Any]) -> None:
        """Set several outputs."""
        for name, value in outputs.items():
            self.out(name, value)

    def report(self, message: str, *args: Any) -> None:
        """Add a line to the process's log stream, %-formatted with ``args``, whatever the levels of loggers are."""
        report_to(self._here(), self.logger, message, args)

    def submit(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> ProcessNode:
        """Start a child; it exists once this step is committed, and a step that raises leaves none.

        :param process: a process class or process function.
        :param inputs: its inputs as a mapping; keyword arguments add to them.
        :returns: the child's node, to be handed to ``ToContext`` or ``to_context``.
        :raises ValidationError: the inputs do not fit.
        """
        visit = self._here()
        return visit.host.submit_child(visit, process, inputs, kwargs)

    def exposed_inputs(
        self, process: Any, namespace: str | None = None, agglomerate: bool = True
    ) -> AttributeDict:
        """The inputs that stand for those of another process, as ``spec.expose_inputs`` has taken them over.

        They are copies: a step may change them, and hand them to :meth:`submit`.

        :param process: the process class or process function.
        :param namespace: where its inputs were put.
        :param agglomerate: take those exposed in the namespaces around it too; the innermost value counts.
        :raises ValueError: none of that process's inputs were exposed there.
        """
        exposed = AttributeDict()
        places = self.spec().exposed_inputs.places(exposed_class(process), namespace, agglomerate=agglomerate)
        for path, names in places:
            values: Any = self._inputs
            for part in path.split('.') if path else ():
                values = values.get(part) or {}
            exposed.update({name: thawed(values[name]) for name in names if name in values})
        return exposed

    def exposed_outputs(
        self, node: ProcessNode, process: Any, namespace: str | None = None, agglomerate: bool = True
    ) -> AttributeDict:
        """The outputs of a child under the names that ``spec.expose_outputs`` has given them, for :meth:`out_many`.

        :param node: the child.
        :param process: its class or process function.
        :param namespace: where its outputs were put; it becomes part of the names.
        :param agglomerate: take those exposed in the namespaces around it too; each output counts once, innermost.
        :raises ValueError: none of that process's outputs were exposed there.
        """
        outputs = node.outputs
        places = self.spec().exposed_outputs.places(exposed_class(process), namespace, agglomerate=agglomerate)
        where = {name: path for path, names in places for name in names if name in outputs}
        return AttributeDict(
            {f'{path}.{name}' if path else name: thawed(outputs[name]) for name, path in where.items()}
        )

    def pause(self, message: str | None = None) -> None:
        """Pause this process and its descendants when this step is committed; :meth:`Engine.play` lets it go on.

        It does nothing in a step after which the process has ended.

        :param message: the reason, for the process's log stream.
        """
        visit = self._here()
        visit.pauses = True
        text = 'paused itself' if message is None else f'paused itself: {message}'
        visit.record(logging.INFO, INTENTS, text)

    # -- for the runner ----------------------------------------------------------------------------------

    def _here(self) -> Visit:
        if self._visit is None:
            raise RuntimeError(f'process {self.pid} is not in a step; this can only be called from one')
        return self._visit

    def _restore(self, checkpoint: Any) -> None:
        """Go back to where a checkpoint was taken; a plain process has none."""

    def _save(self) -> Any:
        """What :meth:`_restore` needs, or ``None``."""
        return None

    def _starts_async(self) -> bool:
        """Whether the next step is known, without running user code, to be a coroutine function."""
        return inspect.iscoroutinefunction(self.run)

    def _read_ahead(self, host: Host) -> None:
        """Read what the next step needs from the store; it may be called again before the step is begun."""

    def _begin_step(self) -> StepResult | Awaitable[Any]:
        """Take the next step; a step written as a coroutine function is returned, to be awaited on a loop."""
        returned = self.run()
        return returned if inspect.isawaitable(returned) else self._end_step(returned)

    def _end_step(self, returned: Any) -> StepResult:
        """Make a result of what the step returned."""
        return self._finish(returned)

    def _finish(self, returned: Any) -> StepResult:
        exit_code = as_exit_code(type(self).__name__, returned)
        if exit_code.status == 0:
            problem = self.spec().check_outputs(self._outputs)
            if problem is not None:
                code = 'ERROR_MISSING_OUTPUT' if self.spec().missing_outputs(self._outputs) else 'ERROR_INVALID_OUTPUT'
                exit_code = ExitCode(self.exit_codes[code].status, problem)
        return StepResult(Ending.FINISH, exit_code)


def as_exit_code(label: str, returned: Any) -> ExitCode:
    if returned is None:
        return SUCCESS
    if isinstance(returned, int) and not isinstance(returned, bool):
        returned = ExitCode(returned)
    if isinstance(returned, ExitCode):
        check_status(f'a step of {label} returned {returned!r}', returned.status)
        return returned
    raise TypeError(
        f'a step of {label} returned {returned!r}; return None, an int, an ExitCode or (in a work chain) ToContext'
    )


def _namespace_view(values: Mapping[str, Any], namespace: PortNamespace, owner: str) -> FrozenAttributes:
    """Inputs as attributes, nested wherever the spec has a namespace; plain dictionaries stay what they are."""
    view = {
        name: _namespace_view(value, port, f'{owner}: {name}')
        if isinstance(port := namespace.get(name), PortNamespace) and isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
    return FrozenAttributes(view, owner)

