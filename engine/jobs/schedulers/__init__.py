"""The batch systems that Treadle submits to."""

from __future__ import annotations

import functools

from .base import Entry, JobResources, Listing, Phase, Reply, Scheduler, SchedulerReplyError

__all__ = [
    'Entry',
    'JobResources',
    'Listing',
    'Phase',
    'Reply',
    'Scheduler',
    'SchedulerReplyError',
    'scheduler_of',
]


@functools.cache
def scheduler_of(name: str) -> Scheduler:
    """The scheduler that a computer's definition names."""
    if name == 'direct':
        from .direct import Direct  # noqa: PLC0415 - beside the others

        return Direct()
    # qtoolkit is imported only where a computer has a batch system.
    from .batch import Pbs, Sge, Slurm  # noqa: PLC0415

    batch: dict[str, type[Slurm | Pbs | Sge]] = {'slurm': Slurm, 'pbs': Pbs, 'sge': Sge}
    return batch[name]()
