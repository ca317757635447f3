"""DBOS's own figures on PostgreSQL: ``PYTHON peer_dbos.py URL WORKFLOWS``, with a Python that has DBOS."""

from __future__ import annotations

import json
import sys
import time

from dbos import DBOS, DBOSConfig

URL, COUNT = sys.argv[1], int(sys.argv[2])
DBOS(config=DBOSConfig(name='bench', system_database_url=URL, log_level='ERROR'))


@DBOS.step()
def add(x: int, y: int) -> int:
    """The first step."""
    return x + y


@DBOS.step()
def give(total: int) -> int:
    """The second step."""
    return total


@DBOS.workflow()
def add_in_two_steps(x: int) -> int:
    """Two steps."""
    return give(add(x, 2))


def main() -> None:
    """Measure and print: workflows a second, many at once, and the median seconds of one after the other."""
    DBOS.launch()
    add_in_two_steps(1)
    began = time.perf_counter()
    handles = [DBOS.start_workflow(add_in_two_steps, number) for number in range(COUNT)]
    right = [handle.get_result() for handle in handles] == [number + 2 for number in range(COUNT)]
    rate = COUNT / (time.perf_counter() - began)
    if not right:
        raise SystemExit('a wrong result')
    times = []
    for number in range(50):
        began = time.perf_counter()
        add_in_two_steps(number)
        times.append(time.perf_counter() - began)
    json.dump({'rate': rate, 'run': sorted(times)[len(times) // 2]}, sys.stdout)
    DBOS.destroy()


if __name__ == '__main__':
    main()
