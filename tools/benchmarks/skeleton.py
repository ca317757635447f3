"""The bare shape of Treadle's design: the least that the measured machine must do for durable processes.

Worker loops, step threads, and a store thread that commits whatever has gathered with ``synchronous=FULL``; three
commits a process, two steps on threads in between. No validation, no types, no log, no fences, no recovery.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import json
import queue
import sqlite3
import threading
from pathlib import Path

INSERT = 'INSERT INTO p (pid, state, inputs, epoch) VALUES (?, ?, ?, 1)'
CHECKPOINT = 'UPDATE p SET checkpoint = ?, state = ? WHERE pid = ? AND epoch = ?'
FINISH = 'UPDATE p SET state = ?, outputs = ?, checkpoint = NULL WHERE pid = ? AND epoch = ?'
SCHEMA = (
    'CREATE TABLE p (pid INTEGER PRIMARY KEY, state TEXT, inputs TEXT, checkpoint TEXT, outputs TEXT, epoch INT)'
)


class Store(threading.Thread):
    """Commits in groups and answers on the asking loop."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self.start()

    def write(self, sql: str, parameters: tuple, loop: asyncio.AbstractEventLoop) -> asyncio.Future:
        """Write one row; the future resolves when it is durable."""
        future = loop.create_future()
        self._queue.put((sql, parameters, loop, future))
        return future

    def run(self) -> None:
        """Serve until the interpreter ends."""
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute('PRAGMA journal_mode = WAL')
        database.execute('PRAGMA synchronous = FULL')
        database.execute(SCHEMA)
        while True:
            self._write_batch(database, self._gather())

    def _gather(self) -> list[tuple]:
        batch = [self._queue.get()]
        try:
            while len(batch) < 1000:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            return batch
        return batch

    def _write_batch(self, database: sqlite3.Connection, batch: list[tuple]) -> None:
        rows = collections.defaultdict(list)
        answers = collections.defaultdict(list)
        for sql, parameters, loop, future in batch:
            rows[sql].append(parameters)
            answers[loop].append(future)
        database.execute('BEGIN IMMEDIATE')
        for sql, many in rows.items():
            database.executemany(sql, many)
        database.execute('COMMIT')
        for loop, futures in answers.items():
            loop.call_soon_threadsafe(_resolve, futures)


class Skeleton:
    """``workers`` loops, eight step threads and a store."""

    def __init__(self, folder: Path, *, workers: int) -> None:
        self._store = Store(folder / 'skeleton.db')
        self._steps = concurrent.futures.ThreadPoolExecutor(8)
        self._loops = [asyncio.new_event_loop() for _ in range(workers)]
        for loop in self._loops:
            threading.Thread(target=loop.run_forever, daemon=True).start()
        self._pid = 0

    def start(self) -> concurrent.futures.Future:
        """Start one process."""
        self._pid += 1
        loop = self._loops[self._pid % len(self._loops)]
        return asyncio.run_coroutine_threadsafe(self._process(self._pid), loop)

    async def _process(self, pid: int) -> None:
        loop, store = asyncio.get_running_loop(), self._store
        ctx = {'x': pid}
        await store.write(INSERT, (pid, 'created', json.dumps(ctx)), loop)
        await loop.run_in_executor(self._steps, _step_1, ctx)
        await store.write(CHECKPOINT, (json.dumps(ctx), 'running', pid, 1), loop)
        outputs = await loop.run_in_executor(self._steps, _step_2, ctx)
        await store.write(FINISH, ('finished', json.dumps(outputs), pid, 1), loop)

    def stop(self) -> None:
        """Stop the loops and the step threads; the store's thread ends with the interpreter."""
        for loop in self._loops:
            loop.call_soon_threadsafe(loop.stop)
        self._steps.shutdown()


def _resolve(futures: list[asyncio.Future]) -> None:
    for future in futures:
        future.set_result(None)


def _step_1(ctx: dict) -> None:
    ctx['sum'] = ctx['x'] + 2


def _step_2(ctx: dict) -> dict:
    return {'sum': ctx['sum']}
