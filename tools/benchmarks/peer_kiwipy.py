"""kiwipy's own figures over RabbitMQ, in an OS process of its own: ``python peer_kiwipy.py URL MESSAGES``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

import kiwipy.rmq


def main(url: str, messages: int) -> None:
    """Measure and print."""
    with kiwipy.rmq.RmqThreadCommunicator.connect(url) as communicator:
        figures = {
            'tasks': tasks(communicator, messages),
            'rpc': rpc(communicator, min(200, messages)),
            'broadcasts': broadcasts(communicator, url, messages),
        }
    json.dump(figures, sys.stdout)


def tasks(communicator: Any, count: int) -> float:
    """Tasks a second that a subscriber of the same communicator has done, all sent before the first one is awaited."""
    communicator.add_task_subscriber(lambda _, task: task)
    began = time.perf_counter()
    for answer in [communicator.task_send(number) for number in range(count)]:
        while isinstance(answer, Future):
            answer = answer.result(60)
    return count / (time.perf_counter() - began)


def rpc(communicator: Any, count: int) -> float:
    """Median seconds of one RPC after the other."""
    communicator.add_rpc_subscriber(lambda _, message: message, 'echo')
    times = []
    for number in range(count):
        began = time.perf_counter()
        communicator.rpc_send('echo', number).result(60)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def broadcasts(communicator: Any, url: str, count: int) -> float:
    """Broadcasts a second that another OS process has heard."""
    with subprocess.Popen(
        [sys.executable, __file__, url, str(count), 'hear'], stdout=subprocess.PIPE, text=True
    ) as listener:
        listener.stdout.readline()
        began = time.monotonic()
        for number in range(count):
            communicator.broadcast_send(number, sender=number, subject='state_changed.running.finished')
        heard = float(listener.stdout.readline())
    return count / (heard - began)


def hear(url: str, count: int) -> None:
    """Say when so many broadcasts have been heard."""
    heard, left = threading.Event(), iter(range(count - 1, -1, -1))

    def hear_one(*_: Any, **__: Any) -> None:
        if next(left) == 0:
            heard.set()

    with kiwipy.rmq.RmqThreadCommunicator.connect(url) as communicator:
        communicator.add_broadcast_subscriber(hear_one)
        print('listening', flush=True)
        if not heard.wait(60):
            raise SystemExit('not all broadcasts were heard')
        print(time.monotonic(), flush=True)


if __name__ == '__main__':
    if sys.argv[3:] == ['hear']:
        hear(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv[1], int(sys.argv[2]))
