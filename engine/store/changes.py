"""Noticing that somebody has committed something, at next to no cost."""

from __future__ import annotations

import sqlite3
import time
from types import TracebackType
from typing import Self

from .location import StoreLocation
from .reader import uncut
from .sqlite import connect_reader, translate_error

__all__ = ['Changes']

#: Seconds between two looks.
INTERVAL = 0.05


class Changes:
    """Tells when the store has changed; a context manager with a connection of its own, for one thread."""

    def __init__(self, location: StoreLocation) -> None:
        self._location = location
        with uncut:
            self._connection = connect_reader(location)
        self._seen = self._version()

    def _version(self) -> int:
        with uncut:
            try:
                return int(self._connection.execute('PRAGMA data_version').fetchone()[0])
            except sqlite3.Error as error:
                raise translate_error(error, self._location) from error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until something was committed since the last call, or since this was made.

        :param timeout: seconds; ``None`` waits for ever.
        :returns: ``False`` when the time was over first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            version = self._version()
            if version != self._seen:
                self._seen = version
                return True
            left = INTERVAL if deadline is None else min(INTERVAL, deadline - time.monotonic())
            if left <= 0:
                return False
            time.sleep(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uncut:
            self._connection.close()
