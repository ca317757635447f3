"""The processes of the duel, in a module that both scripts can import."""

from __future__ import annotations

import os
from typing import Any

from treadle.engine import ToContext, WorkChain
from treadle.engine.processes.visit import current_visit

_effects = -1


def open_effects(path: str) -> None:
    """Where :func:`mark` appends."""
    global _effects
    _effects = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def mark(what: str) -> None:
    """One line: OS pid, pid, visit, epoch and what executes."""
    visit = current_visit()
    if visit is None:
        raise RuntimeError(f'{what} executes outside of any process')
    os.write(_effects, f'{os.getpid()} {visit.pid} {visit.number} {visit.fence.epoch} {what}\n'.encode())


class Part(WorkChain):
    """The child of an item."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)
        spec.outline(cls.give)

    def give(self) -> None:
        mark(f'part({self.inputs.x})')
        self.out('y', self.inputs.x + 1)


class Item(WorkChain):
    """A process with a child."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)
        spec.outline(cls.begin, cls.end)

    def begin(self) -> ToContext:
        mark(f'item({self.inputs.x}).begin')
        return ToContext(part=self.submit(Part, x=self.inputs.x))

    def end(self) -> None:
        mark(f'item({self.inputs.x}).end')
        self.out('y', 2 * self.ctx.part.outputs.y)
