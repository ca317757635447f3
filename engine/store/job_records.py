"""What crosses between the desks and the store: rows of the tables ``job`` and ``computer``."""

from __future__ import annotations

import msgspec

__all__ = ['JobFence', 'JobRecord', 'JobView']


class JobRecord(msgspec.Struct, frozen=True, gc=False):
    """One row of the table ``job``, field for column.

    The job of a process; there is one at most. ``state`` is a ``JobState``. ``owner`` is the engine that looks after
    it; a job whose owner has ended is anybody's. ``epoch`` is raised by each change of the owner, and fences all that
    is written. ``monitored`` is 1 if something is to look at it while it runs. ``request`` and ``retrieved`` are
    encoded values, ``outcome`` is JSON.
    """

    pid: int
    computer: str
    state: str
    request: str
    attempt: int = 0
    epoch: int = 1
    owner: int | None = None
    folder: str | None = None
    job_id: str | None = None
    phase: str | None = None
    outcome: str | None = None
    retrieved: str | None = None
    note: str | None = None
    monitored: int = 0
    changed_at: float = 0.0


class JobView(msgspec.Struct, frozen=True, gc=False):
    """What a desk needs to know of a job all the time.

    :ivar process_state: of the process whose job it is.
    :ivar paused: of that process; not 0 when no further act is to begin.
    :ivar outcome: what is known of its end.
    """

    pid: int
    state: str
    attempt: int
    epoch: int
    folder: str | None
    job_id: str | None
    phase: str | None
    outcome: str | None
    note: str | None
    monitored: int
    process_state: str
    paused: int


class JobFence(msgspec.Struct, frozen=True, gc=False):
    """What a desk believes of a job's row; a write counts only while it is true."""

    pid: int
    epoch: int
    attempt: int
