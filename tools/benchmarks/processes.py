"""The processes that the benchmarks run; a module, so that any engine can import them."""

from __future__ import annotations

import threading
import time

from treadle.engine import Process, ProcessNode, ProcessSpec, ToContext, WorkChain, append_


class AddTwoSteps(WorkChain):
    """x + y in one step, the output in the next."""

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.input('y', valid_type=int)
        spec.output('sum', valid_type=int)
        spec.outline(cls.add, cls.give)

    def add(self) -> None:
        self.ctx.sum = self.inputs.x + self.inputs.y

    def give(self) -> None:
        self.out('sum', self.ctx.sum)


class Fan(WorkChain):
    """A parent of ``n`` children."""

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('total', valid_type=int)
        spec.outline(cls.launch, cls.gather)

    def launch(self) -> None:
        for i in range(self.inputs.n):
            self.to_context(children=append_(self.submit(AddTwoSteps, x=i, y=1)))

    def gather(self) -> None:
        self.out('total', sum(child.outputs.sum for child in self.ctx.children))


class Sleep(Process):
    """A step that blocks until its OS process wants no more of it."""

    over = threading.Event()

    def run(self) -> None:
        self.over.wait()


class Stamp(Process):
    """Gives the moment at which its step began, by the clock that all OS processes of a machine share."""

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        super().define(spec)
        spec.output('began', valid_type=float)

    def run(self) -> None:
        self.out('began', time.monotonic())


class Burn(Process):
    """A step that keeps a core, and the interpreter, busy for so long."""

    def run(self) -> None:
        while not Sleep.over.is_set():
            sum(range(1000))


class Wait(WorkChain):
    """Waits for another process, then ends."""

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        super().define(spec)
        spec.input('other', valid_type=ProcessNode)
        spec.outline(cls.wait, cls.wake)

    def wait(self) -> ToContext:
        return ToContext(other=self.inputs.other)

    def wake(self) -> None:
        """Nothing is left to do."""
