"""``WorkChain``: a process whose work is an outline of steps, with a context that outlives crashes.

The vocabulary is that of ``aiida.engine``: ``ctx``, ``ToContext``, ``to_context``, ``append_``, ``assign_``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import CodeChanged, CorruptValue, SpecError
from ..exit_code import ExitCode
from ..node import ProcessNode
from ..spec import ProcessSpec
from ..spec.outline import End, Outline
from .attributes import AttributeDict
from .machine import Ending
from .process import Process, StepResult

if TYPE_CHECKING:
    from .visit import Host

__all__ = ['ToContext', 'WorkChain', 'append_', 'assign_']


class ToContext(dict[str, Any]):
    """Returned from a step: wait for these processes, then put their nodes into ``ctx`` under these names.

    ``ToContext(relaxed=node, scans=append_(other))``
    """


@dataclasses.dataclass(frozen=True, slots=True)
class ContextAction:
    """What happens in ``ctx`` when ``pid`` has ended; made by :func:`assign_` and :func:`append_`."""

    pid: int
    append: bool


def assign_(target: ProcessNode) -> ContextAction:
    """Put the node under the name; what ``ToContext(name=node)`` does by itself."""
    return ContextAction(_awaitable_pid('assign_()', target), append=False)


def append_(target: ProcessNode) -> ContextAction:
    """Append the node to a list under the name, in the order of the ``append_`` calls."""
    return ContextAction(_awaitable_pid('append_()', target), append=True)


class WorkChain(Process):
    """A process made of steps.

    Declare the steps with ``spec.outline(cls.first, while_(cls.more)(cls.again), cls.last)``. After each step the
    context, the outputs and the position in the outline are committed together; a step that is committed never
    runs again.
    """

    def __init__(self, *, node: ProcessNode, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        super().__init__(node=node, inputs=inputs, outputs=outputs)
        self.ctx = AttributeDict()
        self._position = 0
        self._after = 0
        self._awaited: list[tuple[str, int, bool]] = []
        #: Of what is awaited, the nodes, from when the next step is about to begin.
        self._read: dict[int, ProcessNode] = {}
        self._trial: dict[str, Any] | None = None

    @classmethod
    def _complete_spec(cls, spec: ProcessSpec) -> None:
        if spec.compiled_outline is None:
            raise SpecError(f'{cls.__name__} has no outline; give one in define() with spec.outline(cls.first, ...)')

    def to_context(self, **awaited: Any) -> None:
        """Wait for these processes before the next step, then put their nodes into ``ctx``.

        :param awaited: name in the context (with dots for nested names) to node, ``append_(node)`` or
            ``assign_(node)``.
        :raises TypeError: what is to be waited for is no node.
        :raises ValueError: something that is no dictionary, or no list, is in the way of a name.
        """
        actions = [
            (name, target if isinstance(target, ContextAction) else assign_(target))
            for name, target in awaited.items()
        ]
        # Tried on a copy of what is there, so that a name that does not fit is refused here and not after the wait.
        if self._trial is None:
            self._trial = _skeleton(self.ctx)
        for name, action in actions:
            _put(self._trial, name, None, append=action.append)
        self._awaited.extend((name, action.pid, action.append) for name, action in actions)

    # -- for the runner ----------------------------------------------------------------------------------

    @classmethod
    def _outline(cls) -> Outline:
        outline = cls.spec().compiled_outline
        if outline is None:
            raise SpecError(f'{cls.__name__} has no outline; derive from it and give one')
        return outline

    def _save(self) -> Any:
        return {
            'position': self._position,
            'step': self._name_at(self._position),
            'ctx': dict(self.ctx),
            'awaited': self._awaited,
        }

    def _restore(self, checkpoint: Any) -> None:
        if checkpoint is None:
            return
        try:
            position, step = int(checkpoint['position']), str(checkpoint['step'])
            self.ctx = AttributeDict(checkpoint['ctx'])
            self._awaited = [(name, pid, append) for name, pid, append in checkpoint['awaited']]
        except (TypeError, ValueError, KeyError) as error:
            raise CorruptValue(f'the checkpoint is none of a work chain ({type(error).__name__}: {error})') from error
        if not 0 <= position <= len(self._outline().instructions) or self._name_at(position) != step:
            there = self._name_at(position) or 'none'
            raise CodeChanged(
                f'it stands before {step!r}, at position {position} of the outline of {type(self).__name__}, which has '
                f'{there} there now',
                step,
            )
        self._position = position

    def _name_at(self, position: int) -> str:
        instructions = self._outline().instructions
        return str(instructions[position].name) if 0 <= position < len(instructions) else ''

    def _starts_async(self) -> bool:
        if self._awaited:
            return False
        outline = self._outline()
        if self._position >= len(outline.instructions):
            return False
        instruction = outline.instructions[self._position]
        return instruction.op == 'step' and inspect.iscoroutinefunction(getattr(self, instruction.name))

    def _begin_step(self) -> StepResult | Awaitable[Any]:
        self._trial = None
        if self._awaited:
            self._fill_context()
        found = self._outline().next_step(self._position, self._test)
        if isinstance(found, End):
            return self._finish(found.exit_code)
        self._after = found.after
        returned = getattr(self, found.name)()
        if inspect.isawaitable(returned):
            return returned
        return self._end_step(returned)

    def _end_step(self, returned: Any) -> StepResult:
        self._position = self._after
        if isinstance(returned, ToContext):
            self.to_context(**returned)
        elif returned.status if isinstance(returned, ExitCode) else returned:
            return self._finish(returned)
        if self._awaited:
            pids = tuple(dict.fromkeys(pid for _, pid, _ in self._awaited))
            return StepResult(Ending.AWAIT, awaiting=pids, next_step=self._name_at(self._position) or None)
        if self._outline().ends_at(self._position):
            return self._finish(None)
        return StepResult(Ending.PROCEED, next_step=self._name_at(self._position) or None)

    def _test(self, condition: str) -> Any:
        return getattr(self, condition)()

    def _read_ahead(self, host: Host) -> None:
        if self._awaited:
            self._read = {node.pid: node for node in host.nodes([pid for _, pid, _ in self._awaited])}

    def _fill_context(self) -> None:
        nodes, self._read = self._read, {}
        for name, pid, append in self._awaited:
            _put(self.ctx, name, nodes[pid], append=append)
        self._awaited = []


def _put(context: dict[str, Any], name: str, node: ProcessNode | None, *, append: bool) -> None:
    *outer, last = name.split('.')
    if '' in outer or not last:
        raise ValueError(f'{name!r} is no name for the context: a part of it is empty')
    place: Any = context
    for part in outer:
        place = place.setdefault(part, AttributeDict())
        if not isinstance(place, dict):
            raise ValueError(
                f'ctx.{name} cannot be set: {part!r} in it is a {type(place).__name__}, not a dictionary; use '
                f'another name'
            )
    if not append:
        place[last] = node
        return
    there = place.setdefault(last, [])
    if not isinstance(there, list):
        raise ValueError(
            f'ctx.{name} cannot be appended to: it is a {type(there).__name__}, not a list; use another name'
        )
    there.append(node)


def _skeleton(value: Any) -> Any:
    """The dictionaries of a context, copied, with lists emptied and everything else as it is."""
    if isinstance(value, dict):
        return {key: _skeleton(inner) for key, inner in value.items()}
    return [] if isinstance(value, list) else value


def _awaitable_pid(what: str, target: Any) -> int:
    if isinstance(target, ProcessNode):
        return target.pid
    raise TypeError(
        f'{what} and ToContext take the node that self.submit returned, not {target!r} ({type(target).__name__})'
    )
