"""Noticing that somebody has committed something, at next to no cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ['Changes']

#: Seconds between two looks.
INTERVAL = 0.05


class Changes:
    """Tells when the store has changed; a context manager with a connection of its own, for one thread.

    :param version: what is another value once somebody has committed.
    :param close: gives the connection back.
    """

    def __init__(self, *, version: Callable[[], object], close: Callable[[], object]) -> None:
        self._version = version
        self._close = close
        self._seen = version()

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
        self._close()
