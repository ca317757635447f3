"""The scheduler ``direct``: jobs are plain processes of the computer, each in a session of its own.

There is no daemon that would know them. What one does for its jobs, the job's script does itself: it keeps the time,
and says at its end how it ended. The kernel's table of processes is the queue.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..protocol import Submission, Verdict
from ..scripts import CANCEL_DIRECT
from .base import Entry, JobResources, Listing, Phase, Reply, SchedulerReplyError

__all__ = ['Direct']

_MARK = 'treadle-listing'
_LIST = f"""
ps -ww -A -o pid= -o pgid= -o stat= -o args= || exit 1
printf '{_MARK} whole\\n'
"""


class Direct:
    """Jobs as processes."""

    name = 'direct'
    job_id = '$$'
    is_direct = True
    programs = ('ps', 'sleep')
    lacks = ('queue_name', 'account', 'qos', 'priority', 'parallel_env')

    def header(self, name: str, resources: JobResources) -> str:
        """Nothing: there is nobody to read it."""
        return resources.custom_scheduler_commands

    def submit_text(self, script: str, name: str, resources: JobResources, *, shebang: str) -> str:
        """Start it in a session, or at least a process group, of its own; its name is among its arguments."""
        argv = [*shlex.split(shebang[2:]), script, name]
        command = (
            f'{shlex.join(argv)} >{shlex.quote(resources.stdout)} 2>{shlex.quote(resources.stderr)} </dev/null'
        )
        # The submitting shell ignores the signals that end jobs, and what a shell finds ignored it cannot trap.
        return f"""
        trap - HUP INT TERM PIPE
        if command -v setsid >/dev/null 2>&1; then
            setsid {command} &
        else
            set -m
            {command} &
        fi
        job=$!
        trap '' HUP INT TERM PIPE
        printf '%s\\n' "$job"
        """

    def submitted_id(self, submission: Submission) -> str | None:
        """The number of the process."""
        word = submission.stdout.strip()
        return word if submission.exit_code == 0 and word.isdigit() else None

    def is_refusal(self, submission: Submission) -> bool:
        """The shell could not start it."""
        return submission.exit_code != 0

    def list_argv(self, job_ids: Sequence[str]) -> list[str]:
        """All processes; see :meth:`read_listing` for which of them are jobs."""
        return ['sh', '-c', _LIST]

    def read_listing(self, reply: Reply) -> Listing:
        """The leaders of process groups whose last argument is the name of a job."""
        lines = reply.stdout.splitlines()
        if reply.exit_code != 0 or not lines or lines[-1] != f'{_MARK} whole':
            raise SchedulerReplyError(f'ps did not list the processes: {reply.stderr.strip() or reply.stdout[-200:]}')
        entries = []
        for line in lines[:-1]:
            words = line.split()
            if len(words) > 4 and words[0] == words[1] and words[-1].startswith('treadle-'):
                over = words[2].startswith('Z')
                entries.append(Entry(words[0], words[-1], Phase.OVER if over else Phase.RUNNING, detail=words[2]))
        return Listing(entries)

    def find_argv(self, name: str) -> list[str] | None:
        """Every listing tells."""
        return None

    def detail_argv(self, job_id: str) -> list[str] | None:
        """Nobody keeps accounts."""
        return None

    def read_detail(self, reply: Reply, job_id: str) -> Entry | None:
        """Nobody keeps accounts."""
        return None

    def cancel_argv(self, job_id: str, name: str) -> list[str]:
        """End the group, if it is still that job's: numbers are used again."""
        return ['sh', '-c', CANCEL_DIRECT, 'treadle-cancel', job_id, name]

    def read_cancel(self, reply: Reply) -> None:
        """The script ends well unless it could not run."""
        if reply.exit_code != 0:
            raise SchedulerReplyError(f'the job could not be ended: {reply.stderr.strip()}')

    def verdict_of_text(self, stderr: str) -> Verdict | None:
        """Nobody has written there but the job."""
        return None
