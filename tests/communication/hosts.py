"""Processes that tasks can name, as ``communication.hosts:Name``, and what tests wait with."""

from __future__ import annotations

import queue
import threading
from typing import Any

from treadle.engine import File, Process, WorkChain, calcfunction, on_kill

PATIENCE = 20.0
HERE = 'communication.hosts'


class Gates:
    """Gates by name: a step waits at its gate until the test opens it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[str, tuple[threading.Event, threading.Event]] = {}

    def _gate(self, name: str) -> tuple[threading.Event, threading.Event]:
        with self._lock:
            return self._gates.setdefault(name, (threading.Event(), threading.Event()))

    def pass_through(self, name: str) -> None:
        entered, opened = self._gate(name)
        entered.set()
        assert opened.wait(PATIENCE)

    def wait_entered(self, name: str) -> None:
        assert self._gate(name)[0].wait(PATIENCE)

    def open(self, name: str) -> None:
        self._gate(name)[1].set()


GATES = Gates()


class Heard:
    """Collects what is told, for a test that waits for it."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def tell(self, *what: Any) -> None:
        self._told.put(what)

    def next(self) -> Any:
        return self._told.get(timeout=PATIENCE)

    def until(self, last: Any) -> list[Any]:
        """All that was told up to and including ``last``."""
        seen = []
        while not seen or seen[-1] != last:
            seen.append(self.next())
        return seen

    @property
    def is_empty(self) -> bool:
        return self._told.empty()


class Echo(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.input('gate', valid_type=str, required=False)
        spec.output('y', valid_type=int)

    def run(self):
        if 'gate' in self.inputs:
            GATES.pass_through(self.inputs.gate)
        self.out('y', self.inputs.x)


#: Set when the process of that name is told that it was killed.
KILLED: dict[str, threading.Event] = {}


class UntilKilled(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('name', valid_type=str)

    def run(self):
        with on_kill(KILLED[self.inputs.name].set):
            GATES.pass_through(self.inputs.name)


class GivesFile(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('file', valid_type=File)

    def run(self):
        self.out('file', File(b'content', name='a.txt'))


class GivesText(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('length', valid_type=int)
        spec.output('text', valid_type=str)

    def run(self):
        self.out('text', self.inputs.length * 'x')


class Fails(Process):
    def run(self):
        raise ValueError('it is odd')


class Outputs(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('gate', valid_type=str, required=False)
        spec.output('a')
        spec.outputs.dynamic = True
        spec.outline(cls.first, cls.second, cls.third)

    def first(self):
        self.out('a', [1])
        self.out('free.b', 2)

    def second(self):
        if 'gate' in self.inputs:
            GATES.pass_through(self.inputs.gate)

    def third(self):
        self.out('a', [3])


@calcfunction
def double(x: int) -> int:
    return 2 * x


NOT_A_PROCESS = 'text'
