"""A circuit breaker: after a failure nobody goes to the computer but one probe, and that ever more seldom."""

from __future__ import annotations

import dataclasses
import random

from ..errors import TransportError

__all__ = ['Backoff', 'Breaker']


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to leave a computer alone, in seconds.

    :ivar first: after the first failure; each further one doubles it.
    :ivar most: what it does not exceed.
    :ivar first_refused: like ``first``, after a failure that waiting does not mend: accounts that knock again and again
        with a wrong key are locked.
    :ivar most_refused: like ``most``, after such a failure.
    :ivar jitter: each pause is made longer at random by up to this part of it.
    :ivar stable: a connection that breaks sooner than this after it was opened counts as a failed opening.
    """

    first: float = 5.0
    most: float = 300.0
    first_refused: float = 300.0
    most_refused: float = 3600.0
    jitter: float = 0.25
    stable: float = 30.0

    def pause(self, failures: int, error: TransportError) -> float:
        """How long, after so many failures in a row, the last of which was this one."""
        first, most = (self.first, self.most) if error.transient else (self.first_refused, self.most_refused)
        # Far beyond any `most`, and no number too large for a float.
        pause = min(first * 2.0 ** min(failures - 1, 40), most)
        return pause * (1.0 + random.uniform(0.0, self.jitter))


class Breaker:
    """Counts the failures of one computer, and says when it may be tried again.

    :ivar failures: in a row.
    :ivar retry_at: on the monotonic clock; ``None`` while the circuit is closed, and all may go there.
    :ivar last_error: of the last failure, also when the circuit is closed again.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._opened_at: float | None = None
        self.failures = 0
        self.retry_at: float | None = None
        self.last_error: TransportError | None = None

    @property
    def is_open(self) -> bool:
        """Whether only a probe may go there."""
        return self.retry_at is not None

    def failed(self, error: TransportError, now: float) -> None:
        """An opening failed."""
        self.failures += 1
        self.last_error = error
        self.retry_at = now + self._backoff.pause(self.failures, error)

    def opened(self, now: float) -> None:
        """An opening succeeded."""
        self._opened_at = now
        self.retry_at = None

    def broke(self, error: TransportError, now: float) -> None:
        """An open connection broke; at once after its opening that is no better than a failed one."""
        opened_at, self._opened_at = self._opened_at, None
        if opened_at is not None and now - opened_at < self._backoff.stable:
            self.failed(error, now)
        else:
            self.failures = 0
            self.last_error = error

    def closed(self) -> None:
        """A connection was closed in good order."""
        self._opened_at = None
        self.failures = 0

    def forgive(self) -> None:
        """Let all go there at once: somebody says that it is mended."""
        self.failures = 0
        self.retry_at = None
