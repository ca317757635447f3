"""A queue from any thread to one reader on a loop; the only module that imports janus.

The promise is the bridge's, *accept or raise*: an item whose `put` returned is delivered to the reader or
handed back to the owner by `drain_remaining()`; an item whose `put` raised is neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import janus

from .errors import Forked, LoopClosed, ThreadsError, WrongThread
from .fork import run_in_child
from .loop_thread import refuse_on_loop_thread

T = TypeVar('T')

#: Items that a reader may take without once giving the loop to others.
FAIRNESS = 256


class Mailbox(Generic[T]):
    """Typed, first in first out, bounded or not, closable; many writers, one reader at a time.

    :param name: how errors name it.
    :param maxsize: the number of items that it holds; 0 means no bound.
    """

    def __init__(self, name: str = 'mailbox', *, maxsize: int = 0) -> None:
        self.name = name
        self._queue: janus.Queue[T] = janus.Queue(maxsize)
        # Looked up once: these are called for each item.
        self._sync = self._queue.sync_q
        self._async = self._queue.async_q
        self._bounded = maxsize > 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading = False
        self._taken = 0
        self._closed = False
        self._forked = False
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r} {"closed" if self._closed else "open"}, {len(self)} items>'

    def __len__(self) -> int:
        """The number of items that wait to be read; other threads may change it at any moment."""
        return self._sync.qsize()

    @property
    def closed(self) -> bool:
        """Whether `put` is refused."""
        return self._closed

    # -- from any thread -----------------------------------------------------------------------------------

    def put(self, item: T, timeout: float | None = None) -> None:
        """Add `item`; blocks only when the mailbox is bounded and full, at most `timeout` seconds.

        Not for signal handlers, which may have interrupted a `put` of their own thread.

        :raises LoopClosed: the mailbox is closed, perhaps while this waited; the item was not accepted.
        :raises TimeoutError: it was full for the whole time; the item was not accepted.
        :raises WrongThread: the mailbox is bounded and this is a loop of Treadle's or the reader's own.
        """
        if self._bounded:
            self._refuse_blocking()
        try:
            self._sync.put(item, True, timeout if timeout is None else max(0.0, timeout))
        except janus.SyncQueueShutDown:
            raise self._refusal() from None
        except janus.SyncQueueFull:
            raise TimeoutError(f'{self.name!r} stayed full for {timeout:g} s; its reader is slow or gone') from None
        except RuntimeError:
            self._check_wake_up()

    def put_nowait(self, item: T) -> None:
        """Add `item` without blocking.

        :raises LoopClosed: the mailbox is closed.
        :raises queue.Full: it is bounded and full.
        """
        try:
            self._sync.put(item, False)
        except janus.SyncQueueShutDown:
            raise self._refusal() from None
        except RuntimeError:
            self._check_wake_up()

    def close(self) -> None:
        """Refuse further items; the reader still gets those that were accepted, and then ends.

        From any thread, any number of times. Writers that are blocked in `put` get `LoopClosed`.
        """
        self._closed = True
        try:
            self._queue.shutdown()
        except RuntimeError:
            self._check_wake_up()

    def drain_remaining(self) -> list[T]:
        """Close, and hand back what was accepted and not read; from any thread.

        For the owner, when the reader has ended: each item goes either to the reader or in here.
        """
        self.close()
        items: list[T] = []
        while True:
            try:
                items.append(self._sync.get(False))
            except (janus.SyncQueueShutDown, janus.SyncQueueEmpty):
                return items

    def _refuse_blocking(self) -> None:
        refuse_on_loop_thread(f'put() into the bounded {self.name!r}', 'put_nowait(), or an unbounded mailbox')
        if self._loop is not None and self._loop is asyncio._get_running_loop():
            raise WrongThread(
                f'put() into the bounded {self.name!r} called on the loop of its reader, which would wait for itself; '
                'use put_nowait()'
            )

    def _check_wake_up(self) -> None:
        """After a RuntimeError from janus, whose last act is to wake the reader's loop.

        When that loop is closed the item is in the queue all the same: it was accepted, and its owner gets it
        from `drain_remaining()`.
        """
        if self._loop is None or not self._loop.is_closed():
            raise

    def _refusal(self) -> LoopClosed | Forked:
        if self._forked:
            return Forked(f'the reader of {self.name!r} runs in the parent of this forked child; create a new one')
        return LoopClosed(f'{self.name!r} is closed and takes nothing more')

    # -- on the reader's loop ------------------------------------------------------------------------------

    async def get(self) -> T:
        """The next item, waited for as long as needed. A cancelled `get` takes nothing.

        :raises LoopClosed: the mailbox is closed and all that was accepted has been read.
        :raises ThreadsError: another task is reading.
        """
        self._taken += 1
        if self._taken >= FAIRNESS:
            self._taken = 0
            await asyncio.sleep(0)
        try:
            # Without the two conditions of janus's get(), which cost more than all the rest.
            return self._async.get_nowait()
        except janus.AsyncQueueEmpty:
            return await self._wait()
        except janus.AsyncQueueShutDown:
            raise LoopClosed(f'{self.name!r} is closed and has been read to its end') from None

    async def get_batch(self, limit: int = FAIRNESS) -> list[T]:
        """All that is there, in order: at least one item, at most `limit`. A cancelled call takes none."""
        if limit < 1:
            raise ValueError(f'limit must be at least 1, not {limit}')
        items = [await self.get()]
        try:
            while len(items) < limit:
                items.append(self._async.get_nowait())
        except (janus.AsyncQueueEmpty, janus.AsyncQueueShutDown):
            return items
        return items

    async def __aiter__(self) -> AsyncIterator[T]:
        """Each item until the mailbox is closed and empty."""
        while True:
            try:
                item = await self.get()
            except LoopClosed:
                return
            yield item

    async def _wait(self) -> T:
        # One reader: on Python 3.11 a cancelled waiter of a condition may swallow another one's wake-up.
        if self._reading:
            raise ThreadsError(f'{self.name!r} is being read by another task; give each reader a mailbox of its own')
        self._reading = True
        self._taken = 0
        self._loop = asyncio.get_running_loop()
        try:
            return await self._async.get()
        except janus.AsyncQueueShutDown:
            raise LoopClosed(f'{self.name!r} is closed and has been read to its end') from None
        finally:
            self._reading = False

    def _after_fork(self) -> None:
        # The parent's queue may have been forked with its lock held by a thread that is not here.
        self._forked = self._closed = True
        self._queue = janus.Queue()
        self._queue.shutdown()
        self._sync = self._queue.sync_q
        self._async = self._queue.async_q
