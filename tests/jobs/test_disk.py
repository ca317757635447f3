"""Jobs whose computer has no room left on its disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import ShellJob

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='only root may mount a small disk')


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The work directory of the test's computer, on a disk of its own."""
    folder = tmp_path / 'work'
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], check=True)
    yield folder
    # Not at once, if something of a test that failed is still there.
    subprocess.run(['umount', '--lazy', folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte; returns the file that has them all."""
    filler = folder / 'filler'
    with open(filler, 'wb', buffering=0) as file:
        with pytest.raises(OSError, match='No space left'):
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
