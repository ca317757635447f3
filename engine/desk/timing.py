"""How patient a desk is; tests are less so."""

from __future__ import annotations

import dataclasses

__all__ = ['Timing']


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds.

    :ivar certain_after: for how long nothing of a submission must be found, whose script is dead, before it is taken
        for one that did not happen.
    :ivar vanish_after: for how long a job must be absent from the queue and have left no word before it is given up.
    :ivar settle_after: how long a job's word may take to be seen after the scheduler calls it over.
    :ivar retry_first: the pause before something about one job is tried again, at first; it doubles.
    :ivar retry_most: and at most.
    :ivar probe_first: the pause before a computer that could not be reached is asked again, at first; it doubles.
    :ivar probe_most: and at most.
    :ivar command: how long a command of ours or the scheduler's may take there.
    """

    certain_after: float = 60.0
    vanish_after: float = 300.0
    settle_after: float = 20.0
    retry_first: float = 0.5
    retry_most: float = 60.0
    probe_first: float = 2.0
    probe_most: float = 60.0
    command: float = 180.0
