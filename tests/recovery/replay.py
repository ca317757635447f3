"""A script whose step dies behind its calls and is run again by other code, as ``variant`` says."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

from forkserver import serve

from treadle.engine import Engine, WorkChain, calcfunction, on_kill, run, submit
from treadle.engine.errors import TreadleError
from treadle.engine.processes.visit import current_visit

_effects = -1
_variant = ''


def mark(what: str) -> None:
    """One line: OS pid, pid, visit, epoch and what executes."""
    visit = current_visit()
    if visit is None:
        raise RuntimeError(f'{what} executes outside of any process')
    os.write(_effects, f'{os.getpid()} {visit.pid} {visit.number} {visit.fence.epoch} {what}\n'.encode())


class OwnError(Exception):
    """An exception that nobody has registered."""


class Leaf(WorkChain):
    """Gives its input back."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)
        spec.outline(cls.give)

    def give(self) -> None:
        mark(f'leaf({self.inputs.x})')
        self.out('y', self.inputs.x)


class Other(Leaf):
    """Another class with the same inputs."""


class Raising(WorkChain):
    """Raises what it is told to."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('own', valid_type=bool)
        spec.outline(cls.fail)

    def fail(self) -> None:
        mark('raising')
        raise OwnError('mine', 1) if self.inputs.own else KeyError('built in', 1)


class Endless(WorkChain):
    """Runs until it is killed."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.stay)

    def stay(self) -> None:
        over = threading.Event()
        with on_kill(over.set):
            over.wait()


@calcfunction
def square(x: int) -> int:
    """Is called in the step."""
    mark(f'square({x})')
    if x < 0:
        raise ValueError(x, 'is negative')
    return x * x


def _fate(call: Any) -> Any:
    try:
        return call()
    except Exception as error:
        return [type(error).__name__, str(error)]


class Parent(WorkChain):
    """Makes its calls, and dies behind them when it is told to."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output('seen')
        spec.outline(cls.call, cls.show)

    def call(self) -> None:
        mark(f'parent.call as {_variant}')
        second: Any = {
            'inputs': lambda: run(Leaf, x=3)['y'],
            'class': lambda: run(Other, x=2)['y'],
            'submitted': lambda: self.submit(Leaf, x=3).pid,
            'function': lambda: square(2),
        }.get(_variant, lambda: run(Leaf, x=2)['y'])
        self.ctx.seen = [
            run(Leaf, x=1)['y'],
            second(),
            square(5),
            _fate(lambda: square(-1)),
            _fate(lambda: run(Raising, own=False)),
            _fate(lambda: run(Raising, own=True)),
        ]
        if _variant != 'fewer':
            submit(Endless)
        if _variant == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()

    def show(self) -> None:
        mark('parent.show')
        self.out('seen', self.ctx.seen)


def main(order: dict[str, Any]) -> None:
    """Run, or find, the one parent, and write what came of it."""
    global _effects, _variant
    _effects = os.open(order['effects'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _variant = order['variant']
    results: dict[str, Any] = {}
    with Engine(order['store'], workers=2, steps=2) as engine:
        for attempt in ('first', 'second'):
            try:
                results[attempt] = engine.run(Parent, metadata={'key': 'parent'})['seen']
            except TreadleError as error:
                results[attempt] = [type(error).__name__, str(error)]
        for node in engine.query(process_label='Endless'):
            if order.get('end') and not node.is_terminated:
                engine.kill(node)
    with open(order['results'], 'w') as stream:
        json.dump(results, stream)


if __name__ == '__main__':
    serve(main)
