"""Jobs on this machine and through ssh and Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import leaks
from support.forkserver import Scripts
from support.jobs import VICTIM, Place
from treadle.engine import Computer

no_leaked_threads = leaks.no_leaked_threads


@pytest.fixture(scope='session')
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    """Engines that submit a job and die."""
    with Scripts(VICTIM, tmp_path_factory.mktemp('victims')) as victims:
        yield victims


@pytest.fixture
def direct_place(tmp_path: Path, victims: Scripts) -> Place:
    """A place for jobs as processes of this machine."""
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    return Place(tmp_path, computer, victims)


@pytest.fixture
def slurm_place(tmp_path: Path, victims: Scripts, sshd: Any, slurm: Any) -> Place:
    """A place for jobs of Slurm, reached by ssh."""
    computer = Computer(
        'cluster',
        transport='ssh',
        hostname='treadle',
        ssh_config=str(sshd.config_file),
        work_directory=str(tmp_path / 'work'),
        scheduler='slurm',
        poll_interval=0.3,
    )
    return Place(tmp_path, computer, victims, slurm)


@pytest.fixture(params=['direct', 'slurm'])
def place(request: pytest.FixtureRequest) -> Place:
    """Each of the two."""
    found: Place = request.getfixturevalue(f'{request.param}_place')
    return found


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for something that another OS process does."""
    def wait(holds: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, 'it never came to be'
            time.sleep(0.02)

    return wait
