"""An engine in an OS process of its own that writes as fast as it can until a line comes, then says how much it did."""

from __future__ import annotations

import asyncio
import sys
import threading

from processes import AddTwoSteps

from treadle.engine import Engine

AT_ONCE = 500


def main() -> None:
    """Work until told to stop."""
    told = threading.Event()
    with Engine(sys.argv[1], name='saturated') as engine:
        print('working', flush=True)
        threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
        print(asyncio.run(work(engine, told)), flush=True)


async def work(engine: Engine, told: threading.Event) -> int:
    """Run work chains, many at once; returns how many."""
    done = 0
    while not told.is_set():
        await asyncio.gather(*(engine.run_async(AddTwoSteps, x=number, y=2) for number in range(AT_ONCE)))
        done += AT_ONCE
    return done


if __name__ == '__main__':
    main()
