"""Connections that are borrowed for one query each, by any thread.

They are kept on a small stack, so that a host with many threads does not keep one each.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ...threads import Uncut

__all__ = ['Connection', 'Connections', 'uncut']

T = TypeVar('T')

#: Every call of the database's library is made inside it.
uncut = Uncut()

# Seconds between two attempts to reach a database that is away: at first, and at most.
_PAUSE_FIRST, _PAUSE_MOST = 0.05, 2.0


class Connection(Protocol):
    """The part of a driver's connection that reading uses."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Any:
        """Run one statement and return a cursor over its rows."""

    def close(self) -> None:
        """Disconnect."""


class Connections:
    """Lends connections.

    :param connect: opens one that may travel between threads.
    :param translate: turns a driver's error into one of ours.
    :param is_lost: whether an error means that the database is away, for now.
    :param leave: gets rid of a parent's connection in a forked child.
    :param keep: how many idle ones are kept.
    :param patience: seconds to go on trying while the database is away.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Connection],
        translate: Callable[[BaseException], BaseException],
        is_lost: Callable[[BaseException], bool],
        leave: Callable[[Any], None],
        keep: int,
        patience: float = 0.0,
    ) -> None:
        self._connect = connect
        self._translate = translate
        self._is_lost = is_lost
        self._leave = leave
        self._keep = keep
        self._patience = patience
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = threading.Event()

    def use(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, which is called with a connection that is nobody else's meanwhile.

        :param work: may be called again with another connection, if this one is lost.
        :raises StoreError: the database cannot be used, or was away for too long.
        """
        give_up = time.monotonic() + self._patience
        pause = _PAUSE_FIRST
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            was_idle = connection is not None
            try:
                with uncut:
                    result, connection = self._attempt(work, connection)
            except Exception as error:
                if not self._is_lost(error):
                    raise self._translate(error) from error
                if was_idle:
                    self._close_idle()  # lost while nobody looked, and so are the others
                    continue
                if time.monotonic() >= give_up or self._closed.wait(pause * random.uniform(0.5, 1.0)):
                    raise self._translate(error) from error
                pause = min(2 * pause, _PAUSE_MOST)
                continue
            self._give_back(connection)
            return result

    def _attempt(self, work: Callable[[Connection], T], connection: Connection | None) -> tuple[T, Connection]:
        if connection is None:
            connection = self._connect()
        try:
            return work(connection), connection
        except BaseException:
            connection.close()
            raise

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if len(self._idle) < self._keep and not self._closed.is_set():
                self._idle.append(connection)
                return
        with uncut:
            connection.close()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        with uncut:
            for connection in idle:
                connection.close()

    def close(self) -> None:
        """Close the idle ones, keep none from now on, and wait for no database; lending goes on."""
        self._closed.set()
        self._close_idle()

    def forget(self) -> None:
        """In a forked child, use nothing of the parent's."""
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for connection in idle:
            self._leave(connection)
