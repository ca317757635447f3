"""Named places where a crash is interesting; crash tests stop the engine at each of them.

Every engine is given an object with one method, ``hit(point)``. In production it does nothing. The tests of
recovery list :class:`FaultPoint`, so a new point is covered the moment it is written here.
"""

from __future__ import annotations

import enum
from typing import Protocol


class FaultPoint(enum.StrEnum):
    """A place in the life of a process, named after what has just happened there."""

    ENGINE_REGISTERED = 'engine.registered'
    PREDECESSOR_RELEASED = 'engine.predecessor-released'
    ENGINE_REJOINED = 'engine.rejoined'
    SEARCH_CLAIMED = 'search.claimed'
    INTENT_POSTED = 'intent.posted'
    INTENT_WRITTEN = 'intent.written'
    SUBMIT_POSTED = 'submit.posted'
    BATCH_BEGUN = 'store.batch-begun'
    BATCH_WRITTEN = 'store.batch-written'
    BATCH_COMMITTED = 'store.batch-committed'
    BATCH_ANSWERED = 'store.batch-answered'
    CLAIMED = 'process.claimed'
    STEP_STARTED = 'step.started'
    STEP_RETURNED = 'step.returned'
    STEP_POSTED = 'step.posted'
    STEP_COMMITTED = 'step.committed'
    CALL_RECORDED = 'call.recorded'
    CALL_RETURNED = 'call.returned'
    FUNCTION_RETURNED = 'function.returned'
    ENDED = 'process.ended'
    JOB_BEGUN = 'job.begun'
    JOB_UPLOADED = 'job.uploaded'
    JOB_SUBMITTING = 'job.submitting'
    JOB_ACCEPTED = 'job.accepted'
    JOB_SUBMITTED = 'job.submitted'
    JOB_ENDED = 'job.ended'
    JOB_END_COMMITTED = 'job.end-committed'
    JOB_FETCHED = 'job.fetched'
    JOB_RETRIEVED = 'job.retrieved'
    JOB_CANCELLING = 'job.cancelling'
    JOB_CANCELLED = 'job.cancelled'


class Faults(Protocol):
    """What an engine calls at each :class:`FaultPoint`; it may kill, raise or block."""

    def hit(self, point: FaultPoint) -> None:
        """The engine has reached ``point``."""


class NoFaults:
    """The faults of an engine that is not under test: none."""

    __slots__ = ()

    def hit(self, point: FaultPoint) -> None:
        """Do nothing."""
