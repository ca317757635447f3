"""The crossings between threads, each beside the raw call that it is made of."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable

import janus
from report import Row

from treadle.threads import LoopThread, Mailbox, wait

CALLS, ITEMS = 2000, 20000


async def _nothing() -> None:
    return None


def _latency(call: Callable[[], object]) -> float:
    """The median time of a call, in microseconds."""
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def measure(rounds: int) -> list[Row]:
    """The rows of the bridge's latency and the mailbox's rate, medians over the rounds."""
    thread = LoopThread('bench-loop')
    thread.start()
    try:
        raw, bridged, plain, boxed = [], [], [], []
        for _ in range(rounds):
            raw.append(_latency(lambda: asyncio.run_coroutine_threadsafe(_nothing(), thread.loop).result()))
            bridged.append(_latency(lambda: wait(thread.bridge.submit(_nothing))))
            plain.append(_janus_rate(thread))
            boxed.append(_mailbox_rate(thread))
    finally:
        thread.stop()
    return [
        Row(
            'a call through the bridge, latency', 'us', statistics.median(bridged), statistics.median(raw),
            'run_coroutine_threadsafe', 1.3, less_is_better=True,
        ),
        Row(
            'items through a mailbox', '/s', statistics.median(boxed), statistics.median(plain), 'janus', 0.8
        ),
    ]  # fmt: skip


def _janus_rate(thread: LoopThread) -> float:
    made: janus.Queue[int] = janus.Queue()

    async def read() -> None:
        for _ in range(ITEMS):
            await made.async_q.get()
        await made.aclose()

    return _rate(thread, read, made.sync_q.put)


def _mailbox_rate(thread: LoopThread) -> float:
    mailbox: Mailbox[int] = Mailbox()

    async def read() -> None:
        for _ in range(ITEMS):
            await mailbox.get()

    return _rate(thread, read, mailbox.put)


def _rate(thread: LoopThread, read: Callable[[], object], put: Callable[[int], None]) -> float:
    done = thread.bridge.submit(read)
    began = time.perf_counter()
    writer = threading.Thread(target=lambda: [put(number) for number in range(ITEMS)])
    writer.start()
    wait(done)
    taken = time.perf_counter() - began
    writer.join()
    return ITEMS / taken
