"""What Treadle asks of a batch system: texts of commands to run, and what their replies mean. Nothing is run here."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ...errors import TreadleError
from ..protocol import Submission, Verdict

__all__ = ['Entry', 'JobResources', 'Listing', 'Phase', 'Reply', 'Scheduler', 'SchedulerReplyError']


class SchedulerReplyError(TreadleError):
    """A batch system did not answer, or what it said cannot be read; nothing follows from it."""


class Phase(enum.StrEnum):
    """Where the scheduler has a job."""

    QUEUED = 'queued'
    RUNNING = 'running'
    #: It runs no more, and the listing still shows it.
    OVER = 'over'


class Entry(msgspec.Struct, frozen=True):
    """One job in a listing.

    :ivar job_id: as the scheduler calls it.
    :ivar name: as it was called when it was submitted.
    :ivar verdict: how it ended, if it is over and the scheduler says so.
    :ivar detail: the scheduler's word for its state.
    """

    job_id: str
    name: str
    phase: Phase
    verdict: Verdict | None = None
    detail: str = ''


class Listing:
    """A listing that was read whole. What is not in it is unknown, not over.

    :param entries: of it.
    """

    __slots__ = ('by_id', 'by_name')

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.by_id: Mapping[str, Entry] = {entry.job_id: entry for entry in entries}
        # Of several with one name, the one that is not over counts.
        self.by_name: Mapping[str, Entry] = {
            entry.name: entry for entry in sorted(entries, key=lambda each: each.phase is not Phase.OVER)
        }


class Reply(msgspec.Struct, frozen=True):
    """What a command has said."""

    exit_code: int
    stdout: str
    stderr: str


class JobResources(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job asks the scheduler for; the vocabulary is that of ``aiida-core``.

    :ivar num_machines: nodes.
    :ivar num_mpiprocs_per_machine: tasks on each node.
    :ivar tot_num_mpiprocs: tasks in all.
    :ivar num_cores_per_mpiproc: cores for each task.
    :ivar parallel_env: of SGE.
    :ivar max_wallclock_seconds: after which the job is ended.
    :ivar max_memory_kb: per node, in kilobytes.
    :ivar import_sys_environment: whether the job sees the variables of the shell that submits it.
    :ivar custom_scheduler_commands: directives to put in as they are.
    """

    num_machines: int = 1
    num_mpiprocs_per_machine: int = 1
    tot_num_mpiprocs: int = 1
    num_cores_per_mpiproc: int | None = None
    parallel_env: str | None = None
    queue_name: str | None = None
    account: str | None = None
    qos: str | None = None
    priority: str | None = None
    max_wallclock_seconds: int | None = None
    max_memory_kb: int | None = None
    import_sys_environment: bool = True
    custom_scheduler_commands: str = ''
    stdout: str = '_scheduler-stdout.txt'
    stderr: str = '_scheduler-stderr.txt'

    def given(self, names: Sequence[str]) -> list[str]:
        """Those of these that are asked for."""
        return [name for name in names if getattr(self, name) is not None]

    def fields(self) -> dict[str, Any]:
        """For filling in the command that starts MPI programs."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Scheduler(Protocol):
    """One kind of batch system."""

    @property
    def name(self) -> str:
        """What it is called in the definition of a computer."""

    @property
    def job_id(self) -> str:
        """The id of the job, as the shell of the job finds it."""

    @property
    def is_direct(self) -> bool:
        """Whether its jobs are processes of the very computer that is asked, which can tell whether they live."""

    @property
    def programs(self) -> Sequence[str]:
        """The programs that have to be there."""

    @property
    def lacks(self) -> Sequence[str]:
        """The fields of :class:`JobResources` that it has no use for."""

    def header(self, name: str, resources: JobResources) -> str:
        """The directives of the job script.

        :raises ValidationError: this scheduler cannot be asked for that.
        """

    def submit_text(self, script: str, name: str, resources: JobResources, *, shebang: str) -> str:
        """Shell text that submits a script, in the folder of the job."""

    def submitted_id(self, submission: Submission) -> str | None:
        """The id of the job, if the submit command has named one."""

    def is_refusal(self, submission: Submission) -> bool:
        """Whether the submit command's answer makes it certain that there is no job."""

    def list_argv(self, job_ids: Sequence[str]) -> list[str]:
        """The one command that lists the jobs of this account, those with these ids among them."""

    def read_listing(self, reply: Reply) -> Listing:
        """What a listing says.

        :raises SchedulerReplyError: it did not answer, or not whole.
        """

    def find_argv(self, name: str) -> list[str] | None:
        """The command that looks for a job by its name, in the format of a listing; ``None`` if every listing tells."""

    def detail_argv(self, job_id: str) -> list[str] | None:
        """The command that tells how a job ended that is not listed any more; ``None`` if there is none."""

    def read_detail(self, reply: Reply, job_id: str) -> Entry | None:
        """How that job ended; ``None`` when the scheduler says that it does not know it.

        :raises SchedulerReplyError: it did not answer.
        """

    def cancel_argv(self, job_id: str, name: str) -> list[str]:
        """The command that cancels a job."""

    def read_cancel(self, reply: Reply) -> None:
        """Whether the scheduler has taken the order, or the job was over.

        :raises SchedulerReplyError: it did neither.
        """

    def verdict_of_text(self, stderr: str) -> Verdict | None:
        """What the scheduler has written into the job's standard error about its end."""
