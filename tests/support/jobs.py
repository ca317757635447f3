"""Places for jobs, and engines that come to grief over them."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from treadle.engine import Computer, Engine
from treadle.engine.desk.timing import Timing
from treadle.engine.jobs.protocol import job_name
from treadle.engine.jobs.schedulers import Reply, scheduler_of

VICTIM = Path(__file__).with_name('job_victim.py')

#: Patience for tests: everything is near, and nothing is busy for long.
HASTY = Timing(
    certain_after=1.0, vanish_after=3.0, settle_after=1.0, retry_first=0.05, retry_most=0.5, probe_first=0.1
)


@dataclasses.dataclass
class Place:
    """A store, a computer, and what the jobs there have done."""

    folder: Path
    computer: Computer
    victims: Any
    slurm: Any = None

    @property
    def store(self) -> str:
        return f'sqlite:///{self.folder}/store.db'

    @property
    def effects(self) -> Path:
        return self.folder / 'effects'

    @property
    def command(self) -> str:
        """Leaves a trace and a result."""
        return f'echo $$ >>{self.effects}; echo done >result'

    def runs(self) -> int:
        """How many jobs have begun to do something."""
        return len(self.effects.read_text().splitlines()) if self.effects.exists() else 0

    def attempts(self) -> list[Path]:
        """The folders of attempts."""
        return sorted(Path(self.computer.work_directory).glob('*/*-*-*'))

    def submitted(self) -> int:
        """How many jobs there were: by the scheduler's own records, where there is one."""
        if self.slurm is not None:
            work = f'{self.computer.work_directory}/'
            ended = {job['JobId'] for job in self.slurm.finished_jobs() if job.get('WorkDir', '').startswith(work)}
            queue = self.slurm.run('squeue', '--noheader', '--format=%i %Z').splitlines()
            return len(ended | {line.split()[0] for line in queue if line.split()[1].startswith(work)})
        return len([link for attempt in self.attempts() if _is_job(link := attempt / '.treadle' / 'started')])

    def engine(self, **kwargs: Any) -> Engine:
        """An engine that runs everything, hastily."""
        return Engine(self.store, claims='all', timing=HASTY, **kwargs)

    def running(self) -> list[str]:
        """The names of the jobs that wait or run."""
        work = f'{self.computer.work_directory}/'
        if self.slurm is not None:
            queue = self.slurm.run('squeue', '--noheader', '--format=%j %Z').splitlines()
            return [line.split()[0] for line in queue if line.split()[1].startswith(work)]
        direct = scheduler_of('direct')
        ran = subprocess.run(direct.list_argv([]), capture_output=True, text=True, timeout=30)
        listing = direct.read_listing(Reply(ran.returncode, ran.stdout, ran.stderr))
        mine = {job_name(str(attempt)) for attempt in self.attempts()}
        return [entry.name for entry in listing.by_name.values() if entry.phase == 'running' and entry.name in mine]

    def _order(self, act: str, point: str, hit: int, more: dict[str, Any]) -> dict[str, Any]:
        return {
            'act': act,
            'where': [point, hit],
            'store': self.store,
            'computer': self.computer.to_dict(),
            'command': self.command,
            **more,
        }

    def start_victim(self, act: str, point: str, hit: int = 1, **more: Any) -> subprocess.Popen[str]:
        """Start an engine in an OS process of its own, which submits a job and comes to grief."""
        order = self._order(act, point, hit, more)
        return subprocess.Popen(
            [sys.executable, '-P', str(VICTIM), json.dumps(order)], stdout=subprocess.PIPE, text=True
        )

    def kill_at(self, point: str, hit: int = 1, *, act: str = 'kill', **more: Any) -> int:
        """Have an engine die there; returns the pid of its process."""
        said = self.folder / 'said'
        said.touch()
        status = self.victims.run(**self._order(act, point, hit, more), said=str(said))
        assert status == -signal.SIGKILL, f'nothing has come to {point}: {said.read_text()}\n{self.victims.stderr}'
        out = said.read_text()
        return int(out.split()[1]) if out else 1


def _is_job(link: Path) -> bool:
    return link.is_symlink() and str(link.readlink()).startswith('job:')
