"""Copper once more, as jobs: on this machine, and through ssh and Slurm, with the real ``lmp`` each time."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treadle.engine import Computer, Engine, File

pytestmark = pytest.mark.timeout(180)

CHILDREN = 15
CELLS = 12  # along each edge of the box


def on_record(store: str, key: str) -> dict[str, Any]:
    """The outputs of the one process that has finished under that key."""
    with Engine(store) as engine:
        (node,) = [node for node in engine.query(key=key) if node.is_finished_ok]
        return {name: node.outputs[name] for name in node.outputs}


@pytest.fixture(scope='module')
def figures_of_the_demo(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``copper_eos.py`` computes."""
    folder = tmp_path_factory.mktemp('demo')
    command = [sys.executable, examples / 'copper_eos.py', '--folder', folder, '--cells', str(CELLS)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return on_record(f'sqlite:///{folder}/treadle.sqlite', f'copper-eos-{CELLS}')


@dataclass
class Runs:
    """Runs of ``copper_jobs.py`` on one store, with one computer."""

    script: Path
    folder: Path
    computer: str
    count_jobs: Callable[[], int]
    arguments: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, 'TREADLE_STORE': self.store}

    @property
    def store(self) -> str:
        return f'sqlite:///{self.folder}/treadle.sqlite'

    @property
    def work(self) -> Path:
        return self.folder / 'work'

    def treadle(self, *words: str) -> str:
        """Use the command as a user does."""
        command = [sys.executable, '-m', 'treadle.engine.cli', *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, self.script, '--computer', self.computer, '--cells', str(CELLS)]
        with (self.folder / 'output.txt').open('w') as output:
            run = subprocess.Popen(
                [*command, '--plot', self.folder / 'e-v.png', *self.arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                text=True,
            )
        self.started.append(run)
        return run

    @property
    def output(self) -> str:
        """What the latest run wrote."""
        return (self.folder / 'output.txt').read_text()

    def finish(self) -> dict[str, Any]:
        assert self.start().wait(timeout=120) == 0, self.output
        assert (self.folder / 'e-v.png').read_bytes().startswith(b'\x89PNG\r\n')
        return on_record(self.store, f'copper-jobs-{self.computer}-{CELLS}')

    def begun(self) -> int:
        """How many attempts of jobs have begun to do something."""
        return len([path for path in self.work.glob('*/*-*-*') if (path / '.treadle' / 'started').is_symlink()])


@pytest.fixture
def runs(examples: Path, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(examples / 'copper_jobs.py', tmp_path, 'localhost', lambda: runs.begun())
    with Engine(runs.store):
        pass  # makes the store, which `treadle computer add` wants to be there
    yield runs
    for run in runs.started:
        if run.poll() is None:
            run.kill()
            run.wait(timeout=10)


@pytest.fixture
def on_localhost(runs: Runs) -> Runs:
    """Jobs as processes of this machine."""
    runs.treadle('computer', 'add', 'localhost', '--work-directory', str(runs.work))
    return runs


@pytest.fixture
def on_slurm(runs: Runs, copper: ModuleType, sshd: Any, slurm: Any) -> Runs:
    """Jobs of Slurm, which is reached by ssh."""
    runs.computer = 'cluster'
    # What `module load` does on a cluster; importing the physics has found out where the MPI library is.
    setup = f'export LD_LIBRARY_PATH={os.environ["LD_LIBRARY_PATH"]}'
    how = {
        'hostname': 'treadle',
        'ssh-config': str(sshd.config_file),
        'scheduler': 'slurm',
        'work-directory': str(runs.work),
        'poll-interval': '0.3',
        'prepend-text': setup,
    }
    runs.treadle('computer', 'add', 'cluster', *(f'--{name}={value}' for name, value in how.items()))
    runs.arguments = ['--lmp', str(copper.LMP)]

    def count_jobs() -> int:
        return len({job['JobId'] for job in slurm.finished_jobs() if is_inside(job.get('WorkDir', ''), runs.work)})

    runs.count_jobs = count_jobs
    return runs


def is_inside(path: str, folder: Path) -> bool:
    return folder in Path(path).parents


@pytest.fixture(params=['on_localhost', 'on_slurm'])
def place(request: pytest.FixtureRequest) -> Runs:
    """Each of the two."""
    place: Runs = request.getfixturevalue(request.param)
    return place


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what other OS processes do."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, 'it never came to be'
        time.sleep(0.02)


def test_figures_are_those_of_the_demo(place, figures_of_the_demo):
    outputs = place.finish()

    assert outputs == figures_of_the_demo
    assert f'{outputs["lattice_constant"]:.4f}' == '3.6150'
    assert f'{outputs["cohesive_energy"]:.4f}' == '-3.5400'
    assert f'{outputs["bulk_modulus"]:.2f}' == '138.22'
    for said in ('3.6150', '-3.5400', '138.22', 'finished'):
        assert said in place.output
    wait_until(lambda: place.count_jobs() >= CHILDREN)
    assert place.finish() == outputs
    assert place.count_jobs() == place.begun() == CHILDREN


def test_killed_and_started_again_no_job_runs_twice(place, figures_of_the_demo):
    run = place.start()
    wait_until(lambda: place.begun() >= 4 or run.poll() is not None)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(timeout=10) == -signal.SIGKILL, place.output

    assert place.finish() == figures_of_the_demo

    wait_until(lambda: place.count_jobs() >= CHILDREN)
    assert place.count_jobs() == place.begun() == CHILDREN


def test_a_program_that_is_not_there_is_named(on_localhost):
    on_localhost.arguments = ['--lmp', '/no/such/lmp']
    assert on_localhost.start().wait(timeout=120) == 1
    assert 'exit status 410: no energy at 3.475 angstrom' in on_localhost.output
    assert 'lmp ended with status 127 and 0 energies in localhost:' in on_localhost.output
    assert '/no/such/lmp: No such file' in on_localhost.output


def test_a_job_that_takes_too_long_says_that(examples, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(examples)
    jobs = importlib.import_module('copper_jobs')
    endless = tmp_path / 'lmp'
    endless.write_text('#!/bin/sh\nexec sleep 100\n')
    endless.chmod(0o700)
    with Engine(f'sqlite:///{tmp_path}/treadle.sqlite') as engine:
        outputs, node = engine.run_get_node(
            jobs.LammpsEnergy,
            lattice_constant=3.615,
            cells=1,
            potential=File(b'', name='Cu_u3.eam'),
            lmp=str(endless),
            options={
                'computer': Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1),
                'max_wallclock_seconds': 1,
            },
        )
    assert node.exit_code.status == jobs.LammpsEnergy.exit_codes.ERROR_SCHEDULER_OUT_OF_WALLTIME.status
    assert 'energy' not in outputs
