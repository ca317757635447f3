"""Exactly one run per job: what is on the computer, what it proves, and what may be done next. Pure functions.

A job of process *pid* is started in *attempts*. Each attempt has a name, ``treadle-<pid>-<attempt>-<token>``, and a
folder of its own on the computer. The token is random, and is in the store before anything is done there: pids are
numbers of one store, and a copy or a backup of it gives them once more. In the subfolder ``.treadle`` everything is
decided by who is first to make a name:

``ticket``
    A symbolic link that says who decided, made once and never changed: ``taken:...`` by the script that submits,
    before it submits; ``revoked:...`` by a successor that wants no submission from here any more. Making a link is one
    atomic act that carries its text along, so there is no moment in which a ticket is taken and it is not known by
    whom.
``submitted``
    What the submit command has said, by a rename: its exit code; ``submit.out`` and ``submit.err`` are complete then.
``started``
    A symbolic link that the job itself makes as its first act and that holds its id, since schedulers forget; a job
    that finds one exits at once. ``void:...`` instead, made by whoever has to be sure that no job of this attempt
    will ever do anything.
``ended``
    The exit code of the job's commands, by a rename.

From this follows, whatever crashes, stalls, or loses its reply:

* Whoever wants to submit writes in the store *submitting* first, fenced by the epoch of the job's row. So where the
  row says less, no ticket was taken, and the next attempt can begin.
* After *submitting*, a successor first tries to revoke. If it succeeds, no submission can happen any more, not even by
  a script that was stopped just before. If it finds the ticket taken, there is or was a submission, and it looks for
  it: the record, the start marker, the scheduler's queue by the job's name. What is found is adopted.
* *Taken* and nothing found is unknown. It is asked again while the script that took it may live. Only when it is
  certain that it is dead, and the queue was asked with success afterwards and for a while, the start marker is voided;
  if that succeeds nothing has started and nothing will do anything, and the next attempt begins.

The idea of a name that is made once is that of lock files made with ``link(2)``; that of a fence before, and a lookup
after, each remote effect is the one of exactly-once delivery by idempotent receivers.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = [
    'FINAL_STATES',
    'Beyond',
    'Ended',
    'Findings',
    'JobState',
    'Link',
    'Next',
    'Outcome',
    'Submission',
    'Verdict',
    'folder_of',
    'job_name',
    'judge_submission',
]


class JobState(enum.StrEnum):
    """How far a job has come; each is committed before the next act begins."""

    #: It waits for its turn: nothing of it is on the computer.
    PREPARED = 'prepared'
    #: An attempt has begun, and with it the job counts for the computer's limits.
    UPLOADING = 'uploading'
    #: It may have been submitted; from here on the computer has to be asked.
    SUBMITTING = 'submitting'
    #: The scheduler has it, under a known id.
    SUBMITTED = 'submitted'
    #: It is known to have ended.
    ENDED = 'ended'
    #: What was wanted of it is in the store, and the process goes on.
    RETRIEVED = 'retrieved'
    #: It will not be started, and the process goes on with the reason.
    REFUSED = 'refused'
    #: Its process has ended before, and nothing of it is left on the computer that runs or will.
    GONE = 'gone'


#: Nothing happens any more.
FINAL_STATES: Final = frozenset({JobState.RETRIEVED, JobState.REFUSED, JobState.GONE})


class Verdict(enum.StrEnum):
    """What is known of a job's end, beside its exit code."""

    #: Its commands came to their end.
    ENDED = 'ended'
    #: It was ended for it took too long.
    TIMEOUT = 'timeout'
    #: It was ended for it took too much memory.
    MEMORY = 'memory'
    #: The node failed under it.
    NODE = 'node'
    #: Somebody has cancelled it.
    CANCELLED = 'cancelled'
    #: The scheduler ended it for another reason.
    FAILED = 'failed'
    #: The scheduler knows it no more, and it has left no word.
    VANISHED = 'vanished'
    #: A monitor has ended it.
    MONITOR = 'monitor'
    #: The scheduler did not take it.
    REFUSED = 'refused'
    #: The scheduler did not take it, since the account is wrong.
    ACCOUNT = 'account'
    #: Its files could not be put there.
    UPLOAD = 'upload'


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a job that will not run any more.

    :ivar exit_code: of its commands; ``None`` when they left no word.
    :ivar detail: what the scheduler or the computer said.
    :ivar code: the exit status that a monitor wants.
    :ivar missing: what was to be retrieved and is not there.
    :ivar unretrieved: why nothing could be retrieved.
    """

    verdict: Verdict
    exit_code: int | None = None
    detail: str = ''
    code: int | None = None
    missing: tuple[str, ...] = ()
    unretrieved: str = ''

    @property
    def has_ended(self) -> bool:
        """Whether its commands came to their own end, well or not; else it was cut short, or never ran."""
        return self.verdict is Verdict.ENDED


def folder_of(base: str, pid: int, attempt: int, token: str) -> str:
    """The folder of an attempt, with not too many beside it."""
    return f'{base.rstrip("/")}/{pid // 1000}/{pid}-{attempt}-{token}'


def job_name(folder: str) -> str:
    """The name under which the scheduler has the attempt of that folder, and no other one."""
    return f'treadle-{posixpath.basename(folder)}'


# -- what is found in a folder -------------------------------------------------------------------------------


class Link(msgspec.Struct, frozen=True):
    """The text of a ticket or a start marker: ``kind:name=value:name=value``."""

    kind: str
    fields: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Link | None:
        """``None`` for no text, which is no link."""
        kind, *rest = text.split(':')
        if not kind:
            return None
        pairs = (part.partition('=') for part in rest)
        return cls(kind, {name: value for name, _, value in pairs})

    def get(self, name: str) -> str:
        """A field, or nothing."""
        return self.fields.get(name, '')


class Beyond(enum.StrEnum):
    """What can be said, on the computer that looks, of a process that a link names."""

    LIVES = 'lives'
    DEAD = 'dead'
    #: It was on another host, or this one cannot tell.
    UNKNOWN = 'unknown'


class Submission(msgspec.Struct, frozen=True):
    """What the submit command has said."""

    exit_code: int
    stdout: str
    stderr: str


class Ended(msgspec.Struct, frozen=True):
    """What the job's end has left."""

    exit_code: int
    at: float


class Findings(msgspec.Struct, frozen=True):
    """What the folder of an attempt holds, read in this order, in which nothing later is older.

    :ivar submitter: what can be said of the script that took the ticket.
    :ivar job: what can be said of the process that made the start marker; only of use where jobs are plain processes.
    :ivar limit: which limit of Treadle's own the job has hit.
    :ivar is_away: whether not even the work directory is there, with all its folders: it is not mounted, perhaps, and
        nothing follows from what is missing.
    """

    ticket: Link | None = None
    submitter: Beyond = Beyond.UNKNOWN
    submission: Submission | None = None
    started: Link | None = None
    job: Beyond = Beyond.UNKNOWN
    limit: str = ''
    ended: Ended | None = None
    is_away: bool = False

    @property
    def is_void(self) -> bool:
        """Whether no job of this attempt will ever do anything that has not begun."""
        return self.started is not None and self.started.kind == 'void'

    @property
    def started_id(self) -> str:
        """The id of the job that has started, or nothing."""
        return self.started.get('id') if self.started is not None and self.started.kind == 'job' else ''


class Next(enum.Enum):
    """What follows from what is known of a submission."""

    #: The scheduler has it, or had it.
    ADOPT = enum.auto()
    #: The scheduler did not take it.
    REFUSED = enum.auto()
    #: Nothing of this attempt has begun or ever will; with an id, that of a job that waits for nothing and is to go.
    NOT_SUBMITTED = enum.auto()
    #: Unknown: ask again.
    ASK_AGAIN = enum.auto()
    #: Make sure that no job of this attempt will do anything.
    VOID = enum.auto()


def judge_submission(
    findings: Findings,
    *,
    recorded_id: str | None,
    is_refusal: bool,
    listed_id: str | None,
    dead_for: float,
    certain_after: float,
) -> tuple[Next, str]:
    """What to do about an attempt that may have been submitted, and under which id it was if so.

    :param findings: of its folder, after an attempt to revoke its ticket; there is one if the folder can be written.
    :param recorded_id: the id in the submit command's reply, if there is one.
    :param is_refusal: whether that reply says for certain that nothing was submitted.
    :param listed_id: the id under which the scheduler lists the attempt's name, asked after the folder.
    :param dead_for: for how many seconds, and as many answers of the scheduler, nothing was found and the submitting
        script is known to be dead; 0 if it is not.
    :param certain_after: how long that has to be.
    """
    if findings.started_id:
        return Next.ADOPT, findings.started_id
    if findings.ticket is None:  # it could not be revoked: what cannot be written there may not be seen there either
        return Next.ASK_AGAIN, ''
    if findings.ticket.kind == 'revoked':
        return Next.NOT_SUBMITTED, ''
    if findings.is_void:
        return Next.NOT_SUBMITTED, recorded_id or listed_id or ''
    if recorded_id:
        return Next.ADOPT, recorded_id
    if listed_id:
        return Next.ADOPT, listed_id
    if findings.submission is not None and is_refusal:
        return Next.REFUSED, ''
    return (Next.VOID if dead_for >= certain_after else Next.ASK_AGAIN), ''
