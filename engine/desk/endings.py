"""How a job has ended, from what its folder holds and what its scheduler says; or that it is not known. Pure functions.

A job that is absent from the queue has not ended by that. Its own word counts first, then the scheduler's; only when
both have nothing to say for a long while, though they were asked with success, is it given up.
"""

from __future__ import annotations

from ..jobs.protocol import Beyond, Findings, Outcome, Verdict
from ..jobs.schedulers import Entry, Phase

__all__ = ['is_active', 'judge_end', 'wants_detail']

#: What the scheduler says of a job that counts more than the exit code of its commands.
_WEIGHTY = frozenset({Verdict.TIMEOUT, Verdict.MEMORY, Verdict.NODE, Verdict.CANCELLED})
#: Exit codes from here on mean that a signal ended the commands.
_BY_SIGNAL = 128


def is_active(entry: Entry | None) -> bool:
    """Whether the scheduler says that the job waits or runs."""
    return entry is not None and entry.phase is not Phase.OVER


def wants_detail(findings: Findings, entry: Entry | None) -> bool:
    """Whether the scheduler should be asked for this one job."""
    if entry is not None:
        return False
    return findings.ended is None or findings.ended.exit_code > _BY_SIGNAL


def judge_end(
    findings: Findings,
    entry: Entry | None,
    *,
    is_direct: bool,
    silent_for: float,
    vanish_after: float,
    settle_after: float,
) -> Outcome | None:
    """How a job has ended that the queue does not show as waiting or running; ``None`` while that is not known.

    :param entry: what the scheduler says of it, in its queue or asked for the one job.
    :param silent_for: for how many seconds it has been absent, or over without a word of its own.
    :param vanish_after: after how many of them it is given up.
    :param settle_after: how long its own word may take to be seen where we look, on a file system that is shared.
    """
    said = entry.verdict if entry is not None and entry.phase is Phase.OVER else None
    detail = '' if entry is None else entry.detail
    if findings.limit == 'timeout' and (findings.ended is not None or findings.job is Beyond.DEAD):
        said = Verdict.TIMEOUT
    if findings.ended is not None:
        verdict = said if said in _WEIGHTY else Verdict.ENDED
        return Outcome(verdict, findings.ended.exit_code, detail if said in _WEIGHTY else '')
    if said in _WEIGHTY:
        return Outcome(said, None, detail)
    if is_direct and findings.started is not None and findings.job is Beyond.DEAD:
        return Outcome(Verdict.VANISHED, None, 'its processes were ended without a chance to say anything')
    if is_direct and findings.started_id and findings.job is Beyond.UNKNOWN:
        return None  # it was started from another host of the computer, whose processes are not seen from here
    if said is not None and silent_for >= settle_after:
        return Outcome(said, None, detail)
    if silent_for >= vanish_after:
        return Outcome(Verdict.VANISHED, None, f'for {silent_for:.0f} s neither the queue nor its folder shows an end')
    return None
