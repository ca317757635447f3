"""What a process class declares in ``define()``, and the checks that an engine makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import SpecError, ValidationError
from ..exit_code import BASE_EXIT_CODES, ExitCode, ExitCodesNamespace
from .checks import Problem, is_name
from .declaration import declaration, digest_of
from .exposure import Exposures, exposed_class
from .outline import Command, Outline, compile_outline
from .plan import Plan, report
from .ports import SEPARATOR, InputPort, OutputPort, Port, PortNamespace

#: Inputs of this name belong to the engine: label, description, key and what else is no input proper.
METADATA = 'metadata'


class ProcessSpec:
    """The inputs, outputs, exit codes and the outline of a process class.

    A class' ``define()`` fills in a new spec; then it is sealed. A later definition of the same name
    replaces an earlier one, so that a subclass can refine what ``super().define(spec)`` declared.

    :param process_class: the class whose spec it is; names the steps' owner and is named in messages.
    :param label: the name in messages where there is no class, as for a process function.
    """

    def __init__(self, *, process_class: type | None = None, label: str | None = None) -> None:
        self.process_class = process_class
        self.label = label or (process_class.__name__ if process_class is not None else 'Process')
        self._inputs = PortNamespace('inputs')
        self._outputs = PortNamespace('outputs')
        self._exposed_inputs = Exposures(self._inputs, ignored=METADATA)
        self._exposed_outputs = Exposures(self._outputs)
        self._exit_codes = BASE_EXIT_CODES
        self._outline: Outline | None = None
        self._sealed = False
        self._input_plan: Plan | None = None
        self._output_plan: Plan | None = None
        #: What is declared, as lines of text, and their digest; empty until the spec is sealed.
        self.declaration = ''
        self.digest = ''

    # -- what define() calls ---------------------------------------------------------------------

    def input(self, name: str, **kwargs: Any) -> None:
        """Declare an input; ``kwargs`` are those of :class:`InputPort`. Dots nest: ``'options.basis'``.

        :raises SpecError: the declaration contradicts itself, or the spec is sealed.
        """
        self._add(self._inputs, InputPort, name, kwargs)

    def input_namespace(self, name: str, **kwargs: Any) -> None:
        """Declare a namespace of inputs; ``kwargs`` are those of :class:`PortNamespace`."""
        self._add(self._inputs, PortNamespace, name, kwargs)

    def output(self, name: str, **kwargs: Any) -> None:
        """Declare an output; ``kwargs`` are those of :class:`OutputPort`."""
        self._add(self._outputs, OutputPort, name, kwargs)

    def output_namespace(self, name: str, **kwargs: Any) -> None:
        """Declare a namespace of outputs; ``kwargs`` are those of :class:`PortNamespace`."""
        self._add(self._outputs, PortNamespace, name, kwargs)

    def expose_inputs(
        self,
        process: Any,
        namespace: str | None = None,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        namespace_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over the inputs of another process, as copies; an input of the same name is replaced.

        The namespace takes over what the other's inputs are as a whole too: their validator, whether they are dynamic
        and so on.

        :param process: a process class or process function.
        :param namespace: where to put them, with dots for nested namespaces; at the top level by default.
        :param exclude: names to leave out, with dots for what is in a namespace.
        :param include: the only names to take; one of a namespace takes all in it. Not together with ``exclude``.
        :param namespace_options: what the namespace shall be instead, such as ``{'required': False,
            'populate_defaults': False}``; the keywords of :class:`PortNamespace`.
        :raises SpecError: ``process`` is none, a name or option is unknown, or the spec is sealed.
        """
        self._expose(self._exposed_inputs, process, namespace, exclude, include, namespace_options)

    def expose_outputs(
        self,
        process: Any,
        namespace: str | None = None,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        namespace_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over the outputs of another process, as :meth:`expose_inputs` does with inputs."""
        self._expose(self._exposed_outputs, process, namespace, exclude, include, namespace_options)

    def exit_code(self, status: int, label: str, message: str, invalidates_cache: bool = False) -> None:
        """Declare an exit code; one with the same label is replaced.

        :raises SpecError: the status is no int >= 0, the label no upper-case identifier, the message no str.
        """
        self._refuse_if_sealed(f'exit code {label}')
        try:
            self._exit_codes = self._exit_codes.with_code(label, ExitCode(status, message, invalidates_cache))
        except SpecError as exc:
            raise SpecError(f'{self.label}: {exc}') from None

    def outline(self, *steps: Command) -> None:
        """Declare the steps of a work chain; replaces the outline of a base class.

        :raises SpecError: the outline is no outline; names the item and its place.
        """
        self._refuse_if_sealed('outline')
        self._outline = compile_outline(self.process_class, *steps)

    def seal(self) -> None:
        """Refuse changes from now on and make ready what every process of the class needs."""
        if self._sealed:
            return
        self._inputs.seal()
        self._outputs.seal()
        self._input_plan = self._inputs.compiled()
        self._output_plan = self._outputs.compiled()
        self.declaration = declaration(self._inputs, self._outputs, self._outline)
        self.digest = digest_of(self.declaration)
        self._sealed = True

    # -- what others read ------------------------------------------------------------------------

    @property
    def sealed(self) -> bool:
        """Whether the spec is complete."""
        return self._sealed

    @property
    def inputs(self) -> PortNamespace:
        """The namespace of the inputs; ``spec.inputs.dynamic = True`` takes any."""
        return self._inputs

    @property
    def outputs(self) -> PortNamespace:
        """The namespace of the outputs."""
        return self._outputs

    @property
    def exposed_inputs(self) -> Exposures:
        """Which inputs were taken over from which processes."""
        return self._exposed_inputs

    @property
    def exposed_outputs(self) -> Exposures:
        """Which outputs were taken over from which processes."""
        return self._exposed_outputs

    @property
    def exit_codes(self) -> ExitCodesNamespace:
        """The exit codes, those of every process included."""
        return self._exit_codes

    @property
    def compiled_outline(self) -> Outline | None:
        """The outline, or ``None`` when there is none."""
        return self._outline

    def describe(self) -> dict[str, Any]:
        """The whole spec as data that JSON can hold."""
        return {
            'label': self.label,
            'inputs': self._inputs.describe(),
            'outputs': self._outputs.describe(),
            'exit_codes': {
                label: {
                    'status': code.status,
                    'message': code.message,
                    'invalidates_cache': code.invalidates_cache,
                }
                for label, code in self._exit_codes.items()
            },
            'outline': None if self._outline is None else self._outline.text.split('\n'),
        }

    def __repr__(self) -> str:
        return f'<{type(self).__name__} of {self.label}>'

    # -- what an engine calls for each process ---------------------------------------------------

    def complete_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a process: those given, checked, with the defaults filled in.

        The caller's mapping is not changed, and the namespaces of the result are new dicts. Values
        themselves are not copied, but for defaults.

        :raises ValidationError: something is unknown, missing or not valid; all problems are listed.
        """
        plan = self._input_plan or self._inputs.compiled()
        problems: list[Problem] = []
        missing: list[Problem] = []
        if not isinstance(given, Mapping):
            raise ValidationError(
                f'{self.label}: the inputs must be a mapping, not {type(given).__qualname__}'
            )
        completed, _ = plan.complete(given, 'inputs', problems, missing)
        if problems or missing:
            raise report(self.label, 'inputs', problems + missing)
        return completed

    def check_output(self, path: str, value: Any) -> None:
        """Check one output, or a mapping for a whole namespace, at the call that gives it.

        :param path: the output's name; dots separate namespaces.
        :raises ValidationError: it is not declared, of a wrong type or refused by its validator.
        """
        if not is_name(path):
            raise ValidationError(f'{self.label}: the name of an output must be a str, not {path!r}')
        parts = path.split(SEPARATOR)
        if '' in parts:
            raise ValidationError(f'{self.label}: {path!r} is no name of an output: a part of it is empty')
        plan = self._output_plan or self._outputs.compiled()
        problems = plan.check_at(parts, value, 'outputs')
        if problems:
            raise report(self.label, 'outputs', problems)

    def is_dynamic_output(self, path: str) -> bool:
        """Whether an output is accepted although no port was declared for it."""
        port: Any = self._outputs
        for part in path.split(SEPARATOR):
            port = port.get(part) if isinstance(port, PortNamespace) else None
        return port is None

    def missing_outputs(self, outputs: Mapping[str, Any]) -> list[str]:
        """The paths of the required outputs that are not in ``outputs``, without a leading ``outputs``."""
        plan = self._output_plan or self._outputs.compiled()
        missing: list[Problem] = []
        plan.complete(outputs, 'outputs', [], missing, fill=False)
        return [each.path.removeprefix('outputs.') for each in missing]

    def check_outputs(self, outputs: Mapping[str, Any]) -> str | None:
        """What is wrong with the outputs as a whole, validators included, or ``None``."""
        plan = self._output_plan or self._outputs.compiled()
        problems: list[Problem] = []
        missing: list[Problem] = []
        plan.complete(outputs, 'outputs', problems, missing, fill=False)
        if not problems and not missing:
            return None
        return str(report(self.label, 'outputs', problems + missing))

    # -- helpers ---------------------------------------------------------------------------------

    def _expose(
        self,
        exposures: Exposures,
        process: Any,
        namespace: str | None,
        exclude: Iterable[str] | None,
        include: Iterable[str] | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        what = 'inputs' if exposures is self._exposed_inputs else 'outputs'
        self._refuse_if_sealed(f'exposed {what}')
        if what == 'inputs' and isinstance(namespace, str) and namespace.split(SEPARATOR)[0] == METADATA:
            raise SpecError(f"{self.label}: inputs cannot be exposed in {METADATA!r}, which is the engine's own")
        try:
            process_class = exposed_class(process)
            if process_class is self.process_class:
                raise SpecError('a process cannot expose its own ports')
            source: PortNamespace = getattr(process.spec(), what)
            exposures.expose(
                process_class, source, namespace=namespace, exclude=exclude, include=include, options=options
            )
        except SpecError as exc:
            raise SpecError(f'{self.label}: expose_{what}: {exc}') from exc

    def _add(self, root: PortNamespace, kind: type[Port], name: str, kwargs: dict[str, Any]) -> None:
        self._refuse_if_sealed(f'{root.name} {name}')
        if not is_name(name):
            raise SpecError(f'{self.label}: the name of a port must be a str, not {name!r}')
        *above, last = name.split(SEPARATOR)
        if root is self._inputs and (above or [last])[0] == METADATA:
            raise SpecError(
                f'{self.label}: no input can be called {METADATA!r}: that name carries the label, '
                'description and key of a process; choose another'
            )
        try:
            namespace = root.create_port_namespace(SEPARATOR.join(above)) if above else root
            namespace[last] = kind(last, **kwargs)
        except SpecError as exc:
            raise SpecError(f'{self.label}: {root.name[:-1]} {name!r}: {exc}') from exc.__cause__
        except TypeError as exc:
            # The usual cause is a keyword that no port takes.
            raise SpecError(f'{self.label}: {root.name[:-1]} {name!r}: {exc}') from exc

    def _refuse_if_sealed(self, what: str) -> None:
        if self._sealed:
            raise SpecError(f'{self.label}: cannot add {what}: the spec is sealed; add it in define()')
