"""Jobs whose computer has no room left on its disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import ShellJob

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='only root may mount a small disk')


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], check=True)
    try:
        yield folder
    finally:
        # Not at once, if something of a test that failed is still there.
        subprocess.run(['umount', '--lazy', folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The work directory of the test's computer, on a disk of its own."""
    with disk(tmp_path / 'work') as folder:
        yield folder


def fill(folder: Path) -> Path:
    """Leave no byte; returns the file that has them all."""
    filler = folder / 'filler'
    with open(filler, 'wb', buffering=0) as file, pytest.raises(OSError, match='No space left'):
        while True:
            file.write(bytes(4096))
    return filler


def test_a_job_waits_until_there_is_room(small_disk: Path, place: Any, wait_until: Callable[..., None]) -> None:
    filler = fill(small_disk)
    with place.engine() as engine:
        node = engine.submit(
            ShellJob, command='sh', arguments=['-c', place.command], retrieve=['result'],
            options={'computer': place.computer},
        )  # fmt: skip
        wait_until(lambda: 'No space left' in str(engine.why(node)), 40)
        filler.unlink()
        assert engine.wait(node, timeout=40).is_finished_ok, node.exit_message
        assert node.outputs.retrieved['result'].read_text() == 'done\n'
    assert place.runs() == place.submitted() == 1


def test_a_job_that_leaves_no_room_is_known_to_have_failed(small_disk: Path, place: Any) -> None:
    script = 'echo begun; head -c 2000000 /dev/zero >big'
    with place.engine() as engine:
        node = engine.submit(
            ShellJob, command='sh', arguments=['-c', script], options={'computer': place.computer}
        )
        engine.wait(node, timeout=50)
        assert (node.exit_status, node.outputs.exit_code) == (310, 1)
        assert node.outputs.stdout.read_text() == 'begun\n'
    assert place.submitted() == 1


def test_ten_gigabytes_for_which_there_is_no_room_are_not_retrieved(
    tmp_path: Path, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'{place.command}; truncate -s 10G big'
    with disk(tmp_path / 'here') as here, place.engine() as engine:
        monkeypatch.setattr(tempfile, 'tempdir', str(here))
        node = engine.submit(
            ShellJob, command='sh', arguments=['-c', script], retrieve=['big', 'result'],
            options={'computer': place.computer},
        )  # fmt: skip
        engine.wait(node, timeout=50)
        assert node.exit_status == 100 and 'there is no room here' in node.exit_message
        assert "big' it would be 10737418240" in node.exit_message
        (attempt,) = place.attempts()
        assert node.outputs.remote_folder.path == str(attempt) and (attempt / 'big').exists(), 'nothing is lost'
    assert place.runs() == 1
