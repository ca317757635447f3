"""Monitors look at jobs that run, and end them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import ConfigurationError, ExitCode, Monitor, RunningJob, ShellJob

#: Prints numbers until it is ended.
COUNTS = 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done'


def too_high(job: RunningJob, limit: int = 3) -> Any:
    assert job.exists('stdout') and 'stdout' in job.listdir()
    numbers = job.read_text('stdout').split()
    return f'{limit} was reached' if numbers and int(numbers[-1]) >= limit else None


def with_a_code(job: RunningJob) -> ExitCode:
    return ExitCode(417, 'not today')


def broken(job: RunningJob) -> None:
    raise ZeroDivisionError('a mistake in the monitor')


def waits_at(job: RunningJob, pipe: str) -> None:
    Path(pipe).read_bytes()


def test_a_monitor_ends_a_job(place: Any) -> None:
    node = _run(place, COUNTS, high=Monitor(_name('too_high'), every=0.1, kwargs={'limit': 5}))
    assert node.exit_status == 150 and node.exit_message == '5 was reached'
    assert node.outputs.stdout.read_text().startswith('1\n2\n3\n4\n5\n')
    assert place.running() == []


def test_a_monitor_names_an_exit_code(direct_place: Any) -> None:
    node = _run(direct_place, COUNTS, code=Monitor(_name('with_a_code'), every=0.1))
    assert (node.exit_status, node.exit_message) == (417, 'not today')


def test_a_monitor_that_fails_says_nothing(
    direct_place: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, wait_until: Any
) -> None:
    with direct_place.engine() as engine:
        node = engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done'],
            monitors={'bad': Monitor(_name('broken'), every=0.1), 'none': Monitor('no.such:thing', 0.1)},
            metadata={'options': {'computer': direct_place.computer}},
        )
        wait_until(lambda: 'a mistake in the monitor' in caplog.text and "No module named 'no'" in caplog.text)
        (tmp_path / 'go').touch()
        engine.wait(node, timeout=40)
    assert node.is_finished_ok and node.outputs.stdout.read_text() == 'done\n'


def test_a_monitor_that_hangs_keeps_nobody_from_ending_its_job(
    direct_place: Any, tmp_path: Path, wait_until: Any
) -> None:
    os.mkfifo(tmp_path / 'pipe')
    hangs = Monitor(_name('waits_at'), every=0.1, kwargs={'pipe': str(tmp_path / 'pipe')})
    with direct_place.engine() as engine:
        node = engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', COUNTS],
            monitors={'hangs': hangs},
            metadata={'options': {'computer': direct_place.computer}},
        )
        writer = os.open(tmp_path / 'pipe', os.O_WRONLY)  # returns when the monitor reads
        try:
            engine.kill(node)
            wait_until(lambda: direct_place.running() == [])
            wait_until(lambda: engine.core.source.reader.job(node.pid).state == 'gone')
        finally:
            os.close(writer)


def test_a_job_that_ends_while_its_monitor_hangs_is_retrieved(direct_place: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    hangs = Monitor(_name('waits_at'), every=0.1, kwargs={'pipe': str(tmp_path / 'pipe')})
    with direct_place.engine() as engine:
        node = engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done'],
            monitors={'hangs': hangs},
            metadata={'options': {'computer': direct_place.computer}},
        )
        writer = os.open(tmp_path / 'pipe', os.O_WRONLY)
        try:
            (tmp_path / 'go').touch()
            engine.wait(node, timeout=40)
        finally:
            os.close(writer)
    assert node.is_finished_ok and node.outputs.stdout.read_text() == 'done\n'


def test_functions_that_nobody_can_import() -> None:
    with pytest.raises(ConfigurationError, match='must be able to import it'):
        Monitor(lambda job: None)
    with pytest.raises(ConfigurationError, match='module:function'):
        Monitor('nothing')
    with pytest.raises(ConfigurationError, match='more than 0'):
        Monitor(_name('broken'), every=0)


def _name(function: str) -> str:
    return f'{__name__}:{function}'


def _run(place: Any, command: str, **monitors: Monitor) -> Any:
    with place.engine() as engine:
        node = engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', command],
            monitors=monitors,
            metadata={'options': {'computer': place.computer}},
        )
        return engine.wait(node, timeout=40)
