"""Past one OS process: PostgreSQL and RabbitMQ with two worker processes; ``./tools/bench scale``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import AddTwoSteps, Stamp
from report import Row, show

from treadle.engine import Engine

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from provision import Postgres, RabbitMQ  # noqa: E402  (beside this folder)

#: Workflows of two steps a second of DBOS 3.4.0 on PostgreSQL, measured on two cores; ``--dbos`` measures it anew.
DBOS_RATE = 190.0
WORKERS = 2
#: PostgreSQL as it comes: what it has said is durable survives a power cut.
DURABLE = {'fsync': 'on', 'full_page_writes': 'on', 'shared_buffers': '128MB'}


def main() -> None:
    """Start the services, measure, check what was written, and print."""
    parser = argparse.ArgumentParser(description='Two worker processes on PostgreSQL and RabbitMQ')
    parser.add_argument('--json', action='store_true', help='for machines')
    parser.add_argument('--processes', type=int, default=3000, help='many at once (default 3000)')
    parser.add_argument('--calls', type=int, default=300, help='one after the other (default 300)')
    parser.add_argument('--messages', type=int, default=2000, help='broadcasts and tasks (default 2000)')
    parser.add_argument('--rounds', type=int, default=3, help='the medians of so many rounds (default 3)')
    parser.add_argument('--dbos', metavar='PYTHON', help='a Python with DBOS, to be measured in this run')
    parser.add_argument(
        '--idle', type=float, default=20.0, help='seconds of watching an idle engine (default 20)'
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='treadle-bench-') as folder:
        database = Postgres(Path(folder) / 'postgres', settings=DURABLE)
        broker = RabbitMQ(Path(folder) / 'rabbitmq')
        with database, broker:
            show(Scale(database, broker, options).measure(), as_json=options.json)


class Scale:
    """The measurements, each on a database of its own."""

    def __init__(self, database: Postgres, broker: RabbitMQ, options: argparse.Namespace) -> None:
        self._database = database
        self._broker = broker
        self._options = options

    def measure(self) -> list[Row]:
        """All of them."""
        options = self._options
        kiwipy = _peer(sys.executable, 'peer_kiwipy.py', self._broker.url(), options.messages)
        dbos, name = DBOS_RATE, 'DBOS, measured before'
        if options.dbos:
            url = self._database.create_database('dbos')
            dbos, name = _peer(options.dbos, 'peer_dbos.py', url, 500)['rate'], 'DBOS'
        rows = []
        for broadcasts, goal in (('none', 8.0), ('terminal', None), ('all', None)):
            rows += self.rates(broadcasts, dbos, name, goal)
        for with_broker in (True, False):
            rows += self.latencies(with_broker=with_broker)
        rows += self.messages(kiwipy)
        rows.append(self.idling())
        return rows

    # -- many at once --------------------------------------------------------------------------------------

    def rates(self, broadcasts: str, dbos: float, name: str, goal: float | None) -> list[Row]:
        """Work chains a second: submitted by one engine and run by others, and run where they are submitted."""
        count, rounds = self._options.processes, self._options.rounds
        elsewhere, own = [], []
        urls = self._urls(f'rates_{broadcasts}', broadcasts=broadcasts)
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(_worker(urls)) for _ in range(WORKERS)]
            with _submitter(urls) as engine:
                asyncio.run(many(engine, 200))
                for _ in range(rounds):
                    began = time.perf_counter()
                    asyncio.run(many(engine, count))
                    elsewhere.append(count / (time.perf_counter() - began))
                for _ in range(rounds):
                    for worker in workers:
                        _tell(worker, f'run {count // WORKERS}')
                    own.append(count / max(float(worker.stdout.readline()) for worker in workers))
        check(urls['store'], 200 + rounds * (count + count // WORKERS * WORKERS))
        return [
            Row(
                f"2-step work chains, broadcasts='{broadcasts}'",
                '/s',
                statistics.median(elsewhere),
                dbos,
                name,
                goal,
            ),
            Row('  each worker runs what it has submitted', '/s', statistics.median(own), dbos, name, None),
        ]

    # -- one after the other -------------------------------------------------------------------------------

    def latencies(self, *, with_broker: bool) -> list[Row]:
        """Submitting in one OS process, and how soon the step begins in another."""
        calls = self._options.calls
        submits, wakes, runs = [], [], []
        urls = self._urls(f'latencies_{with_broker}'.lower(), with_broker=with_broker)
        with contextlib.ExitStack() as stack:
            for _ in range(WORKERS):
                stack.enter_context(_worker(urls))
            engine = stack.enter_context(_submitter(urls))
            engine.run(Stamp)
            for _ in range(calls):
                began = time.monotonic()
                node = engine.submit(Stamp)
                submits.append(time.monotonic() - began)
                engine.wait(node)
                runs.append(time.monotonic() - began)
                wakes.append(node.outputs.began - began)
        check(urls['store'], 1 + calls)
        how, goal = ('with a broker', 0.01) if with_broker else ('without one', None)
        return [
            _goal(f'submit, {how}, p50', _percentile(submits, 0.5), None),
            _goal('  p99', _percentile(submits, 0.99), None),
            # Without a broker others are looked at ten times a second.
            _goal(f'from submit to the step elsewhere, {how}, p50', _percentile(wakes, 0.5), goal),
            _goal('  p99', _percentile(wakes, 0.99), None),
            _goal('  and its end is known where it was submitted, p50', _percentile(runs, 0.5), None),
        ]

    # -- messages ------------------------------------------------------------------------------------------

    def messages(self, kiwipy: dict[str, float]) -> list[Row]:
        """Broadcasts heard in another OS process, and RPCs answered there."""
        count = self._options.messages
        urls = self._urls('messages')
        times = []
        with _worker(urls) as worker, _submitter(urls) as engine:
            node = engine.submit(Stamp)
            engine.wait(node)
            _tell(worker, f'hear {count}')
            worker.stdout.readline()
            began = time.monotonic()
            for number in range(count):
                engine.communicator.broadcast_send(
                    number, sender=number, subject='state_changed.running.finished'
                )
            rate = count / (float(worker.stdout.readline()) - began)
            for _ in range(min(200, count)):
                began = time.monotonic()
                engine.communicator.rpc_send(node.pid, {'intent': 'status'}).result(60)
                times.append(time.monotonic() - began)
        return [
            Row('broadcasts to another OS process', '/s', rate, kiwipy['broadcasts'], 'kiwipy', None),
            Row('RPC: the status of a process, p50', 'ms', statistics.median(times) * 1e3, kiwipy['rpc'] * 1e3,
                'kiwipy, an echo', None, less_is_better=True),
        ]  # fmt: skip

    # -- nothing -------------------------------------------------------------------------------------------

    def idling(self) -> Row:
        """What an engine without a broker costs while there is nothing to do."""
        with Engine(**self._urls('idling', with_broker=False), claims='all') as engine:
            engine.run(Stamp)
            began, cpu = time.perf_counter(), time.process_time()
            time.sleep(self._options.idle)
            share = (time.process_time() - cpu) / (time.perf_counter() - began)
        return Row(
            'CPU of an idle engine without a broker', '%', 100 * share, 1.0, 'the fixed goal', 1.0, True
        )

    def _urls(self, database: str, *, with_broker: bool = True, broadcasts: str = 'none') -> dict[str, Any]:
        """What an engine is told, on a new database."""
        urls: dict[str, Any] = {'store': self._database.create_database(database)}
        if with_broker:
            urls.update(broker=self._broker.create_vhost(database), broadcasts=broadcasts)
        return urls


async def many(engine: Engine, count: int) -> None:
    """Start so many at once, and wait for all of their ends."""
    await asyncio.gather(*(engine.run_async(AddTwoSteps, x=number, y=2) for number in range(count)))


@contextlib.contextmanager
def _submitter(urls: dict[str, Any]) -> Iterator[Engine]:
    """An engine that leaves what it submits to others."""
    with Engine(**urls, name='submitter') as engine:
        engine.core.begin_no_step()
        yield engine


@contextlib.contextmanager
def _worker(urls: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / 'scale_worker.py'), json.dumps(urls)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if process.stdout.readline() != 'working\n':
            raise SystemExit('a worker did not start')
        yield process
        _tell(process, 'stop')
        if process.wait(60) != 0:
            raise SystemExit(f'a worker ended with {process.returncode}')
    finally:
        process.kill()
        process.wait()


def _tell(worker: subprocess.Popen[str], line: str) -> None:
    worker.stdin.write(f'{line}\n')
    worker.stdin.flush()


def _peer(python: str, script: str, url: str, count: int) -> dict[str, float]:
    done = subprocess.run(
        [python, str(HERE / script), url, str(count)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return json.loads(done.stdout)


def check(url: str, expected: int) -> None:
    """Look at every row: all there, all finished, each output right, nothing left over."""
    import psycopg  # noqa: PLC0415  (what is not measured here needs none)

    with psycopg.connect(url, options='-c search_path=treadle') as database:
        columns = 'process_label, state, exit_status, owner, inputs, outputs'
        rows = database.execute(f'SELECT {columns} FROM process').fetchall()
        left = database.execute('SELECT count(*) FROM awaiting').fetchone()[0]
    for label, state, status, owner, inputs, outputs in rows:
        given, result = json.loads(inputs), json.loads(outputs)
        right = label != 'AddTwoSteps' or result == {'sum': given['x'] + given['y']}
        if not right or state != 'finished' or status != 0 or owner is not None:
            raise SystemExit(f'a wrong row: {label} {state} {status} {owner} {inputs} -> {outputs}')
    if len(rows) != expected or left:
        raise SystemExit(
            f'{expected} processes were run, {len(rows)} are in the store; {left} waits are left over'
        )


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _goal(name: str, seconds: float, goal: float | None) -> Row:
    # Where there is no goal, a hundredth of a second is what the figures stand beside.
    return Row(name, 'ms', seconds * 1e3, 1e3 * (goal or 0.01), 'the fixed goal' if goal else '10 ms',
               None if goal is None else 1.0, less_is_better=True)  # fmt: skip


if __name__ == '__main__':
    main()
