"""``BaseRestartWorkChain``: run a process again and again, with what handlers have changed, until it succeeds.

The vocabulary and the rules are those of ``aiida.engine``. All it remembers is in ``ctx``, so it survives a crash.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import SpecError
from ..exit_code import ExitCode
from ..spec import ProcessSpec
from ..spec.outline import while_
from .functions import process_class_of
from .handlers import ProcessHandler, ProcessHandlerReport
from .process import Process
from .workchain import ToContext, WorkChain, append_

if TYPE_CHECKING:
    from ..node import ProcessNode

__all__ = ['BaseRestartWorkChain']

ABORT, PAUSE, RESTART_ONCE, RESTART_AND_PAUSE = ACTIONS = (
    'abort',
    'pause',
    'restart_once',
    'restart_and_pause',
)


class BaseRestartWorkChain(WorkChain):
    """Runs a process until it has succeeded and no handler objects, or until that is hopeless.

    Derive from it, set ``_process_class``, and have :meth:`setup` put the child's inputs into ``self.ctx.inputs``.
    Methods decorated with :func:`process_handler` look at each child that has ended; they may change
    ``self.ctx.inputs`` and return a :class:`ProcessHandlerReport`:

    * A report whose exit code is not 0 ends the work chain with that code.
    * Any other report means that the child, well ended or failed, is run again.
    * No report for a child that ended well: the work is done.
    * No report for one that failed: an unhandled failure; see the input ``on_unhandled_failure``.

    The outline is ``setup``, then ``run_process`` and ``inspect_process`` while ``should_run_process``, then
    ``results``; a subclass may give another with these steps and its own.

    What it keeps in ``ctx``: ``inputs``, ``children``, ``iteration``, ``is_finished``, ``unhandled_failure``,
    ``process_name``, ``handler_overrides``, and ``considered_handlers``, which is for each child the names of the
    handlers that were called with what they reported.
    """

    #: The process class or process function to run.
    _process_class: ClassVar[Any] = None

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Declare the inputs, the exit codes and the outline."""
        super().define(spec)
        spec.input(
            'max_iterations',
            valid_type=int,
            default=5,
            validator=_check_iterations,
            help='how often the process is run at most',
        )
        spec.input(
            'handler_overrides',
            valid_type=dict,
            required=False,
            validator=functools.partial(_check_overrides, cls),
            help="other settings for handlers, by name: {'more_steps': {'enabled': False, 'priority': 20}}",
        )
        spec.input(
            'on_unhandled_failure',
            valid_type=str,
            required=False,
            validator=_check_action,
            help=f'what to do when the process failed and no handler knew why: {", ".join(ACTIONS)}',
        )
        spec.input(
            'pause_on_max_iterations',
            valid_type=bool,
            default=False,
            help='pause, rather than end, after max_iterations; played, it has as many again',
        )
        spec.exit_code(301, 'ERROR_SUB_PROCESS_EXCEPTED', message='The process that it runs excepted.')
        spec.exit_code(302, 'ERROR_SUB_PROCESS_KILLED', message='The process that it runs was killed.')
        spec.exit_code(
            401, 'ERROR_MAXIMUM_ITERATIONS_EXCEEDED', message='The process was run as often as allowed.'
        )
        spec.exit_code(402, 'ERROR_UNHANDLED_FAILURE', message='The process failed, and no handler knew why.')
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
        )

    @classmethod
    def _complete_spec(cls, spec: ProcessSpec) -> None:
        super()._complete_spec(spec)
        if cls is not BaseRestartWorkChain:
            cls._process_class_of_it()

    @classmethod
    def _process_class_of_it(cls) -> type[Process]:
        try:
            return process_class_of(cls._process_class)
        except TypeError as error:
            raise SpecError(
                f'{cls.__name__}: set _process_class to the process that it shall run: {error}'
            ) from None

    @property
    def process_class(self) -> type[Process]:
        """The class of the process that it runs.

        :raises SpecError: none was given.
        """
        return self._process_class_of_it()

    # -- the steps -----------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Begin; a subclass extends it with what makes ``self.ctx.inputs``."""
        self.ctx.process_name = self.process_class.__name__
        self.ctx.handler_overrides = dict(self.inputs.get('handler_overrides') or {})
        self.ctx.unhandled_failure = False
        self.ctx.is_finished = False
        self.ctx.iteration = 0
        self.ctx.considered_handlers = []

    def should_run_process(self) -> bool:
        """Whether the work is not done yet."""
        return not self.ctx.is_finished

    def run_process(self) -> ToContext:
        """Start the process with ``self.ctx.inputs``; where no label is given, the child's counts the iterations.

        :raises AttributeError: there are no inputs.
        """
        if 'inputs' not in self.ctx:
            raise AttributeError(
                f'{type(self).__name__} has no inputs for {self.ctx.process_name}: put them into self.ctx.inputs in '
                f'setup(), or in a step before run_process()'
            )
        self.ctx.iteration += 1
        inputs = dict(self.ctx.inputs)
        inputs['metadata'] = {
            'label': f'iteration_{self.ctx.iteration:02d}',
            **(inputs.get('metadata') or {}),
        }
        node = self.submit(self._process_class, inputs)
        self.ctx.considered_handlers.append([])
        self.report('%s <%d>: started, iteration %d', self.ctx.process_name, node.pid, self.ctx.iteration)
        return ToContext(children=append_(node))

    def inspect_process(self) -> ExitCode | None:
        """Look at the child that has ended, and call the handlers; what follows stands at the class."""
        node = self._last_child()
        if node.is_excepted:
            return self.exit_codes.ERROR_SUB_PROCESS_EXCEPTED
        if node.is_killed:
            return self.exit_codes.ERROR_SUB_PROCESS_KILLED
        report = self._call_handlers(node)
        if report is None and node.is_failed:
            return self._on_unhandled_failure(node)
        self.ctx.unhandled_failure = False
        if report is None:
            self.ctx.is_finished = True
            return None
        ended = 'failed' if node.is_failed else 'ended well'
        if report.exit_code.status != 0:
            self._tell(node, f'{ended}, but a handler found a problem that cannot be solved')
            return report.exit_code
        if self.ctx.is_finished:  # a handler has said so
            return None
        if self._is_last_iteration():
            return self._out_of_iterations()
        self._tell(node, f'{ended}, but a handler wants it to be run again')
        return None

    def results(self) -> ExitCode | None:
        """Hand on the outputs of the last child; a handler that sets ``ctx.is_finished`` may call it too."""
        node = self._last_child()
        self.report('done after %d iteration(s)', self.ctx.iteration)
        outputs = self.get_outputs(node)
        for name, port in self.spec().outputs.items():
            if name in outputs:
                if name not in self.outputs:
                    self.out(name, outputs[name])
            elif port.required and name not in self.outputs and not port.is_namespace:
                self._tell(node, f'has no output {name!r}, which is required; was another class exposed?')
        return None

    # -- what a subclass may refine --------------------------------------------------------------------------

    def get_outputs(self, node: ProcessNode) -> Mapping[str, Any]:
        """The outputs for :meth:`results` to hand on: those of the last child that are exposed at the top level."""
        if not self.spec().exposed_outputs.has(self.process_class):
            return {}
        return self.exposed_outputs(node, self.process_class)

    @classmethod
    def is_process_handler(cls, name: str) -> bool:
        """Whether the class has a handler of this name."""
        return isinstance(inspect.getattr_static(cls, name, None), ProcessHandler)

    @classmethod
    def get_process_handlers(cls) -> list[ProcessHandler]:
        """All handlers of the class by name, those that are not enabled included."""
        found = (inspect.getattr_static(cls, name, None) for name in sorted(dir(cls)))
        return [each for each in found if isinstance(each, ProcessHandler)]

    def get_process_handlers_by_priority(self) -> list[tuple[int, ProcessHandler]]:
        """The handlers to call with their priorities, first one first; ``handler_overrides`` are taken into account."""
        handlers = []
        for handler in self.get_process_handlers():
            override = self.ctx.handler_overrides.get(handler.__name__, {})
            if override.get('enabled', handler.enabled):
                handlers.append((override.get('priority', handler.priority), handler))
        return sorted(handlers, key=lambda each: -each[0])

    # -- helpers -------------------------------------------------------------------------------------------

    def _last_child(self) -> ProcessNode:
        node: ProcessNode = self.ctx.children[-1]
        return node

    def _tell(self, node: ProcessNode, what: str) -> None:
        self.report('%s <%d>: %s', self.ctx.process_name, node.pid, what)

    def _call_handlers(self, node: ProcessNode) -> ProcessHandlerReport | None:
        """The last report, which is the one that counts."""
        last = None
        for _, handler in self.get_process_handlers_by_priority():
            report = handler(self, node)
            told = (
                None
                if report is None
                else {'do_break': report.do_break, 'exit_status': report.exit_code.status}
            )
            self.ctx.considered_handlers[-1].append([handler.__name__, told])
            if report is not None:
                last = report
                if report.do_break:
                    break
        return last

    def _on_unhandled_failure(self, node: ProcessNode) -> ExitCode | None:
        action = self.inputs.get('on_unhandled_failure') or ABORT
        what = f'failed with exit status {node.exit_status}, which no handler knew'
        again = self.ctx.unhandled_failure
        if again:
            what = f'{what} for the second time in a row'
        if action == ABORT or (action == RESTART_ONCE and again):
            self._tell(node, what)
            return self.exit_codes.ERROR_UNHANDLED_FAILURE
        if action == PAUSE or again:
            # Whoever plays it has looked at it, and grants a try beyond the last one.
            self.ctx.unhandled_failure = False
            self._tell(node, what)
            self._pause_for_inspection()
            return None
        if self._is_last_iteration():
            return self._out_of_iterations()
        self.ctx.unhandled_failure = True
        self._tell(node, f'{what}; it is run once more')
        return None

    def _out_of_iterations(self) -> ExitCode | None:
        if not self.inputs.pause_on_max_iterations:
            return self.exit_codes.ERROR_MAXIMUM_ITERATIONS_EXCEEDED
        self.ctx.iteration = 0
        self.ctx.unhandled_failure = False
        self._pause_for_inspection()
        return None

    def _pause_for_inspection(self) -> None:
        self.report('paused for inspection; `treadle play %d` runs the process again', self.pid)
        self.pause('for inspection')

    def _is_last_iteration(self) -> bool:
        if self.ctx.iteration < self.inputs.max_iterations:
            return False
        self.report('%s was run %d time(s), which is all it may', self.ctx.process_name, self.ctx.iteration)
        return True


def _check_iterations(value: int) -> str | None:
    return None if value >= 1 else f'must be at least 1, not {value}'


def _check_action(value: str | None) -> str | None:
    return (
        None if value is None or value in ACTIONS else f'must be one of {", ".join(ACTIONS)}, not {value!r}'
    )


def _check_overrides(
    process_class: type[BaseRestartWorkChain], overrides: Mapping[Any, Any] | None
) -> str | None:
    for name, override in (overrides or {}).items():
        if not isinstance(name, str) or not process_class.is_process_handler(name):
            there = ', '.join(handler.__name__ for handler in process_class.get_process_handlers())
            return f'{name!r} is no process handler of {process_class.__name__}; there is {there or "none"}'
        if not isinstance(override, Mapping):
            return f'the value for {name} must be a dictionary such as {{"enabled": False}}, not {override!r}'
        unknown = sorted(map(str, override.keys() - {'enabled', 'priority'}))
        if unknown:
            return f'{name}: {unknown[0]!r} is unknown; there is enabled and priority'
        if not isinstance(override.get('enabled', True), bool):
            return f'{name}: enabled must be True or False'
        priority = override.get('priority', 0)
        if not isinstance(priority, int) or isinstance(priority, bool):
            return f'{name}: priority must be an int'
    return None
