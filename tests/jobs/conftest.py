"""Jobs on this machine and through ssh and Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import leaks
from support.jobs import Place
from treadle.engine import Computer

no_leaked_threads = leaks.no_leaked_threads


@pytest.fixture
def direct_place(tmp_path: Path) -> Place:
    """A place for jobs as processes of this machine."""
    return Place(tmp_path, Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1))


@pytest.fixture
def slurm_place(tmp_path: Path, sshd: Any, slurm: Any) -> Place:
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
    return Place(tmp_path, computer, slurm)


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
