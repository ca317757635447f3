"""Processes of every kind, which note each step that begins in the file that EFFECTS names."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from treadle.engine import Engine, File, Process, ToContext, WorkChain
from treadle.engine.processes.visit import current_visit

#: Of each large file.
SIZE = 5_000_000


def mark() -> None:
    """One line: pid and visit."""
    visit = current_visit()
    if visit is None:
        raise RuntimeError('no step executes here')
    handle = os.open(os.environ['EFFECTS'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, f'{visit.pid} {visit.number}\n'.encode())
    os.close(handle)


class Part(WorkChain):
    """What an item calls."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.input('gate', valid_type=str, default='')
        spec.output('y', valid_type=int)
        spec.outline(cls.pass_gate, cls.give)

    def pass_gate(self) -> None:
        """Wait until the file is there, if one is named."""
        mark()
        while self.inputs.gate and not os.path.exists(self.inputs.gate):
            threading.Event().wait(0.02)

    def give(self) -> None:
        mark()
        self.out('y', self.inputs.x + 1)


class Item(WorkChain):
    """Calls a part, and makes a file of what comes out."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.inputs.dynamic = True
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)
        spec.output('file', valid_type=File, required=False)
        spec.outline(cls.begin, cls.end)

    def begin(self) -> ToContext:
        mark()
        self.report('item %d begins', self.inputs.x)
        return ToContext(part=self.submit(Part, x=self.inputs.x, gate=self.inputs.get('gate', '')))

    def end(self) -> None:
        mark()
        self.out('y', 2 * self.ctx.part.outputs.y)
        if 'blob' in self.inputs:
            self.out('file', File(bytes([self.inputs.x]) * SIZE, f'{self.inputs.x}.bin'))


class Bad(Process):
    """Raises."""

    def run(self) -> None:
        mark()
        raise ArithmeticError('bad')


def fill(engine: Engine, gate: str, count: int) -> None:
    """Processes in all states, most of them standing before the gate or behind those that do."""
    ended = [engine.submit(Item, x=x, blob=bytes(200_000)) for x in range(4)]
    ended += [engine.submit(Bad) for _ in range(4)]
    engine.wait(ended, 40)
    for x in range(10):
        engine.pause(engine.submit(Part, x=x, gate=gate))
        engine.kill(engine.submit(Item, x=x, gate=gate), 'not wanted')
    engine.submit(Item, x=50, gate=gate, metadata={'key': 'fifty', 'label': 'the \N{SNOWMAN} of it'})
    for x in range(51, 51 + count):
        engine.submit(Item, x=x, gate=gate)


def main(store: str, gate: str, count: str, done: str) -> None:
    """An engine that fills a store and stays."""
    with Engine(store, claims='all', steps=40) as engine:
        fill(engine, gate, int(count))
        Path(done).touch()
        signal.pause()
