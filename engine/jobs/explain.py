"""What becomes of the job of a process, as plain data and in sentences, read from the store alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..states import TERMINAL_STATES
from ..store.job_records import JobRecord
from ..store.liveness import lives
from ..store.location import StoreLocation
from ..store.reader import Reader
from .protocol import FINAL_STATES, JobState

__all__ = ['job_data', 'job_sentences']

_DOING = {
    JobState.PREPARED: 'waits for its turn on computer {computer}, of whose limits it would take one more',
    JobState.UPLOADING: 'is being brought to computer {computer}',
    JobState.SUBMITTING: 'may have been submitted on computer {computer}, where it is looked for',
    JobState.SUBMITTED: 'is job {job_id} of computer {computer}{phase}, in {folder}',
    JobState.ENDED: 'has ended on computer {computer}, and its files are being retrieved',
}


def job_data(reader: Reader, pid: int) -> dict[str, Any] | None:
    """The job of a process; ``None`` when it has none."""
    job = reader.job(pid)
    if job is None:
        return None
    return {
        'computer': job.computer,
        'state': job.state,
        'attempt': job.attempt,
        'job_id': job.job_id,
        'phase': job.phase,
        'folder': job.folder,
        'outcome': None if job.outcome is None else msgspec.json.decode(job.outcome),
        'problem': job.note,
        'computer_problem': reader.computer_note(job.computer),
    }


def job_sentences(reader: Reader, location: StoreLocation, pid: int, state: str) -> Iterator[str]:
    """What is done about the job of a process in that state, and what stands in its way."""
    job = reader.job(pid)
    if job is None or job.state in FINAL_STATES:
        return
    killed = state in TERMINAL_STATES
    words = _DOING[JobState(job.state)].format(
        computer=job.computer, job_id=job.job_id, folder=job.folder, phase=f' ({job.phase})' if job.phase else ''
    )
    yield f'Its job {words}{"; it is to be cancelled there" if killed else ""}.'
    trouble = reader.computer_note(job.computer)
    if trouble:
        yield f'Computer {job.computer} is of no use just now: {trouble}.'
    if job.note:
        yield f'Last, something went wrong with it: {job.note}.'
    if not _is_looked_after(reader, location, job):
        yield 'No engine looks after it: run its script again, or start `treadle worker`.'


def _is_looked_after(reader: Reader, location: StoreLocation, job: JobRecord) -> bool:
    owner = None if job.owner is None else reader.engine(job.owner)
    return owner is not None and owner.ended is None and lives(location, owner) is not False
