"""Many client threads beside loops that start, stop and crash: what is accepted resolves, and nothing is left."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from typing import Any

import pytest

from treadle.threads import LoopClosed, LoopThread, wait

CLIENTS = 64
ROUNDS = 20

Make = Callable[..., LoopThread]


class Slot:
    """Where the clients find the loop of the moment."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.thread: LoopThread | None = None
        self.over = False
        self.crossings = threading.Semaphore(0)

    def put(self, thread: LoopThread | None) -> None:
        with self.changed:
            self.thread = thread
            self.over = thread is None
            self.changed.notify_all()

    def next(self, last: LoopThread | None) -> LoopThread | None:
        """The loop that comes after `last`; None when there are no more."""
        with self.changed:
            self.changed.wait_for(lambda: self.over or self.thread is not last, 20)
            return self.thread


async def pause(number: int) -> int:
    for _ in range(number % 4):
        await asyncio.sleep(0)
    return number


async def for_ever() -> None:
    await asyncio.Event().wait()


def client(slot: Slot, seed: int, futures: list[Future[Any]], posts: list[list[int]]) -> None:
    rng = random.Random(seed)
    thread = slot.next(None)
    while thread is not None:
        try:
            bridge = thread.bridge
            kind = rng.randrange(6)
            if kind == 0:
                ran: list[int] = []
                bridge.post(ran.append, 1)
                posts.append(ran)
            elif kind == 1:
                ran = []
                bridge.post_many([(ran.append, (1,))])
                posts.append(ran)
            elif kind == 2:
                futures.append(bridge.submit(for_ever))
            elif kind == 3:
                future = bridge.submit(pause, seed)
                futures.append(future)
                future.cancel()
            elif kind == 4:
                call = bridge.call(int)
                futures.append(call)
                wait(call, 20)
            else:
                task = bridge.submit(pause, seed)
                futures.append(task)
                assert wait(task, 20) == seed
        except LoopClosed:
            thread = slot.next(thread)
        else:
            slot.crossings.release()


@pytest.mark.timeout(60)
@pytest.mark.parametrize('how', ['stop', 'crash', 'exit'])
def test_clients_beside_loops_that_come_and_go(
    make_thread: Make, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger='treadle.threads.loop_thread')
    slot = Slot()
    futures: list[list[Future[Any]]] = [[] for _ in range(CLIENTS)]
    posts: list[list[list[int]]] = [[] for _ in range(CLIENTS)]
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            client(slot, number, futures[number], posts[number])
        except BaseException as error:
            errors.append(error)

    clients = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()

    class Fatal(BaseException):
        pass

    def crash() -> None:
        raise SystemExit(3) if how == 'exit' else Fatal

    crashes: list[BaseException] = []
    for number in range(ROUNDS):
        thread = make_thread(f'treadle-worker-{number}', on_crash=lambda _, error: crashes.append(error))
        thread.start()
        slot.put(thread)
        for _ in range(CLIENTS * 2):
            slot.crossings.acquire(timeout=20)
        if how == 'stop':
            thread.stop(20)
        else:
            thread.bridge.post(crash)
            with pytest.raises((SystemExit, Fatal)):
                thread.join(20)
    slot.put(None)
    for one in clients:
        one.join(20)
    assert errors == []
    every = [future for own in futures for future in own]
    done, open_ = wait_for_all(every, timeout=5)
    assert not open_
    assert len(crashes) == (0 if how == 'stop' else ROUNDS)
    for future in done:
        if not future.cancelled():
            assert isinstance(future.exception(), LoopClosed | None)
    accepted = [ran for own in posts for ran in own]
    assert accepted
    assert all(ran == [1] for ran in accepted)
