from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

import janus
import pytest

from treadle.threads import LoopClosed, LoopThread, Mailbox, ThreadsError, WrongThread

Make = Callable[..., LoopThread]


async def read_all(mailbox: Mailbox[int]) -> list[int]:
    return [item async for item in mailbox]


def test_items_come_in_order_and_closing_ends_the_reader(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox('numbers')
    reading = loop_thread.bridge.submit(read_all, mailbox)
    for number in range(1000):
        mailbox.put(number)
    mailbox.close()
    mailbox.close()
    assert reading.result(5) == list(range(1000))
    assert mailbox.closed
    with pytest.raises(LoopClosed, match='numbers'):
        mailbox.put(1)
    with pytest.raises(LoopClosed):
        mailbox.put_nowait(1)
    with pytest.raises(LoopClosed, match='read to its end'):
        loop_thread.bridge.submit(mailbox.get).result(5)
    assert mailbox.drain_remaining() == []


def test_each_writer_keeps_its_order(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[tuple[int, int]] = Mailbox(maxsize=10)

    async def read() -> list[tuple[int, int]]:
        return [item async for item in mailbox]

    def write(writer: int) -> None:
        for number in range(100):
            mailbox.put((writer, number))

    reading = loop_thread.bridge.submit(read)
    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    mailbox.close()
    items = reading.result(5)
    assert len(items) == 800
    for writer in range(8):
        assert [number for who, number in items if who == writer] == list(range(100))


def test_get_batch_gives_all_that_is_there(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox()
    for number in range(10):
        mailbox.put(number)
    bridge = loop_thread.bridge
    assert bridge.submit(mailbox.get_batch, 4).result(5) == [0, 1, 2, 3]
    assert bridge.submit(mailbox.get_batch).result(5) == [4, 5, 6, 7, 8, 9]
    waiting = bridge.submit(mailbox.get_batch)
    mailbox.put(10)
    assert waiting.result(5) == [10]
    mailbox.put(11)
    mailbox.close()
    assert bridge.submit(mailbox.get_batch).result(5) == [11]
    with pytest.raises(LoopClosed):
        bridge.submit(mailbox.get_batch).result(5)
    with pytest.raises(ValueError, match='at least 1'):
        bridge.submit(mailbox.get_batch, 0).result(5)


def test_closing_wakes_a_waiting_reader(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox()
    waiting = loop_thread.bridge.submit(mailbox.get)
    loop_thread.bridge.submit(asyncio.sleep, 0).result(5)
    mailbox.close()
    with pytest.raises(LoopClosed):
        waiting.result(5)


def test_a_cancelled_reader_takes_nothing(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox()

    async def cancel_and_read() -> int:
        reader = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        mailbox.put(1)
        reader.cancel()
        await asyncio.wait([reader])
        return reader.result() if not reader.cancelled() else await mailbox.get()

    assert loop_thread.bridge.submit(cancel_and_read).result(5) == 1


def test_a_second_reader_is_refused(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox('one')
    reading = loop_thread.bridge.submit(mailbox.get)
    loop_thread.bridge.submit(asyncio.sleep, 0).result(5)
    with pytest.raises(ThreadsError, match="'one' is being read"):
        loop_thread.bridge.submit(mailbox.get).result(5)
    mailbox.put(1)
    assert reading.result(5) == 1


def test_what_is_left_goes_back_to_the_owner(make_thread: Make) -> None:
    thread = make_thread()
    thread.start()
    mailbox: Mailbox[int] = Mailbox()
    reading = thread.bridge.submit(mailbox.get)
    mailbox.put(0)
    assert reading.result(5) == 0
    waiting = thread.bridge.submit(mailbox.get)
    thread.bridge.submit(asyncio.sleep, 0).result(5)
    thread.stop()
    assert isinstance(waiting.exception(0), LoopClosed)
    # The reader's loop is gone, which no writer can know: accepted, and handed back.
    mailbox.put(1)
    mailbox.put_nowait(2)
    assert len(mailbox) == 2
    assert mailbox.drain_remaining() == [1, 2]
    with pytest.raises(LoopClosed):
        mailbox.put(3)


def test_every_item_is_read_or_handed_back_when_the_loop_stops(make_thread: Make) -> None:
    for _ in range(5):
        thread = make_thread()
        thread.start()
        mailbox: Mailbox[tuple[int, int]] = Mailbox()
        read: list[tuple[int, int]] = []
        accepted: list[list[tuple[int, int]]] = [[] for _ in range(4)]
        some = threading.Barrier(5)

        async def reader(mailbox: Mailbox[tuple[int, int]] = mailbox, read: list[tuple[int, int]] = read) -> None:
            async for item in mailbox:
                read.append(item)

        def write(
            writer: int,
            mailbox: Mailbox[tuple[int, int]] = mailbox,
            accepted: list[list[tuple[int, int]]] = accepted,
            some: threading.Barrier = some,
        ) -> None:
            try:
                for number in range(100_000):
                    mailbox.put((writer, number))
                    accepted[writer].append((writer, number))
                    if number == 200:
                        some.wait(5)
            except LoopClosed:
                return

        thread.bridge.submit(reader)
        writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for one in writers:
            one.start()
        some.wait(5)
        thread.stop()
        rest = mailbox.drain_remaining()
        for one in writers:
            one.join()
        rest += mailbox.drain_remaining()
        assert sorted(read + rest) == sorted(item for items in accepted for item in items)


# -- bounds -----------------------------------------------------------------------------------------------------


def test_a_full_mailbox_blocks_its_writers_until_there_is_room(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox('small', maxsize=1)
    mailbox.put(1)
    with pytest.raises(queue.Full):
        mailbox.put_nowait(2)
    with pytest.raises(TimeoutError, match=r"'small' stayed full for 0.01 s"):
        mailbox.put(2, timeout=0.01)
    with pytest.raises(TimeoutError):
        mailbox.put(2, timeout=-1)
    writer = threading.Thread(target=mailbox.put, args=(2,))
    writer.start()
    assert loop_thread.bridge.submit(mailbox.get).result(5) == 1
    assert loop_thread.bridge.submit(mailbox.get).result(5) == 2
    writer.join()


def test_closing_frees_blocked_writers_and_takes_nothing_from_them() -> None:
    mailbox: Mailbox[int] = Mailbox(maxsize=1)
    mailbox.put(1)
    errors: list[BaseException] = []
    begun = threading.Event()

    def write() -> None:
        begun.set()
        try:
            mailbox.put(2)
        except LoopClosed as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(5)
    mailbox.close()
    writer.join(5)
    assert len(errors) == 1
    assert mailbox.drain_remaining() == [1]


def test_a_bounded_put_is_refused_on_treadles_loops(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox('small', maxsize=1)
    with pytest.raises(WrongThread, match=r"put\(\) into the bounded 'small' called on 'treadle-worker-1'"):
        loop_thread.bridge.call(mailbox.put, 1).result(5)
    loop_thread.bridge.call(mailbox.put_nowait, 1).result(5)
    unbounded: Mailbox[int] = Mailbox()
    loop_thread.bridge.call(unbounded.put, 1).result(5)


def test_a_bounded_put_is_refused_on_its_readers_loop() -> None:
    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox('small', maxsize=1)
        reader = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        mailbox.put_nowait(1)
        assert await reader == 1
        with pytest.raises(WrongThread, match='reader'):
            mailbox.put(2)

    asyncio.run(main())


def test_a_reader_that_never_runs_dry_lets_others_run(loop_thread: LoopThread) -> None:
    mailbox: Mailbox[int] = Mailbox()
    for number in range(1000):
        mailbox.put(number)
    mailbox.close()

    async def main() -> int:
        read: list[int] = []
        seen: list[int] = []

        async def reader() -> None:
            async for item in mailbox:
                read.append(item)

        task = asyncio.create_task(reader())
        while not task.done():
            seen.append(len(read))
            await asyncio.sleep(0)
        return len(set(seen))

    assert loop_thread.bridge.submit(main).result(5) > 2


def test_the_rate_is_near_that_of_janus(make_thread: Make) -> None:
    """The goal is 0.8, which the bench shows; here is a bound that noise does not break."""
    thread = make_thread()
    thread.start()
    count = 5000

    async def read_janus(source: janus.Queue[int]) -> None:
        for _ in range(count):
            await source.async_q.get()

    async def read_ours(mailbox: Mailbox[int]) -> None:
        for _ in range(count):
            await mailbox.get()

    def raw() -> float:
        source: janus.Queue[int] = janus.Queue()
        begin = time.perf_counter()
        reading = thread.bridge.submit(read_janus, source)
        for number in range(count):
            source.sync_q.put(number)
        reading.result(10)
        return time.perf_counter() - begin

    def ours() -> float:
        mailbox: Mailbox[int] = Mailbox()
        begin = time.perf_counter()
        reading = thread.bridge.submit(read_ours, mailbox)
        for number in range(count):
            mailbox.put(number)
        reading.result(10)
        return time.perf_counter() - begin

    raws, mailboxes = [], []
    while len(raws) < 5 or (min(mailboxes) >= 2 * min(raws) and len(raws) < 50):
        raws.append(raw())
        mailboxes.append(ours())
    assert min(mailboxes) < 2 * min(raws)
