"""Treadle beside the bare skeleton of its design, in one run; start it by ``./tools/bench core``."""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import crossings
from processes import AddTwoSteps, Fan
from report import Row, show
from skeleton import Skeleton

from treadle.engine import Engine

WORKERS = 2
RUNS, CHILDREN = 300, 1000


def main() -> None:
    """Measure, check what was written, and print."""
    parser = argparse.ArgumentParser(description='Treadle beside the bare skeleton of its design')
    parser.add_argument('--json', action='store_true', help='for machines')
    parser.add_argument('--processes', type=int, default=5000, help='many at once (default 5000)')
    parser.add_argument('--rounds', type=int, default=3, help='the medians of so many rounds (default 3)')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='treadle-bench-') as folder:
        rows = measure_processes(Path(folder), options.processes, options.rounds)
    rows += crossings.measure(options.rounds)
    rows.append(measure_import(options.rounds))
    show(rows, as_json=options.json)


def measure_processes(folder: Path, processes: int, rounds: int) -> list[Row]:
    """The three figures of an engine, each round right after the skeleton's."""
    skeleton = Skeleton(folder, workers=WORKERS)
    bare_rate, bare_run, rate, run, fan = [], [], [], [], []
    expected = 0
    with Engine(f'sqlite:///{folder}/treadle.db', workers=WORKERS) as engine:
        asyncio.run(many(engine, 200))
        expected += 200
        for _ in range(rounds):
            bare_rate.append(rate_of_skeleton(skeleton, processes))
            began = time.perf_counter()
            asyncio.run(many(engine, processes))
            rate.append(processes / (time.perf_counter() - began))
            bare_run.append(median_time(lambda: skeleton.start().result()))
            run.append(median_time(lambda: engine.run(AddTwoSteps, x=1, y=2)))
            began = time.perf_counter()
            engine.run(Fan, n=CHILDREN)
            fan.append(CHILDREN / (time.perf_counter() - began))
            expected += processes + RUNS + CHILDREN + 1
    skeleton.stop()
    check(folder / 'treadle.db', expected)
    median = statistics.median
    return [
        Row('2-step work chains, many at once', '/s', median(rate), median(bare_rate), 'the skeleton', 0.5),
        Row('blocking run() of a 2-step work chain', 'ms', median(run) * 1e3, median(bare_run) * 1e3,
            'the skeleton', 2.0, less_is_better=True),
        Row(f'children of a parent with {CHILDREN:,}', '/s', median(fan), 2000.0, 'the fixed goal', 1.0),
    ]  # fmt: skip


async def many(engine: Engine, processes: int) -> None:
    """Run so many work chains at once."""
    await asyncio.gather(*(engine.run_async(AddTwoSteps, x=number, y=2) for number in range(processes)))


def rate_of_skeleton(skeleton: Skeleton, processes: int) -> float:
    """Processes a second of the skeleton."""
    began = time.perf_counter()
    for future in [skeleton.start() for _ in range(processes)]:
        future.result()
    return processes / (time.perf_counter() - began)


def median_time(call) -> float:
    """The median time of ``RUNS`` calls, in seconds."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def check(path: Path, expected: int) -> None:
    """Open the store anew and look at every row: all there, all finished, each output right, nothing left over."""
    database = sqlite3.connect(path)
    count = 0
    for label, state, status, owner, inputs, outputs in database.execute(
        'SELECT process_label, state, exit_status, owner, inputs, outputs FROM process'
    ):
        count += 1
        given, result = json.loads(inputs), json.loads(outputs)
        if label == 'AddTwoSteps':
            right = result == {'sum': given['x'] + given['y']}
        else:
            right = result == {'total': sum(number + 1 for number in range(given['n']))}
        if not right or state != 'finished' or status != 0 or owner is not None:
            raise SystemExit(f'a wrong row: {label} {state} {status} {owner} {inputs} -> {outputs}')
    left = database.execute('SELECT count(*) FROM awaiting').fetchone()[0]
    if count != expected or left:
        raise SystemExit(f'{expected} processes were run, {count} are in the store; {left} waits are left over')


def measure_import(rounds: int) -> Row:
    """The time that ``import treadle.engine`` adds to a bare interpreter, beside the goal."""
    program = (
        'import time; began = time.perf_counter(); import treadle.engine; print(time.perf_counter() - began)'
    )
    times = [
        float(subprocess.run([sys.executable, '-c', program], check=True, capture_output=True).stdout)
        for _ in range(max(5, rounds))
    ]
    return Row(
        'import treadle.engine', 's', statistics.median(times), 0.15, 'the fixed goal', 1.0, less_is_better=True
    )


if __name__ == '__main__':
    main()
