"""Everything at once, from many threads: no error, no leak, every process at its end."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from treadle.engine import KilledError, Process, ToContext, WorkChain, append_, calcfunction, run

PATIENCE = 60.0


@calcfunction
def add(a: int, b: int) -> int:
    return a + b


class Leaf(WorkChain):
    """Two steps."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)
        spec.outline(cls.first, cls.second)

    def first(self):
        self.ctx.n = add(self.inputs.n, 1)

    def second(self):
        self.out('n', self.ctx.n)


class AsyncLeaf(Process):
    """One step on a loop."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)

    async def run(self):
        self.out('n', self.inputs.n + 1)


class Tree(WorkChain):
    """Children that it waits for, and one that it runs blocking."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)
        spec.outline(cls.launch, cls.gather)

    def launch(self):
        n = self.inputs.n
        self.ctx.blocking = run(Leaf, n=n)['n']
        return ToContext(first=self.submit(Leaf, n=n), others=append_(self.submit(AsyncLeaf, n=n)))

    def gather(self):
        self.out('n', self.ctx.blocking + self.ctx.first.outputs.n + self.ctx.others[0].outputs.n)


def clients(engine, seconds, count=64):
    end = time.monotonic() + seconds
    ready = threading.Barrier(count)

    def client(number):
        chance = random.Random(number)
        ready.wait(PATIENCE)
        calls = 0
        while time.monotonic() < end:
            calls += 1
            n = chance.randrange(1000)
            match chance.randrange(8):
                case 0:
                    assert engine.run(Leaf, n=n) == {'n': n + 1}
                case 1:
                    assert engine.run(Tree, n=n) == {'n': 3 * (n + 1)}
                case 2:
                    nodes = [engine.submit(AsyncLeaf, n=n) for _ in range(5)]
                    assert {node.outputs.n for node in engine.wait(nodes, PATIENCE)} == {n + 1}
                case 3:
                    node = engine.submit(Tree, n=n)
                    killed = engine.kill(node, 'enough')
                    final = engine.future(node).result(PATIENCE)
                    assert final.is_killed if killed else final.is_finished_ok
                case 4:
                    key = f'key {n % 20}'
                    try:
                        assert engine.run(Leaf, n=n % 20, metadata={'key': key}) == {'n': n % 20 + 1}
                    except KilledError:
                        raise AssertionError('nobody kills those') from None
                case 5:
                    for node in engine.query(limit=20):
                        assert node.state
                        assert node.process_label
                case 6:
                    node = engine.submit(Leaf, n=n)
                    try:
                        assert engine.wait(node, timeout=0).is_finished_ok  # it was quicker than we are
                    except TimeoutError:
                        pass
                case 7:
                    assert engine.core.host.call_function(add, (n, n), {})[0] == 2 * n
        return calls

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(client, range(count)))


def check(engine):
    open_ = engine.query(states=['created', 'running', 'waiting'])
    engine.wait(open_, PATIENCE)
    assert engine.query(states=['created', 'running', 'waiting', 'excepted']) == []
    assert engine.unfinished() == []
    assert engine.core.terminations.awaited() == []
    until = time.monotonic() + PATIENCE
    while engine.core.dispatcher.held and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert engine.core.dispatcher.held == 0
    assert engine.core.steps.blocked_count == 0
    assert engine.core.dispatcher._killed == set()
    assert engine.core.dispatcher._endings == {}


def test_sixty_four_clients(make_engine):
    engine = make_engine(workers=2, steps=6)
    assert clients(engine, 3.0) >= 64
    check(engine)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_sixty_four_clients_for_long(make_engine):
    for seed in range(5):
        engine = make_engine(workers=1 + seed, steps=1 + 3 * seed)
        clients(engine, 30.0)
        check(engine)
        engine.stop()
