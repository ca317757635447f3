"""What is done about one job: it is brought to its computer, looked for there, cancelled, or its files are fetched.

Each errand begins at what the store says, and ends with a fenced write or with nothing. It may break off anywhere: the
next one begins at what the store says then. Before each effect on the computer that must not happen twice there is a
write that says that it may have happened, and before each such write the lease is valid.
"""

from __future__ import annotations

import errno
import logging
import secrets
import time
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from ...threads import wait_on_loop
from ..errors import (
    CommandTimeout,
    FileTooLarge,
    StoreError,
    TransportError,
    UnsafeArchive,
    ValidationError,
)
from ..faults import FaultPoint
from ..jobs.protocol import (
    Beyond,
    Findings,
    JobState,
    Next,
    Outcome,
    Verdict,
    folder_of,
    job_name,
    judge_submission,
)
from ..jobs.request import JobRequest
from ..store.job_records import JobFence, JobView
from ..store.jobs import move_job, renew_fenced
from ..values import Folder
from .beside import folder_beside, run_beside
from .endings import is_active
from .site import Site, stage
from .timing import Timing
from .watching import Watching

if TYPE_CHECKING:
    from ..parts import EngineParts

__all__ = ['Errands', 'fence_of']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

#: Errors of a computer's file system, or of this machine, that may pass, and that are no reason to give a job up.
_PASSING: Final = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    }
)  # fmt: skip
#: How many listings in a row must not show a job that was cancelled.
_UNSEEN: Final = 2


class Errands:
    """The errands of one desk.

    :param parts: of the engine.
    :ivar site: the computer.
    :ivar watching: its monitors.
    """

    def __init__(self, *, parts: EngineParts, site: Site, timing: Timing) -> None:
        self._parts = parts
        self._timing = timing
        self.site = site
        self.watching = Watching(parts)
        # Attempts that this desk has begun itself, so that nobody else can have brought anything into their folders.
        self._begun: set[JobFence] = set()
        # Since when nothing was found of a submission whose script is dead; how often a cancelled job was not seen.
        self._dead_since: dict[JobFence, float] = {}
        self._unseen: dict[JobFence, int] = {}
        # Jobs of killed processes that a scheduler has taken upon itself to end.
        self._told: set[JobFence] = set()

    def forget(self, pids: Set[int]) -> None:
        """These jobs, or these attempts of them, are this desk's no more."""
        for notes in (self._dead_since, self._unseen):
            for fence in [fence for fence in notes if fence.pid in pids]:
                del notes[fence]
        for fences in (self._begun, self._told):
            fences.difference_update([fence for fence in fences if fence.pid in pids])
        self.watching.forget(pids)

    def heard_nothing(self) -> None:
        """The computer was away: what was not found meanwhile proves nothing."""
        self._dead_since.clear()

    def began(self, fence: JobFence) -> None:
        """An attempt was begun here."""
        self._begun.add(fence)

    async def folder_giver(self) -> Callable[[int, int], str]:
        """What gives a folder, that nobody has been given before, for an attempt of a pid."""
        base = await self.site.base()
        return lambda pid, attempt: folder_of(base, pid, attempt, secrets.token_hex(5))

    # -- bringing it there ---------------------------------------------------------------------------------

    async def bring(self, view: JobView) -> None:
        """Upload an attempt and submit it."""
        fence = fence_of(view)
        if fence not in self._begun:  # another engine has begun it, and may still be writing into its folder
            await self._renew(fence)
            return
        request = await self._request(view.pid)
        folder = _there(view.folder)
        name = job_name(folder)
        try:
            script = request.script(self.site.computer.scheduler, name=name, folder=folder)
            async with folder_beside(self._parts.steps, 'treadle-upload-') as staged:
                await self._beside(lambda: stage(request, script, staged))
                await self.site.upload(staged, request, folder)
        except (OSError, ValidationError, TransportError) as error:
            if request.copies or isinstance(error, TransportError):
                # Something may still be at work in that folder, or half done in a way that is not done over.
                self._begun.discard(fence)
            if isinstance(error, TransportError) or (isinstance(error, OSError) and error.errno in _PASSING):
                raise
            await self._refuse(fence, Verdict.UPLOAD, str(error))
            return
        self._hit(FaultPoint.JOB_UPLOADED)
        if not await self._may_act():
            return
        if not await self._move(fence, JobState.SUBMITTING, if_wanted=True):
            return
        self._hit(FaultPoint.JOB_SUBMITTING)
        if not self._parts.membership.lease.is_valid:
            return  # whoever comes next finds out that nothing has happened, and revokes the ticket
        findings = await self.site.submit(folder, name, request)
        self._hit(FaultPoint.JOB_ACCEPTED)
        job_id = self._recorded_id(findings)
        if job_id is not None:
            await self._submitted(fence, job_id)

    async def _renew(self, fence: JobFence) -> None:
        """Begin the next attempt: it is certain that nothing of this one will do anything."""
        folder = await self.folder_giver()
        if await self._write(lambda transaction: renew_fenced(transaction, fence, folder)):
            self.forget({fence.pid})
            self.began(msgspec.structs.replace(fence, attempt=fence.attempt + 1))
            self._hit(FaultPoint.JOB_BEGUN)

    async def _submitted(self, fence: JobFence, job_id: str) -> None:
        self._dead_since.pop(fence, None)
        if await self._move(fence, JobState.SUBMITTED, job_id=job_id, phase='queued'):
            self._hit(FaultPoint.JOB_SUBMITTED)

    async def _refuse(self, fence: JobFence, verdict: Verdict, detail: str) -> None:
        outcome = Outcome(verdict, detail=detail[-4000:])
        await self._move(fence, JobState.REFUSED, outcome=_json(outcome))

    # -- looking for it ------------------------------------------------------------------------------------

    async def find_out(self, view: JobView) -> bool:
        """Find out whether an attempt was submitted, and see to it that it is at most once.

        :returns: whether anything came of it; ``False`` to ask again later.
        """
        fence, folder = fence_of(view), _there(view.folder)
        findings = (await self.site.look([folder], revoke=str(fence.epoch)))[folder]
        if findings.ticket is None:
            raise self.site.away()
        following, job_id = await self._judge(view, findings)
        if following is Next.VOID:
            findings = (await self.site.look([folder], void=str(fence.epoch)))[folder]
            following, job_id = await self._judge(view, findings)
        match following:
            case Next.ADOPT:
                await self._submitted(fence, job_id)
            case Next.REFUSED:
                await self._refused(fence, findings)
            case Next.NOT_SUBMITTED:
                if job_id:
                    await self.site.cancel(job_id, job_name(folder))
                if view.process_state != 'waiting':
                    await self._gone(fence)
                elif view.paused:
                    await self._move(fence, JobState.PREPARED)  # it waits for its turn once more
                else:
                    await self._renew(fence)
            case _:
                return False
        return True

    async def _judge(self, view: JobView, findings: Findings) -> tuple[Next, str]:
        fence = fence_of(view)
        recorded = self._recorded_id(findings)
        submission = findings.submission
        refusal = submission is not None and self.site.scheduler.is_refusal(submission)
        listed = None
        dead_for = 0.0
        if not findings.started_id and not recorded and findings.ticket is not None and findings.ticket.kind == 'taken':
            entry = await self.site.find(_name_of(view))
            listed = None if entry is None else entry.job_id
            if listed is None and findings.submitter is Beyond.DEAD:
                # Counted from the first answer that came after it was known to be dead.
                now = time.monotonic()
                dead_for = now - self._dead_since.setdefault(fence, now)
            else:
                self._dead_since.pop(fence, None)
        return judge_submission(
            findings,
            recorded_id=recorded,
            is_refusal=refusal,
            listed_id=listed,
            dead_for=dead_for,
            certain_after=self._timing.certain_after,
        )

    async def _refused(self, fence: JobFence, findings: Findings) -> None:
        said = findings.submission
        text = '' if said is None else (said.stderr.strip() or said.stdout.strip())
        verdict = Verdict.ACCOUNT if 'invalid account' in text.lower() else Verdict.REFUSED
        await self._refuse(fence, verdict, text)

    def _recorded_id(self, findings: Findings) -> str | None:
        submission = findings.submission
        return None if submission is None else self.site.scheduler.submitted_id(submission)

    # -- its end -------------------------------------------------------------------------------------------

    async def ended(self, view: JobView, outcome: Outcome) -> None:
        """It is known how it has ended."""
        if view.outcome is not None:  # why it was to be ended is known already
            wanted = msgspec.json.decode(view.outcome, type=Outcome)
            outcome = msgspec.structs.replace(wanted, exit_code=outcome.exit_code)
        self._hit(FaultPoint.JOB_ENDED)
        if await self._move(fence_of(view), JobState.ENDED, outcome=_json(outcome)):
            self._hit(FaultPoint.JOB_END_COMMITTED)

    async def fetch(self, view: JobView) -> None:
        """Retrieve what is wanted of an ended job, and let its process go on."""
        request = await self._request(view.pid)
        outcome = msgspec.json.decode(view.outcome or '{"verdict": "vanished"}', type=Outcome)
        folder = _there(view.folder)
        text = None
        async with folder_beside(self._parts.steps, 'treadle-retrieve-') as target:
            try:
                missing = await self.site.retrieve(folder, request.retrieve, target)
                text = await self._beside(lambda: self._parts.source.codec.encode(Folder(target), 'retrieved'))
                outcome = msgspec.structs.replace(outcome, missing=missing)
            except (OSError, ValueError, FileTooLarge, UnsafeArchive) as error:
                if isinstance(error, CommandTimeout) or (isinstance(error, OSError) and error.errno in _PASSING):
                    raise
                LOGGER.warning('process %d: its files cannot be retrieved: %s', view.pid, error)
                outcome = msgspec.structs.replace(outcome, unretrieved=str(error))
        self._hit(FaultPoint.JOB_FETCHED)
        if await self._move(fence_of(view), JobState.RETRIEVED, retrieved=text, outcome=_json(outcome)):
            self._hit(FaultPoint.JOB_RETRIEVED)

    async def watch(self, view: JobView) -> None:
        """Let the monitors of a job look at it; one may want it to be ended, which is on record first."""
        request = await self._request(view.pid)
        outcome = await self.watching.look(self.site, view, list(request.monitors))
        if outcome is not None:
            await self._move(fence_of(view), JobState.SUBMITTED, outcome=_json(outcome))

    async def end(self, view: JobView) -> bool:
        """End a job of which it is on record that it is to be ended; the poll finds out when it has.

        :returns: ``False``: it is told again until then.
        """
        await self.site.cancel(_there(view.job_id), _name_of(view))
        return False

    async def cancel(self, view: JobView) -> bool:
        """Cancel a job whose process has ended.

        :returns: whether it is known to be gone.
        """
        fence, job_id, name = fence_of(view), _there(view.job_id), _name_of(view)
        self._hit(FaultPoint.JOB_CANCELLING)
        await self.site.cancel(job_id, name)
        if not self.site.scheduler.is_direct:
            self._told.add(fence)
        entry = (await self.site.listing([job_id])).by_id.get(job_id)
        if is_active(entry):
            self._unseen.pop(fence, None)
            return False
        # A queue that shows nothing at all for once is no proof.
        self._unseen[fence] = self._unseen.get(fence, 0) + 1
        if entry is None and self._unseen[fence] < _UNSEEN:
            return False
        await self._gone(fence)
        return True

    def may_run_on(self, view: JobView) -> bool:
        """Whether the job of a killed process may run on, for all that was done here.

        Plain processes have to be gone, since nobody else sees to that.
        """
        return view.state in (JobState.SUBMITTING, JobState.SUBMITTED) and fence_of(view) not in self._told

    async def drop(self, view: JobView) -> None:
        """Nothing of it runs or will, and its process has ended."""
        await self._gone(fence_of(view))

    async def _gone(self, fence: JobFence) -> None:
        if await self._move(fence, JobState.GONE):
            self._told.discard(fence)
            self._hit(FaultPoint.JOB_CANCELLED)

    # -- helpers -------------------------------------------------------------------------------------------

    async def _request(self, pid: int) -> JobRequest:
        source = self._parts.source

        def read() -> JobRequest:
            job = source.reader.job(pid)
            if job is None:
                raise StoreError(f'the job of process {pid} is not in the store any more')
            return JobRequest.from_data(source.codec.decode(job.request))

        return await self._beside(read)

    async def _may_act(self) -> bool:
        """Whether this engine may begin something that has an effect elsewhere; asks the database if in doubt."""
        membership = self._parts.membership
        if not membership.lease.is_valid:
            await wait_on_loop(membership.confirm())
        return membership.lease.is_valid

    async def _move(self, fence: JobFence, state: JobState, *, if_wanted: bool = False, **columns: str | None) -> bool:
        return await self._write(
            lambda transaction: move_job(transaction, fence, state.value, if_wanted=if_wanted, **columns)
        )

    async def _write(self, operation: Callable[[Any], bool]) -> bool:
        return await wait_on_loop(self._parts.store.call(operation))

    async def _beside(self, function: Callable[[], T]) -> T:
        return await run_beside(self._parts.steps, function)

    def _hit(self, point: FaultPoint) -> None:
        self._parts.faults.hit(point)


def fence_of(view: JobView) -> JobFence:
    """What is believed of a job's row."""
    return JobFence(view.pid, view.epoch, view.attempt)


def _name_of(view: JobView) -> str:
    """The name of the present attempt."""
    return job_name(_there(view.folder))


def _there(text: str | None) -> str:
    if text is None:
        raise RuntimeError('a job that has come so far lacks its folder or its id')
    return text


def _json(outcome: Outcome) -> str:
    return msgspec.json.encode(outcome).decode(errors='replace')
