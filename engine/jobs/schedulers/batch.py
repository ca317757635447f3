"""Slurm, PBS and SGE, as ``qtoolkit`` speaks with them: their directives, their commands and what these reply.

What is ours: that a finished job is asked for where the scheduler still tells, that a reply which cannot be read is an
error and not an empty queue, and which replies leave it open whether there is a job.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, ClassVar, Final

# Used only once a computer has such a scheduler; importing it takes 30 ms.
from qtoolkit.core.data_objects import QJob, QState
from qtoolkit.core.exceptions import CommandFailedError, OutputParsingError
from qtoolkit.io.base import BaseSchedulerIO
from qtoolkit.io.pbs import PBSIO
from qtoolkit.io.sge import SGEIO
from qtoolkit.io.slurm import SlurmIO

from ...errors import ValidationError
from ..protocol import Submission, Verdict
from .base import Entry, JobResources, Listing, Phase, Reply, SchedulerReplyError

__all__ = ['Pbs', 'Sge', 'Slurm']

#: Replies of submit commands after which there may be a job all the same.
_IN_DOUBT: Final = re.compile(
    r'timed? ?out|timeout|unable to contact|connection (reset|refused|lost|closed)|communication|cannot connect|'
    r'no route|temporarily unavailable|broken pipe|end of file|try again|protocol error|socket|zero bytes|transmitted',
    re.IGNORECASE,
)

_PHASES: Final[dict[Any, Phase]] = {
    QState.QUEUED: Phase.QUEUED,
    QState.QUEUED_HELD: Phase.QUEUED,
    QState.REQUEUED: Phase.QUEUED,
    QState.REQUEUED_HELD: Phase.QUEUED,
    QState.RUNNING: Phase.RUNNING,
    QState.SUSPENDED: Phase.RUNNING,
    QState.DONE: Phase.OVER,
    QState.FAILED: Phase.OVER,
}


class _Batch:
    """What the three have in common."""

    name: ClassVar[str]
    job_id: ClassVar[str]
    programs: ClassVar[Sequence[str]]
    lacks: ClassVar[Sequence[str]]
    is_direct = False
    _io: BaseSchedulerIO

    def header(self, name: str, resources: JobResources) -> str:
        """The directives."""
        for field in resources.given(self.lacks):
            raise ValidationError(
                f'{field}: {self.name} cannot be asked for it; leave it out, or write the directive that your site has '
                f'for it into custom_scheduler_commands'
            )
        options = {key: value for key, value in self._options(name, resources).items() if value is not None}
        for key, value in options.items():
            if '\n' in str(value) or '$$' in str(value):
                raise ValidationError(f'{key} must be a plain text of one line for the scheduler, not {value!r}')
        verbatim = [*self._verbatim(resources), *filter(None, [resources.custom_scheduler_commands])]
        header = str(self._io.generate_header(options))
        return '\n'.join([*filter(str.strip, header.split('\n')), *verbatim])

    def _options(self, name: str, resources: JobResources) -> dict[str, Any]:
        raise NotImplementedError

    def _verbatim(self, resources: JobResources) -> list[str]:
        raise NotImplementedError

    def submit_text(self, script: str, name: str, resources: JobResources, *, shebang: str) -> str:
        """``sbatch`` or ``qsub``."""
        return str(self._io.get_submit_cmd(shlex.quote(script)))

    def submitted_id(self, submission: Submission) -> str | None:
        """The id, if the reply has one."""
        try:
            result = self._io.parse_submit_output(submission.exit_code, submission.stdout, submission.stderr)
        except OutputParsingError:
            return None
        return str(result.job_id) if submission.exit_code == 0 and result.job_id else None

    def is_refusal(self, submission: Submission) -> bool:
        """The command failed, and not for a reason that leaves it open what the scheduler has heard."""
        return submission.exit_code != 0 and not _IN_DOUBT.search(submission.stdout + submission.stderr)

    def list_argv(self, job_ids: Sequence[str]) -> list[str]:
        """All jobs of the account."""
        return ['sh', '-c', self._list_text(job_ids)]

    def _list_text(self, job_ids: Sequence[str]) -> str:
        raise NotImplementedError

    def read_listing(self, reply: Reply) -> Listing:
        """What the queue command has printed."""
        try:
            jobs = self._io.parse_jobs_list_output(reply.exit_code, reply.stdout, reply.stderr)
        except (CommandFailedError, OutputParsingError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = reply.stderr.strip() or reply.stdout[-200:]
            raise SchedulerReplyError(f'the queue of {self.name} cannot be read ({error}); it says: {said}') from error
        return Listing([self._entry(job) for job in jobs if job.job_id])

    def _entry(self, job: QJob) -> Entry:
        phase = Phase.QUEUED if job.state is None else _PHASES.get(job.state, Phase.QUEUED)
        word = str(getattr(job.sub_state, 'value', job.state))
        verdict = self._verdict(word) if phase is Phase.OVER else None
        return Entry(str(job.job_id), job.name or '', phase, verdict, word)

    def _verdict(self, word: str) -> Verdict | None:
        return None

    def find_argv(self, name: str) -> list[str] | None:
        """Every listing tells."""
        return None

    def detail_argv(self, job_id: str) -> list[str] | None:
        """There is none."""
        return None

    def read_detail(self, reply: Reply, job_id: str) -> Entry | None:
        """There is none."""
        return None

    def cancel_argv(self, job_id: str, name: str) -> list[str]:
        """``scancel`` or ``qdel``."""
        return ['sh', '-c', str(self._io.get_cancel_cmd(job_id))]

    def read_cancel(self, reply: Reply) -> None:
        """It has worked, or there is no such job."""
        if reply.exit_code != 0 and not self._unknown_job.search(reply.stdout + reply.stderr):
            raise SchedulerReplyError(f'{self.name} did not cancel a job: {reply.stderr.strip() or reply.stdout}')

    _unknown_job: ClassVar[re.Pattern[str]]

    def verdict_of_text(self, stderr: str) -> Verdict | None:
        """Nothing is known to be written there."""
        return None


class Slurm(_Batch):
    """Slurm; it is asked for jobs that ended lately too, and for others one by one as long as it knows them."""

    name = 'slurm'
    job_id = '$SLURM_JOB_ID'
    programs = ('sbatch', 'squeue', 'scancel', 'scontrol')
    lacks = ('parallel_env',)
    _io = SlurmIO()
    _unknown_job = re.compile(r'invalid job id|already (completing|completed)', re.IGNORECASE)
    _verdicts: ClassVar = {
        'COMPLETED': Verdict.ENDED,
        'TIMEOUT': Verdict.TIMEOUT,
        'DEADLINE': Verdict.TIMEOUT,
        'OUT_OF_MEMORY': Verdict.MEMORY,
        'NODE_FAIL': Verdict.NODE,
        'BOOT_FAIL': Verdict.NODE,
        'CANCELLED': Verdict.CANCELLED,
        'REVOKED': Verdict.CANCELLED,
        'PREEMPTED': Verdict.CANCELLED,
    }

    def _options(self, name: str, resources: JobResources) -> dict[str, Any]:
        seconds = resources.max_wallclock_seconds
        return {
            'job_name': name,
            'partition': resources.queue_name,
            'account': resources.account,
            'qos': resources.qos,
            'priority': resources.priority,
            'nodes': resources.num_machines,
            'ntasks': resources.tot_num_mpiprocs,
            'ntasks_per_node': resources.num_mpiprocs_per_machine,
            'cpus_per_task': resources.num_cores_per_mpiproc,
            'time': None if seconds is None else self._io._convert_time_to_str(seconds),
            'mem': None if resources.max_memory_kb is None else f'{resources.max_memory_kb}K',
            'qout_path': _quoted(resources.stdout),
            'qerr_path': _quoted(resources.stderr),
        }

    def _verbatim(self, resources: JobResources) -> list[str]:
        # A job that is started again by the scheduler would find its start marker and do nothing.
        return ['#SBATCH --no-requeue', *([] if resources.import_sys_environment else ['#SBATCH --export=NONE'])]

    def _list_text(self, job_ids: Sequence[str]) -> str:
        return f'{self._io.get_jobs_list_cmd(None, None)} -t all -u "$(id -un)"'

    def detail_argv(self, job_id: str) -> list[str] | None:
        """``scontrol show job``, which knows a job for some minutes after its end."""
        return ['sh', '-c', self._io.get_job_cmd(job_id)]

    def read_detail(self, reply: Reply, job_id: str) -> Entry | None:
        """The state in that reply."""
        if reply.exit_code != 0 and re.search('invalid job id', reply.stdout + reply.stderr, re.IGNORECASE):
            return None
        try:
            job = self._io.parse_job_output(reply.exit_code, reply.stdout, reply.stderr)
        except (CommandFailedError, OutputParsingError, ValueError, KeyError, IndexError) as error:
            raise SchedulerReplyError(f'what scontrol says of job {job_id} cannot be read: {error}') from error
        return None if job is None else self._entry(job)

    def _verdict(self, word: str) -> Verdict | None:
        return self._verdicts.get(word, Verdict.FAILED)

    def verdict_of_text(self, stderr: str) -> Verdict | None:
        """What ``slurmstepd`` writes when it ends a job."""
        if re.search(r'(slurmstepd|srun|slurmd).*DUE TO TIME LIMIT', stderr):
            return Verdict.TIMEOUT
        if re.search(r'(slurmstepd|srun|slurmd).*(oom[-_ ]?kill|exceeded (job )?memory limit)', stderr, re.IGNORECASE):
            return Verdict.MEMORY
        if re.search(r'(slurmstepd|srun|slurmd).*DUE TO NODE', stderr):
            return Verdict.NODE
        return None


class Pbs(_Batch):
    """PBS Pro and OpenPBS."""

    name = 'pbs'
    job_id = '$PBS_JOBID'
    programs = ('qsub', 'qstat', 'qdel', 'qselect')
    lacks = ('qos', 'parallel_env')
    _io = PBSIO()
    _unknown_job = re.compile(r'unknown job id|job has finished', re.IGNORECASE)

    def _options(self, name: str, resources: JobResources) -> dict[str, Any]:
        cores = resources.num_mpiprocs_per_machine * (resources.num_cores_per_mpiproc or 1)
        select = f'select={resources.num_machines}:ncpus={cores}:mpiprocs={resources.num_mpiprocs_per_machine}'
        if resources.max_memory_kb is not None:
            select += f':mem={resources.max_memory_kb}kb'
        seconds = resources.max_wallclock_seconds
        return {
            'job_name': name,
            'queue': resources.queue_name,
            'account': resources.account,
            'priority': resources.priority,
            'select': select,
            'walltime': None if seconds is None else self._io._convert_time_to_str(seconds),
            'qout_path': resources.stdout,
            'qerr_path': resources.stderr,
            'rerunnable': 'n',
        }

    def _verbatim(self, resources: JobResources) -> list[str]:
        return ['#PBS -V'] if resources.import_sys_environment else []

    def _list_text(self, job_ids: Sequence[str]) -> str:
        # By ids, finished ones too: with -u, qstat prints another format. Without ids it would list everybody's.
        if not job_ids:
            return 'true'
        return f'qstat -x -f -w {" ".join(map(shlex.quote, job_ids))}'

    def find_argv(self, name: str) -> list[str] | None:
        """Ask for the ids of that name, then for the jobs."""
        text = 'ids=$(qselect -x -u "$(id -un)" -N "$1") || exit 1; [ -z "$ids" ] || qstat -x -f -w $ids'
        return ['sh', '-c', text, 'treadle-find', name]

    def _verdict(self, word: str) -> Verdict | None:
        return None  # finished, it says, and no more

    def verdict_of_text(self, stderr: str) -> Verdict | None:
        """What the execution daemon writes when it ends a job."""
        if re.search(r'=>> PBS: job killed: walltime', stderr):
            return Verdict.TIMEOUT
        if re.search(r'=>> PBS: job killed: (v?mem|pmem)', stderr):
            return Verdict.MEMORY
        return None


class Sge(_Batch):
    """Sun Grid Engine and its heirs."""

    name = 'sge'
    job_id = '$JOB_ID'
    programs = ('qsub', 'qstat', 'qdel')
    lacks = ('qos',)
    _io = SGEIO()
    _unknown_job = re.compile(r'does not exist|denied: job', re.IGNORECASE)

    def _options(self, name: str, resources: JobResources) -> dict[str, Any]:
        environment = resources.parallel_env
        if environment is None and resources.tot_num_mpiprocs > 1:
            raise ValidationError('options.resources: sge needs a parallel_env for more than one process')
        seconds = resources.max_wallclock_seconds
        return {
            'job_name': name,
            'queue': resources.queue_name,
            'priority': resources.priority,
            'walltime': None if seconds is None else self._io._convert_time_to_str(seconds),
            'model': None if environment is None else f'{environment} {resources.tot_num_mpiprocs}',
            'qout_path': resources.stdout,
            'qerr_path': resources.stderr,
            'rerunnable': 'n',
        }

    def _verbatim(self, resources: JobResources) -> list[str]:
        memory = [] if resources.max_memory_kb is None else [f'#$ -l h_vmem={resources.max_memory_kb}K']
        account = [] if resources.account is None else [f'#$ -P {resources.account}']
        environment = ['#$ -V'] if resources.import_sys_environment else []
        return ['#$ -cwd', '#$ -S /bin/bash', *environment, *memory, *account]

    def _list_text(self, job_ids: Sequence[str]) -> str:
        return 'qstat -ext -urg -xml -u "$(id -un)"'

    def read_listing(self, reply: Reply) -> Listing:
        """What it prints; nothing at all is no listing."""
        if not reply.stdout.strip():
            raise SchedulerReplyError(f'qstat has printed nothing: {reply.stderr.strip()}')
        return super().read_listing(reply)


def _quoted(path: str) -> str:
    return f'"{path}"' if re.search(r'\s', path) else path
