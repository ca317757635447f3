"""An engine that shares nothing with another one but the database, and one that has nothing to do."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scale.company import Company
from support.scripts import Script, launch
from treadle.engine import Engine

HERE = Path(__file__).parent
TREADLE = Path(sys.executable).with_name('treadle')


class Place:
    """A folder that is all that a program knows of the disk: home, temporary files, working directory, its modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ('home', 'tmp', 'work', 'modules'):
            (folder / name).mkdir(parents=True)
        shutil.copy(HERE / 'apart.py', folder / 'modules')

    def launch(self, *command: str | Path) -> Script:
        """Start a program there."""
        return launch(
            command,
            folder=self.folder / 'work',
            HOME=str(self.folder / 'home'),
            TMPDIR=str(self.folder / 'tmp'),
            XDG_DATA_HOME=str(self.folder / 'home' / 'data'),
            PYTHONPATH=str(self.folder / 'modules'),
        )


@pytest.fixture
def reader(postgres: str) -> Iterator[Engine]:
    """An engine that only reads."""
    with Engine(postgres) as engine:
        engine.core.begin_no_step()
        yield engine


@pytest.mark.timeout(180)
def test_what_was_submitted_on_a_disk_that_is_gone_is_there_for_a_worker_elsewhere(
    postgres: str, tmp_path: Path, reader: Engine
) -> None:
    here, there = Place(tmp_path / 'here'), Place(tmp_path / 'there')
    with here.launch(
        sys.executable, here.folder / 'modules' / 'apart.py', postgres, here.folder / 'file'
    ) as submitter:
        done = submitter.end(60)
    assert done.code == 0, done.err
    pid, *digests = done.out.split()
    shutil.rmtree(here.folder)
    with there.launch(TREADLE, 'worker', '--store', postgres) as worker:
        node = reader.wait(int(pid), 60)
        assert [node.outputs.file, node.outputs.content] == digests
        worker.process.terminate()
        ended = worker.end()
        assert ended.code == 0, ended.err
    shutil.rmtree(there.folder)
    content = random.Random(1).randbytes(25_000_000)
    assert hashlib.sha256(content).hexdigest() == digests[0]
    assert node.outputs.end.read_bytes() == content[-10_000_000:]


@pytest.mark.timeout(180)
def test_an_engine_without_a_broker_hears_of_others_and_costs_little_while_there_is_nothing_to_do(
    found: Callable[..., Company], postgres: str
) -> None:
    company = found(store=postgres, engine={})
    worker = company.hire('worker')
    company.order(30, pace=0.0)
    # The goal is 1 %, which `./tools/bench scale` looks at; a machine that is busy with other tests takes longer for
    # the same, and now and then the worker has something to do.
    shares: list[float] = []
    while min(shares, default=1.0) >= 0.1 and len(shares) < 10:
        shares.append(_share(worker.os_pid, 3.0))
    assert min(shares) < 0.1, shares
    company.order(30, pace=0.0)
    company.dismiss()
    company.audit(fails_engines=False)
    assert worker.os_pid in {effect.os_pid for effect in company.ledger.effects}


def _share(os_pid: int, seconds: float) -> float:
    """The part of so many seconds in which an OS process uses the CPU."""
    began, before = time.monotonic(), _cpu(os_pid)
    time.sleep(seconds)
    return (_cpu(os_pid) - before) / (time.monotonic() - began)


def _cpu(os_pid: int) -> float:
    """Seconds of CPU that an OS process has used."""
    fields = Path(f'/proc/{os_pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
