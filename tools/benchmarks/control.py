"""Company and control: how soon intents hold beside load, and what waiting costs; ``./tools/bench control``."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from processes import AddTwoSteps, Burn, Sleep, Wait
from report import Row, show

from treadle.engine import Engine
from treadle.engine.launch import compose
from treadle.engine.store.control import write_once
from treadle.engine.store.intents import kill
from treadle.engine.store.location import locate
from treadle.engine.store.records import Unit
from treadle.engine.store.units import apply

#: Seconds; what the issue of control asks for.
GOAL = 0.1
SLEEPING, BURNING = 64, 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description='How soon intents hold beside load, and what waiting costs')
    parser.add_argument('--json', action='store_true', help='for machines')
    parser.add_argument('--intents', type=int, default=200, help='kills and pauses measured (default 200)')
    parser.add_argument('--waiting', type=int, default=20_000, help='waiting processes (default 20,000)')
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix='treadle-bench-') as folder:
        rows += with_nothing_running(Path(folder) / 'nothing.db', options.intents)
        rows += beside_steps(Path(folder) / 'steps.db', options.intents)
        rows += beside_two_saturated_engines(Path(folder) / 'two.db', options.intents)
        rows += noticing(Path(folder) / 'noticing.db', options.intents)
        rows += waiting(Path(folder) / 'waiting.db', options.waiting)
    show(rows, as_json=options.json)


def _percentile(times: list[float], share: float = 0.99) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _goal(name: str, unit: str, figure: float, goal: float) -> Row:
    return Row(name, unit, figure, goal, 'the fixed goal', 1.0, less_is_better=True)


def _row(name: str, seconds: float, goal: float = GOAL) -> Row:
    return _goal(name, 'ms', seconds * 1e3, goal * 1e3)


def with_nothing_running(path: Path, intents: int) -> list[Row]:
    """An intent on a store that no engine runs on: the call, and the command with the interpreter's start."""
    url = f'sqlite:///{path}'
    with Engine(url) as engine:
        engine.core.begin_no_step()
        pids = [engine.submit(Sleep).pid for _ in range(intents + 5)]
    location = locate(url)
    kills = [_timed(lambda pid=pid: write_once(location, lambda each: kill(each, [pid], 'bench'))) for pid in pids[5:]]
    command = [str(Path(sys.executable).with_name('treadle')), 'kill', '--store', url]
    commands = [_timed(lambda pid=pid: subprocess.check_output([*command, str(pid)])) for pid in pids[:5]]
    return [
        _row('kill with nothing running, p99', _percentile(kills)),
        _row('`treadle kill` with nothing running, median', statistics.median(commands), 1.0),
    ]


def beside_steps(path: Path, intents: int) -> list[Row]:
    """Kills and pauses of other processes while many steps sleep and two burn CPU."""
    kills, ends, pauses = [], [], []
    with Engine(f'sqlite:///{path}', steps=80, switch_interval=0.0005) as engine:
        loads = [engine.submit(Sleep) for _ in range(SLEEPING)] + [engine.submit(Burn) for _ in range(BURNING)]
        while len(engine.core.dispatcher.visits()) < len(loads):
            time.sleep(0.01)
        for _ in range(intents):
            node, other = (engine.submit(Wait, other=loads[0]) for _ in range(2))
            ended = engine.future(node)
            began = time.perf_counter()
            engine.kill(node)
            kills.append(time.perf_counter() - began)
            ended.result(30)
            ends.append(time.perf_counter() - began)
            pauses.append(_timed(lambda other=other: engine.pause(other)))
            engine.kill(other)
        Sleep.over.set()
        engine.wait(loads)
        Sleep.over.clear()
    return [
        _row(f'kill beside {SLEEPING} sleeping and {BURNING} burning steps, p99', _percentile(kills)),
        _row('  and whoever waits for it knows, p99', _percentile(ends)),
        _row('pause beside them, p99', _percentile(pauses)),
    ]


def beside_two_saturated_engines(path: Path, intents: int) -> list[Row]:
    """Kills by a third OS process while two engines write as fast as they can."""
    url = f'sqlite:///{path}'
    with Engine(url) as engine:
        engine.core.begin_no_step()
        pids = [engine.submit(Sleep).pid for _ in range(intents)]
    location, times = locate(url), []
    with _saturating(url) as one, _saturating(url) as other:
        for pid in pids:
            times.append(_timed(lambda pid=pid: write_once(location, lambda each: kill(each, [pid], 'bench'))))
            time.sleep(0.01)
        for each in (one, other):
            each.stdin.write('stop\n')
            each.stdin.flush()
        counts = [int(each.stdout.readline()) for each in (one, other)]
        lost = [each.stderr.read().count('declared dead') for each in (one, other)]
    if any(lost):
        raise SystemExit('an engine has lost its lease')
    return [
        _row('kill beside two saturated engines, p99', _percentile(times)),
        Row('work of the slower of the two engines', 'processes', min(counts), max(counts), 'the faster', 0.5),
    ]


def noticing(path: Path, count: int) -> list[Row]:
    """What comes into the store past the engine, as from another OS process, until it has run."""
    times = []
    with Engine(f'sqlite:///{path}') as engine:
        engine.run(AddTwoSteps, x=1, y=1)
        origin, codec = engine.core.engine_id, engine.core.source.codec
        for number in range(count):
            record = compose(AddTwoSteps, {'x': number, 'y': 1}, codec=codec, pid=10_000 + number, origin=origin)
            write_once(engine.location, lambda each, record=record: apply(each, [Unit(create=(record,))]))
            began = time.perf_counter()
            engine.wait(record.pid)
            times.append(time.perf_counter() - began)
    return [
        _row('noticing and running what came from elsewhere, median', statistics.median(times), 0.05),
        _row('  the same, p99', _percentile(times)),
    ]


@contextlib.contextmanager
def _saturating(url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name('saturate.py')), url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if process.stdout.readline() != 'working\n':
            raise SystemExit(process.stderr.read())
        yield process
    finally:
        process.kill()
        process.wait()


def waiting(path: Path, count: int) -> list[Row]:
    """What processes that wait cost an engine, and how soon one of them wakes."""
    with Engine(f'sqlite:///{path}') as engine:
        root = engine.submit(Sleep)
        for _ in range(100):
            engine.submit(Wait, other=root)
        _until_waiting(engine, 100)
        before = _resident()
        for _ in range(count - 100):
            engine.submit(Wait, other=root)
        _until_waiting(engine, count)
        grown = _resident() - before
        began, cpu = time.perf_counter(), time.process_time()
        time.sleep(3)
        idle = (time.process_time() - cpu) / (time.perf_counter() - began)
        wakes = []
        for _ in range(20):
            single = engine.submit(Wait, other=root)
            waiter = engine.submit(Wait, other=single)
            while waiter.state != 'waiting':
                time.sleep(0.001)
            ended = engine.future(waiter)
            began = time.perf_counter()
            engine.kill(single)
            ended.result(30)
            wakes.append(time.perf_counter() - began)
        Sleep.over.set()
    return [
        _goal(f'memory of {count:,} waiting processes', 'MB', grown / 1e6, 20.0),
        _goal('CPU of an idle engine with them', '%', 100 * idle, 1.0),
        _row('waking one and running it to its end, median', statistics.median(wakes), 0.02),
    ]


def _until_waiting(engine: Engine, count: int) -> None:
    while sum(n for state, _, n in engine.core.source.reader.counts() if state == 'waiting') < count:
        time.sleep(0.05)


def _resident() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def _timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == '__main__':
    main()
