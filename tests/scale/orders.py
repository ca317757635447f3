"""What is ordered by number while services and engines fail: processes of four kinds, and the book of their effects.

A module that every member imports by its name. Each step writes one line into the book when it begins to act, so the
book says how often each one was taken, by whom, under which claim and when.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

from treadle.engine import Process, ToContext, WorkChain, append_, run
from treadle.engine.processes.visit import current_visit

_book = -1
#: How long a slow process takes, in seconds.
_slowness = 0.05


def open_book(path: str, slowness: float) -> None:
    """Where :func:`mark` appends, and how slow the slow ones are in this member."""
    global _book, _slowness
    _book = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _slowness = slowness


def mark(what: str) -> None:
    """One line: nanoseconds since boot, OS pid, pid, visit, epoch and what is done."""
    visit = current_visit()
    if visit is None:
        raise RuntimeError(f'{what} is done outside of any process')
    at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    os.write(_book, f'{at} {os.getpid()} {visit.pid} {visit.number} {visit.fence.epoch} {what}\n'.encode())


class _Order(WorkChain):
    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('y', valid_type=int)


class Part(_Order):
    """One step, as a child."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('part', valid_type=int)
        spec.outline(cls.give)

    def give(self) -> None:
        mark(f'{self.inputs.n}.part{self.inputs.part}')
        self.out('y', self.inputs.n + self.inputs.part)


class Pair(_Order):
    """Two steps."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.first, cls.second)

    def first(self) -> None:
        mark(f'{self.inputs.n}.first')
        self.ctx.y = self.inputs.n

    def second(self) -> None:
        mark(f'{self.inputs.n}.second')
        self.out('y', self.ctx.y + 1)


class Family(_Order):
    """Two children that are waited for."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.begin, cls.gather)

    def begin(self) -> Any:
        mark(f'{self.inputs.n}.begin')
        for part in (1, 2):
            self.to_context(parts=append_(self.submit(Part, n=self.inputs.n, part=part)))

    def gather(self) -> None:
        mark(f'{self.inputs.n}.gather')
        self.out('y', sum(part.outputs.y for part in self.ctx.parts))


class Caller(_Order):
    """A step that blocks in a call, and one after it."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.call, cls.tell)

    def call(self) -> None:
        mark(f'{self.inputs.n}.call')
        self.ctx.y = run(Part, n=self.inputs.n, part=3)['y']

    def tell(self) -> None:
        mark(f'{self.inputs.n}.tell')
        self.out('y', self.ctx.y)


class Busy(_Order):
    """A step that keeps its thread for a while, so that others wait for a permit, and one after it."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.toil, cls.rest)

    def toil(self) -> None:
        mark(f'{self.inputs.n}.toil')
        time.sleep(_slowness)

    def rest(self) -> None:
        mark(f'{self.inputs.n}.rest')
        self.out('y', 2 * self.inputs.n)


class Slow(_Order):
    """A coroutine step that takes its time, and one after it."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.dawdle, cls.end)

    async def dawdle(self) -> None:
        mark(f'{self.inputs.n}.dawdle')
        await asyncio.sleep(_slowness)

    def end(self) -> None:
        mark(f'{self.inputs.n}.end')
        self.out('y', -self.inputs.n)


class Gate(Process):
    """Many may wait for one of these; see :class:`Patient`."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('n', valid_type=int)

    async def run(self) -> None:
        mark(f'{self.inputs.n}.gate')
        await asyncio.sleep(_slowness)


class Patient(_Order):
    """Waits for a process that others wait for, too, and takes as long as that one."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('gate', valid_type=int)
        spec.outline(cls.wait, cls.go)

    def wait(self) -> ToContext:
        mark(f'{self.inputs.n}.wait')
        visit = current_visit()
        assert visit is not None
        return ToContext(gate=visit.host.nodes([self.inputs.gate])[0])

    def go(self) -> None:
        mark(f'{self.inputs.n}.go')
        self.out('y', self.inputs.n)


#: By the last digit of an order's number.
KINDS: tuple[type[Process], ...] = (Pair, Family, Busy, Slow, Pair, Caller, Busy, Family, Slow, Pair)


def kind_of(number: int) -> type[Process]:
    """The class of an order."""
    return KINDS[number % len(KINDS)]


def effects_of(number: int, kind: type[Process]) -> Iterator[str]:
    """What an order's processes write into the book, each line once."""
    steps = {
        Pair: ('first', 'second'),
        Family: ('begin', 'part1', 'part2', 'gather'),
        Caller: ('call', 'part3', 'tell'),
        Slow: ('dawdle', 'end'),
        Busy: ('toil', 'rest'),
        Patient: ('wait', 'go'),
        Gate: ('gate',),
    }
    return (f'{number}.{step}' for step in steps[kind])


def result_of(number: int, kind: type[Process]) -> int:
    """What an order's own process gives as ``y``."""
    return {
        Pair: number + 1, Family: 2 * number + 3, Caller: number + 3, Slow: -number, Busy: 2 * number, Patient: number
    }[kind]  # fmt: skip


#: How many processes of which class an order makes, itself included.
PARTS = {Pair: 0, Family: 2, Caller: 1, Slow: 0, Busy: 0, Patient: 0, Gate: 0}
