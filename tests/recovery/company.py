"""A script whose runs share a store: each is an engine that takes whatever it can get, and may be stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import duel_items
from forkserver import serve

from treadle.engine import Engine, Process, run
from treadle.engine.faults import Faults
from treadle.engine.testing import KillAt

#: Seconds after which what should have happened never will; before the run is ended for it.
PATIENCE = 100.0

#: The order of this run.
_order: dict[str, Any] = {}


class Hold(Process):
    """One step that waits until the test opens the run's pipe, in runs that have one."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)

    def run(self) -> None:
        duel_items.mark(f'hold({self.inputs.x})')
        if _order.get('held'):
            with open(_order['begun'], 'w') as begun:
                begun.write(f'{self.pid}\n')
            with open(_order['held']) as held:
                held.read()
        duel_items.mark(f'release({self.inputs.x})')
        try:
            part = run(duel_items.Part, x=self.inputs.x)
        except BaseException as error:
            sys.stderr.write(f'{type(error).__name__} in hold({self.inputs.x}): {error}\n')
            sys.stderr.flush()
            raise
        self.out('y', part['y'])


class Fatal(Process):
    """Kills its engine, wherever it runs."""

    def run(self) -> None:
        duel_items.mark('fatal')
        os.kill(os.getpid(), signal.SIGKILL)


def _share(engine: Engine, results: dict[str, Any]) -> None:
    """Submit some, and leave when there is nothing left to do on the store."""
    for x in range(_order.get('count', 0)):
        engine.submit(duel_items.Part, x=x)
    _tell('begun')
    engine.wait(engine.query(), PATIENCE)
    results['finished'] = len(engine.query(states=['finished']))


def _stall(engine: Engine, results: dict[str, Any]) -> None:
    """Begin a step that is held, be stopped and go on later; then do something new."""
    items = [engine.submit(duel_items.Item, x=x) for x in range(20)]
    results['items'] = [each.outputs.y for each in engine.wait(items, PATIENCE)]
    held = engine.submit(Hold, x=1)
    node = engine.wait(held, PATIENCE)
    results['held'] = {'state': node.state, 'y': node.outputs.y}
    results['later'] = engine.run(duel_items.Part, x=1000)
    results['lives'] = engine.core.membership.lives


def _finish(engine: Engine, results: dict[str, Any]) -> None:
    """Play what is paused, and bring all that there is to its end."""
    for node in engine.query():
        if node.paused:
            engine.play(node)
    nodes = engine.wait(engine.query(), PATIENCE)
    results['outputs'] = {node.pid: node.outputs.get('y') for node in nodes}


def _mixture(engine: Engine, results: dict[str, Any]) -> None:
    """Processes in all states, and no end."""
    count = _order['count']
    finished = [engine.submit(duel_items.Part, x=x) for x in range(count // 5)]
    engine.wait(finished, PATIENCE)
    for x in range(count // 5):
        engine.pause(engine.submit(duel_items.Item, x=x))
    for x in range(count // 5):
        engine.kill(engine.submit(duel_items.Item, x=x))
    for x in range(count // 10):
        engine.submit(Hold, x=x)
    for x in range(count - 3 * (count // 5) - count // 10):
        engine.submit(duel_items.Item, x=x)
    _tell('begun')
    signal.pause()


def _work(engine: Engine, results: dict[str, Any]) -> None:
    """Run what there is until it has ended or is set aside; submit a fatal one when told to."""
    if _order.get('fatal'):
        for x in range(20):
            engine.submit(duel_items.Item, x=x)
        engine.submit(Fatal)
    (fatal,) = engine.query(process_label='Fatal')
    innocent = [node for node in engine.query() if node.process_label != 'Fatal']
    results['outputs'] = [node.outputs.y for node in engine.wait(innocent, PATIENCE)]
    while not fatal.paused:
        threading.Event().wait(0.02)


def _tell(name: str) -> None:
    """Tell the test that this run has come so far, if it wants to hear it."""
    if _order.get(name):
        with open(_order[name], 'w') as stream:
            stream.write('x\n')


ROLES = {'share': _share, 'stall': _stall, 'finish': _finish, 'mixture': _mixture, 'work': _work}


def main(order: dict[str, Any]) -> None:
    """One run, in one of the roles."""
    _order.update(order)
    duel_items.open_effects(order['effects'])
    faults: Faults | None = KillAt(order['fault'], order['hit']) if order.get('fault') else None
    results: dict[str, Any] = {'os_pid': os.getpid()}
    with Engine(
        order['store'],
        steps=order.get('steps', 4),
        claims='all',
        lease=order.get('lease', 10.0),
        max_crashes=order.get('max_crashes', 5),
        faults=faults,
    ) as engine:
        ROLES[order['role']](engine, results)
    with open(order['results'], 'w') as stream:
        json.dump(results, stream)


if __name__ == '__main__':
    serve(main)
