"""A script that shares its store with other OS processes; ``duel_other.py`` is another script with the same classes."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import duel_items
from forkserver import serve

from treadle.engine import Engine
from treadle.engine.errors import KeyConflict
from treadle.engine.testing import KillAt

COUNT = 24


def main(order: dict[str, Any]) -> None:
    """One run, in one of the roles."""
    duel_items.open_effects(order['effects'])
    faults = KillAt(order['fault'], order['hit']) if order.get('fault') else None
    role = order['role']
    results: dict[str, Any] = {'os_pid': os.getpid()}
    engine = Engine(
        order['store'], workers=2, steps=2, claims=order.get('claims', 'own'), faults=faults
    )
    with engine:
        if role == 'submit':
            count = order.get('count', COUNT)
            nodes = [engine.submit(duel_items.Item, x=x, metadata={'key': f'item-{x}'}) for x in range(count)]
            results['outputs'] = [node.outputs.y for node in engine.wait(nodes, timeout=100)]
        elif role == 'own-work':
            results['outputs'] = [engine.run(duel_items.Item, x=1000)['y']]
        elif role == 'any-work':
            results['outputs'] = [node.outputs.y for node in engine.wait(engine.query(), timeout=100)]
        elif role == 'key':
            try:
                results['outputs'] = [engine.run(duel_items.Item, x=order['x'], metadata={'key': 'one'})['y']]
            except KeyConflict as conflict:
                results['conflict'] = str(conflict)
        elif role == 'fork-and-die':
            engine.submit(duel_items.Item, x=1, metadata={'key': 'item-1'})
            if os.fork() == 0:
                # A forked child that outlives its parent, and ends when the test lets it.
                with open(order['fifo']):
                    os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    with open(order['results'], 'w') as stream:
        json.dump(results, stream)


if __name__ == '__main__':
    serve(main)
