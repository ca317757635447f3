"""What the crash tests run, kill and run again: a script that knows nothing of resuming.

Each body that executes appends one line, unbuffered, to the file of effects. It is a script and no module of the
package, so its classes belong to ``__main__`` and are found again by the script's path and their source.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import json
import os
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from forkserver import serve

from treadle.engine import (
    Engine,
    ExitCode,
    ToContext,
    WorkChain,
    append_,
    calcfunction,
    if_,
    run,
    while_,
    workfunction,
)
from treadle.engine.faults import Faults
from treadle.engine.launch import compose
from treadle.engine.processes.visit import current_visit
from treadle.engine.store import engines
from treadle.engine.store.control import write_once
from treadle.engine.store.records import Held, Unit
from treadle.engine.store.transaction import Transaction
from treadle.engine.store.units import apply
from treadle.engine.testing import KillAt, RecordFaults, Together

_effects = -1


def mark(what: str) -> None:
    """One line: OS pid, pid, visit, epoch and what executes."""
    visit = current_visit()
    if visit is None:
        raise RuntimeError(f'{what} executes outside of any process')
    os.write(_effects, f'{os.getpid()} {visit.pid} {visit.number} {visit.fence.epoch} {what}\n'.encode())


class Colour(enum.Enum):
    """An enum for the context."""

    RED = 'red'


@dataclasses.dataclass
class Point:
    """A dataclass for the context."""

    x: float
    y: float


def _zoo() -> dict[str, Any]:
    return {
        'none': None,
        'flags': (True, False),
        'float': 0.1 + 0.2,
        'infinite': float('-inf'),
        'large': 2**80,
        'text': 'naïve ∑ \x00',
        'bytes': bytes(range(256)),
        'blob': b'treadle' * 40_000,
        'nested': {'list': [1, (2, [3.0])], 4: {'five': b'6'}},
        'moment': datetime.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=datetime.UTC),
        'day': datetime.date(2024, 2, 29),
        'span': datetime.timedelta(days=1, microseconds=1),
        'uuid': uuid.UUID(int=7),
        'decimal': decimal.Decimal('1.10'),
        'path': Path('/tmp/somewhere'),
        'array': np.arange(6, dtype=np.float32).reshape(2, 3),
        'scalar': np.int16(3),
        'colour': Colour.RED,
        'point': Point(1.5, -0.0),
    }


@calcfunction
def add(x: int, y: int) -> int:
    """The calcfunction of the scenario."""
    mark(f'add({x},{y})')
    return x + y


@workfunction
def add_twice(x: int) -> dict[str, Any]:
    """A workfunction with nested calcfunctions and a blocking child."""
    mark(f'add_twice({x})')
    once = add(x, 100)
    twice = add(once, 100)
    return {'once': once, 'twice': twice, 'leaf': run(Leaf, x=twice)['y']}


class Leaf(WorkChain):
    """A child of two steps."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)
        spec.outline(cls.double, cls.give)

    def double(self) -> None:
        mark(f'leaf({self.inputs.x}).double')
        self.ctx.doubled = 2 * self.inputs.x

    def give(self) -> None:
        mark(f'leaf({self.inputs.x}).give')
        self.out('y', self.ctx.doubled)
        self.report('leaf %d gives', self.inputs.x)


class Failing(WorkChain):
    """A child that raises, after a step that does not; the grandchild of the step that raises must not be."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('why', valid_type=str)
        spec.outline(cls.begin, cls.fail)

    def begin(self) -> None:
        mark('failing.begin')

    def fail(self) -> None:
        mark('failing.fail')
        self.submit(Leaf, x=-1)
        raise LookupError(self.inputs.why, 7)


class Refusing(WorkChain):
    """A child that ends with an exit code."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.exit_code(410, 'ERROR_REFUSED', message='refused')
        spec.outline(cls.refuse)

    def refuse(self) -> ExitCode:
        mark('refusing.refuse')
        return self.exit_codes.ERROR_REFUSED


class Root(WorkChain):
    """A bit of everything."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('leaves')
        spec.output('zoo')
        spec.output('fates')
        spec.output('numbers')
        spec.outline(
            cls.prepare,
            while_(cls.more)(cls.launch, cls.collect),
            if_(cls.odd)(cls.block).else_(cls.skip),
            cls.breathe,
            cls.functions,
            cls.launch_failing,
            cls.handle,
            cls.finish,
        )

    def prepare(self) -> None:
        mark('root.prepare')
        self.ctx.i = 0
        self.ctx.sums = []
        self.ctx.zoo = _zoo()
        self.report('prepared')

    def more(self) -> bool:
        return bool(self.ctx.i < self.inputs.n)

    def launch(self) -> Any:
        mark(f'root.launch({self.ctx.i})')
        self.ctx.i += 1
        for x in (self.ctx.i, 10 * self.ctx.i):
            self.to_context(leaves=append_(self.submit(Leaf, x=x)))

    def collect(self) -> None:
        mark(f'root.collect({self.ctx.i})')
        self.ctx.sums.append([leaf.outputs.y for leaf in self.ctx.leaves])

    def odd(self) -> bool:
        return self.ctx.i % 2 == 1

    def block(self) -> None:
        mark('root.block')
        first = run(Leaf, x=1000)['y']
        mark('root.block, half')
        self.ctx.blocked = (first, run(Leaf, x=first)['y'])

    def skip(self) -> None:
        mark('root.skip')

    async def breathe(self) -> None:
        mark('root.breathe')
        await asyncio.sleep(0)
        self.out('leaves', self.ctx.sums)

    def functions(self) -> None:
        mark('root.functions')
        self.ctx.numbers = [add(1, 2), add_twice(3), add(4, 5)]

    def launch_failing(self) -> ToContext:
        mark('root.launch_failing')
        return ToContext(
            failed=self.submit(Failing, why='on purpose'),
            refused=self.submit(Refusing),
            function=self.submit(add, x=6, y=7),
        )

    def handle(self) -> None:
        mark('root.handle')
        try:
            run(Failing, why='in a blocking call')
        except LookupError as error:
            caught = (type(error).__name__, error.args)
        self.ctx.fates = {
            'failed': (self.ctx.failed.state.value, self.ctx.failed.exception),
            'refused': (self.ctx.refused.exit_status, self.ctx.refused.exit_message),
            'function': self.ctx.function.outputs.result,
            'caught': caught,
        }

    def finish(self) -> None:
        mark('root.finish')
        self.out('zoo', self.ctx.zoo)
        self.out('fates', self.ctx.fates)
        self.out('numbers', [self.ctx.blocked, self.ctx.numbers])
        self.report('done')


def described(value: Any) -> Any:
    """A value with all its types, as JSON."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return [kind, [[described(key), described(item)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return [kind, [described(item) for item in value]]
    if isinstance(value, np.ndarray):
        return [kind, str(value.dtype), value.shape, value.tolist()]
    if isinstance(value, bytes) and len(value) > 1000:
        return [kind, len(value), value[:20].hex(), value[-20:].hex()]
    return [kind, repr(value)]


def submit_from_outside(engine: Engine) -> int:
    """A process that comes into the store as ``treadle submit`` writes it, so that the engine has to find it."""
    inputs = {'x': 88, 'metadata': {'key': 'from outside'}}
    record = compose(Leaf, inputs, codec=engine.core.source.codec, pid=0, origin=engine.core.engine_id)

    def insert(transaction: Transaction) -> int:
        pid = transaction.reserve_pids(1) - 1
        (verdict,) = apply(transaction, [Unit(create=(msgspec.structs.replace(record, pid=pid),))])
        attached = verdict.attached if isinstance(verdict, Held) else None
        return pid if attached is None else attached.pid

    return write_once(engine.location, insert)


def declare_dead(engine: Engine) -> None:
    """What another engine does that has not heard from this one for its lease."""
    engine_id = engine.core.engine_id
    write_once(
        engine.location,
        lambda transaction: engines.declare_dead(transaction, engine_id, seen=None, max_crashes=None),
    )


def main(order: dict[str, Any]) -> None:
    """One run of the script, with the fault that is ordered."""
    global _effects
    _effects = os.open(order['effects'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    record = RecordFaults()
    faults: Faults = record
    if order.get('fault') is not None:
        faults = Together(record, KillAt(order['fault'], order['hit']))
    engine = Engine(order['store'], workers=2, steps=2, faults=faults)
    with engine:
        results = {
            'run': engine.run(Root, n=3, metadata={'key': 'root'}),
            'function': engine.core.host.call_function(add, (20, 30), {'metadata': {'key': 'function'}})[0],
        }
        node = engine.submit(Leaf, x=77, metadata={'key': 'submitted'})
        results['submitted'] = dict(engine.wait(node, timeout=20).outputs)
        results['from outside'] = dict(engine.wait(submit_from_outside(engine), timeout=20).outputs)
        paused = engine.submit(Leaf, x=99, metadata={'key': 'paused'})
        engine.pause(paused)
        engine.play(paused)
        results['paused'] = dict(engine.wait(paused, timeout=20).outputs)
        declare_dead(engine)
        results['second life'] = engine.run(Leaf, x=111, metadata={'key': 'second life'})
    with open(order['results'], 'w') as stream:
        json.dump({'results': described(results), 'hits': record.counts}, stream)


if __name__ == '__main__':
    serve(main)
