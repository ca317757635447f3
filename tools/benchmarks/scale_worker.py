"""A worker in an OS process of its own: says that it works, then does what it is told by lines, until told to stop."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

from processes import AddTwoSteps

from treadle.engine import Engine


def main(order: dict[str, Any]) -> None:
    """Work, and beside it: ``run N`` runs so many work chains of its own at once and says how long that took, ``hear
    N`` says when so many broadcasts were heard.
    """
    with Engine(**order, claims='all', name='worker') as engine:
        print('working', flush=True)
        for line in sys.stdin:
            word, _, number = line.strip().partition(' ')
            if word == 'run':
                began = time.perf_counter()
                asyncio.run(run(engine, int(number)))
                print(time.perf_counter() - began, flush=True)
            elif word == 'hear':
                hear(engine, int(number))
            else:
                return


def hear(engine: Engine, count: int) -> None:
    """Say when so many broadcasts have been heard."""
    heard, left = threading.Event(), iter(range(count - 1, -1, -1))

    def hear_one(*_: Any, **__: Any) -> None:
        if next(left) == 0:
            heard.set()

    identifier = engine.communicator.add_broadcast_subscriber(hear_one)
    print('listening', flush=True)
    if not heard.wait(60):
        raise SystemExit('not all broadcasts were heard')
    print(time.monotonic(), flush=True)
    engine.communicator.remove_broadcast_subscriber(identifier)


async def run(engine: Engine, count: int) -> None:
    """Run so many at once."""
    await asyncio.gather(*(engine.run_async(AddTwoSteps, x=number, y=2) for number in range(count)))


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
