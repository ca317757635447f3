"""A batch system that is not there: its commands are real programs, its jobs real processes, its faults on purpose.

::

    with FakeScheduler(folder) as scheduler, Engine(store) as engine:
        scheduler.fail('sbatch', 'break')           # the next job is taken, and nobody ever hears of it
        engine.run(MyJob, options={'computer': Computer('cluster', scheduler='slurm')})
        assert len(scheduler.jobs()) == 1

It speaks like Slurm (``sbatch``, ``squeue``, ``scontrol show job``, ``scancel``), as far as Treadle listens, and knows
a job until it is told to forget it. While the block lasts, its commands are the first on the ``PATH`` of this OS
process.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

__all__ = ['FakeJob', 'FakeScheduler']

Command = Literal['sbatch', 'squeue', 'scontrol', 'scancel']

#: What each command can be made to do.
_FAULTS: Final = {
    # take the job, and then: kill whoever called, so that nobody hears of it; hang; or say that it timed out
    'sbatch': ('break', 'hang', 'unsure', 'lost', 'refuse'),
    'squeue': ('empty', 'garbled', 'down', 'slow'),
    'scontrol': ('down',),
    'scancel': ('down', 'ignore'),
}

_PROGRAM: Final = r"""#!/bin/sh
# A command of a fake batch system; see treadle.engine.testing.
home=%(home)s
jobs=$home/jobs
command=${0##*/}
fault=
for each in "$home/faults/$command".*; do
    if mv "$each" "$each-$$" 2>/dev/null; then
        fault=$(cat "$each-$$")
        rm "$each-$$"
        break
    fi
done 2>/dev/null
printf '%%s %%s\n' "$command" "$fault" >>"$home/calls"

say_state() {
    state=$(cat "$1/state" 2>/dev/null) || state=
    if [ "$state" = RUNNING ] && ! kill -s 0 "$(cat "$1/pid")" 2>/dev/null; then
        state=$(cat "$1/state")
    fi
    printf '%%s' "$state"
}

begin() {
    # $1: the folder of a job that waits; of many who come, one makes it run
    mkdir "$1/begun" 2>/dev/null || return 0
    SLURM_JOB_ID=${1##*/} setsid sh -c '
        echo $$ >"$1/pid"
        echo RUNNING >"$1/state.new"; mv "$1/state.new" "$1/state"
        cd "$(cat "$1/folder")" || exit 1
        out=$(sed -n "s/^#SBATCH --output=//p" "$1/script"); err=$(sed -n "s/^#SBATCH --error=//p" "$1/script")
        "${SHELL_OF_JOBS:-bash}" "$1/script" >"${out:-out}" 2>"${err:-err}" </dev/null
        code=$?
        [ "$(cat "$1/state")" = RUNNING ] || exit 0
        [ "$code" -eq 0 ] && state=COMPLETED || state=FAILED
        echo "$state" >"$1/state.new"; mv "$1/state.new" "$1/state"
    ' job "$1" >/dev/null 2>&1 </dev/null &
}

case $command in
sbatch)
    for script; do :; done
    if [ "$fault" = refuse ]; then
        echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2
        exit 1
    fi
    if [ "$fault" = lost ]; then
        echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)' >&2
        exit 1
    fi
    number=100
    until mkdir "$jobs/$number.new" 2>/dev/null && [ ! -e "$jobs/$number" ]; do number=$((number + 1)); done
    job=$jobs/$number
    cp "$script" "$job.new/script"
    pwd >"$job.new/folder"
    sed -n 's/^#SBATCH --job-name=//p' "$script" >"$job.new/name"
    echo PENDING >"$job.new/state"
    mv "$job.new" "$job"
    active=0
    for each in "$jobs"/[0-9]*; do
        case $(cat "$each/state" 2>/dev/null) in PENDING | RUNNING) active=$((active + 1)) ;; esac
    done
    echo "$active" >>"$home/active"
    [ -e "$home/held" ] || begin "$job"
    case $fault in
    break) kill -s KILL $PPID ;;
    hang) sleep 600 ;;
    unsure)
        echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
        exit 1
        ;;
    *) echo "Submitted batch job $number" ;;
    esac
    ;;
squeue)
    case $fault in
    empty) exit 0 ;;
    garbled) echo '1<><> R<><> what is this'; exit 0 ;;
    down) echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1 ;;
    slow) sleep 3 ;;
    esac
    for each in "$jobs"/[0-9]*; do
        [ -e "$each/state" ] && [ ! -e "$each/forgotten" ] || continue
        case $(say_state "$each") in
        PENDING) word=PD ;; RUNNING) word=R ;; COMPLETED) word=CD ;; CANCELLED) word=CA ;; TIMEOUT) word=TO ;;
        NODE_FAIL) word=NF ;; OUT_OF_MEMORY) word=OOM ;; *) word=F ;;
        esac
        s='<><> '
        echo "${each##*/}$s$word${s}None$s$(cat "$each/name")${s}me${s}main${s}1:00:00${s}1${s}1${s}0:01${s}1M"
    done
    ;;
scontrol)
    for number; do :; done
    each=$jobs/$number
    [ "$fault" = down ] && { echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1; }
    if [ ! -e "$each/state" ] || [ -e "$each/forgotten" ]; then
        echo 'slurm_load_jobs error: Invalid job id specified' >&2
        exit 1
    fi
    echo "JobId=$number JobName=$(cat "$each/name") UserId=me(0) JobState=$(say_state "$each") Partition=main"
    ;;
srun)
    begin "$jobs/$1"
    ;;
scancel)
    for number; do :; done
    each=$jobs/$number
    [ "$fault" = down ] && { echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1; }
    [ "$fault" = ignore ] && exit 0
    if [ ! -e "$each/state" ] || [ -e "$each/forgotten" ]; then
        echo "scancel: error: Kill job error on job id $number: Invalid job id specified" >&2
        exit 1
    fi
    case $(say_state "$each") in
    PENDING | RUNNING)
        mkdir "$each/begun" 2>/dev/null
        echo CANCELLED >"$each/state.new"; mv "$each/state.new" "$each/state"
        [ -e "$each/pid" ] && kill -s TERM -- "-$(cat "$each/pid")"
        ;;
    esac
    echo "scancel: Terminating job $number" >&2
    ;;
esac
exit 0
"""


class FakeJob(NamedTuple):
    """A job that the batch system has taken.

    :ivar state: Slurm's word.
    """

    number: int
    name: str
    state: str


class FakeScheduler:
    """A batch system in a folder.

    :param folder: where it keeps its jobs and commands; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._home = folder
        self._path: str | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        for name in ('bin', 'jobs', 'faults'):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        home = "'" + str(self._home.absolute()).replace("'", "'\\''") + "'"
        for command in (*_FAULTS, 'srun'):
            program = self._home / 'bin' / command
            program.write_text(_PROGRAM % {'home': home})
            program.chmod(0o755)
        self._path = os.environ.get('PATH', os.defpath)
        os.environ['PATH'] = f'{self._home.absolute() / "bin"}{os.pathsep}{self._path}'
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            os.environ['PATH'] = self._path
        self.hold()
        for job in self.jobs():
            self._signal(job.number, signal.SIGKILL)

    def fail(self, command: Command, how: str, *, times: int = 1) -> None:
        """Have a command go wrong at its next calls.

        ``sbatch`` can ``break`` (takes the job, and kills the shell that has called it), ``hang`` (takes it, and does
        not return), be ``unsure`` (takes it, and says that it timed out), be ``lost`` (does not take it, for nobody was
        there) and ``refuse``. ``squeue`` can be ``empty``, ``garbled``, ``down`` and ``slow``; ``scontrol`` ``down``;
        ``scancel`` ``down``, and ``ignore`` what it is told.

        :raises ValueError: it cannot go wrong like that.
        """
        if how not in _FAULTS.get(command, ()):
            raise ValueError(f'{command} cannot {how!r}; it can {", ".join(_FAULTS.get(command, ()))}')
        with self._lock:
            for _ in range(times):
                (self._home / 'faults' / f'{command}.{next(self._numbers):06d}').write_text(how)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        for fault in (self._home / 'faults').iterdir():
            fault.unlink(missing_ok=True)

    def jobs(self) -> list[FakeJob]:
        """All that it has ever taken."""
        folders = [each for each in (self._home / 'jobs').iterdir() if each.name.isdigit()]
        return [
            FakeJob(int(each.name), (each / 'name').read_text().strip(), (each / 'state').read_text().strip())
            for each in sorted(folders, key=lambda each: int(each.name))
        ]

    def calls(self) -> list[str]:
        """The commands that were called, in their order."""
        calls = self._home / 'calls'
        return [line.split()[0] for line in calls.read_text().splitlines()] if calls.exists() else []

    def most_active(self) -> int:
        """How many jobs have waited or run at once, at most."""
        active = self._home / 'active'
        return max(map(int, active.read_text().split()), default=0) if active.exists() else 0

    def hold(self) -> None:
        """Let jobs that come from now on wait."""
        (self._home / 'held').touch()

    def release(self) -> None:
        """Let all jobs run that wait, and those that come from now on."""
        (self._home / 'held').unlink(missing_ok=True)
        for job in self.jobs():
            if job.state == 'PENDING':
                subprocess.run([self._home / 'bin' / 'srun', str(job.number)], check=True)

    def end(self, number: int, state: str) -> None:
        """End a job as the system does, with that state, such as ``TIMEOUT``: it gets no chance to say anything."""
        job = self._home / 'jobs' / str(number)
        (job / 'begun').mkdir(exist_ok=True)
        draft = job / 'state.new'
        draft.write_text(f'{state}\n')
        draft.replace(job / 'state')
        self._signal(number, signal.SIGKILL)

    def forget(self, number: int) -> None:
        """Know nothing more of a job."""
        (self._home / 'jobs' / str(number) / 'forgotten').touch()

    def _signal(self, number: int, what: signal.Signals) -> None:
        try:
            os.killpg(int((self._home / 'jobs' / str(number) / 'pid').read_text()), what)
        except (OSError, ValueError):
            return  # it has not begun, or is over
