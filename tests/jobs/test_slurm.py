"""Through real ssh and real Slurm: replies that are lost, limits that Slurm keeps, what it refuses."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.jobs import HASTY, Place
from treadle.engine import Computer, Engine, ShellJob

#: Lets Slurm take the job, says so, and does not return for a while.
SLOW_SBATCH = """#!/bin/sh
{sbatch} "$@"
code=$?
touch {taken}
sleep 4
exit $code
"""


#: Of a job that takes more memory than it has asked for, until it is ended for that.
GREEDY = """import time
taken = b'x' * 400_000_000
time.sleep(300)
"""


def _cluster(sshd: Any, folder: Path) -> Computer:
    return Computer(
        'cluster',
        transport='ssh',
        hostname='treadle',
        ssh_config=str(sshd.config_file),
        work_directory=str(folder),
        scheduler='slurm',
        poll_interval=0.3,
    )


@pytest.fixture
def slow(tmp_path: Path, slurm: Any, make_sshd: Any) -> tuple[Place, Any, Path]:
    """A place whose ``sbatch`` takes its time after its work, its ssh server, and what tells that the work is done."""
    taken, programs = tmp_path / 'taken', tmp_path / 'bin'
    programs.mkdir()
    program = programs / 'sbatch'
    program.write_text(SLOW_SBATCH.format(sbatch=shutil.which('sbatch'), taken=taken))
    program.chmod(0o755)
    environment = {**slurm.environment(), 'PATH': f'{programs}:/usr/local/bin:/usr/bin:/bin'}
    sshd = make_sshd(shell_environment=environment)
    return Place(tmp_path, _cluster(sshd, tmp_path / 'work'), None, slurm), sshd, taken


def _submit(engine: Engine, place: Place, command: str = '', **options: Any) -> Any:
    return engine.submit(
        ShellJob,
        command='sh',
        arguments=['-c', command or place.command],
        metadata={'options': {'computer': place.computer, **options}},
    )


@pytest.mark.timeout(120)
def test_the_connection_breaks_when_slurm_has_taken_the_job(slow: Any, wait_until: Any) -> None:
    place, sshd, taken = slow
    with place.engine() as engine:
        node = _submit(engine, place)
        wait_until(taken.exists)
        sshd.stop()
        sshd.start()
        engine.wait(node, timeout=90)
        assert node.is_finished_ok, node.exit_message
    assert place.runs() == place.submitted() == 1


@pytest.mark.timeout(120)
def test_the_reply_comes_too_late(slow: Any) -> None:
    place, _, _ = slow
    with Engine(place.store, timing=dataclasses.replace(HASTY, command=2.0)) as engine:
        node = _submit(engine, place)
        engine.wait(node, timeout=90)
        assert node.is_finished_ok, node.exit_message
    assert place.runs() == place.submitted() == 1


@pytest.mark.timeout(120)
def test_killed_while_the_reply_is_on_its_way(slow: Any, wait_until: Any) -> None:
    place, _, taken = slow
    with place.engine() as engine:
        node = _submit(engine, place, 'sleep 300')
        wait_until(taken.exists)
        engine.kill(node)
        wait_until(lambda: engine.core.source.reader.job(node.pid).state == 'gone', 60)
    assert place.running() == [] and place.submitted() == 1


def test_what_slurm_refuses_is_told(slurm_place: Any) -> None:
    with slurm_place.engine() as engine:
        node = _submit(engine, slurm_place, queue_name='nowhere')
        engine.wait(node, timeout=50)
        assert node.exit_status == 130 and 'invalid partition' in node.exit_message.lower()
    assert slurm_place.submitted() == 0


def test_a_job_that_takes_too_much_memory_is_told(slurm_place: Any) -> None:
    with slurm_place.engine() as engine:
        options = {'computer': slurm_place.computer, 'max_memory_kb': 100 * 1024}
        node = engine.submit(ShellJob, command=sys.executable, arguments=['-c', GREEDY], options=options)
        engine.wait(node, timeout=50)
        assert (node.exit_status, node.exit_message) == (110, 'The job ran out of memory.')


@pytest.mark.soak  # Slurm knows minutes only
@pytest.mark.timeout(240)
def test_a_job_that_takes_too_long_is_told(slurm_place: Any) -> None:
    with slurm_place.engine() as engine:
        node = _submit(engine, slurm_place, 'echo begun; sleep 300', max_wallclock_seconds=60)
        engine.wait(node, timeout=200)
        assert (node.exit_status, node.exit_message) == (120, 'The job ran out of walltime.')
        assert node.outputs.stdout.read_bytes() == b'begun\n', 'what it has done until then is there'


@pytest.mark.timeout(120)
def test_a_node_that_fails_under_a_job_is_told(
    tmp_path: Path, make_slurm: Any, make_sshd: Any, wait_until: Any
) -> None:
    slurm = make_slurm()
    sshd = make_sshd(shell_environment=slurm.environment())
    place = Place(tmp_path, _cluster(sshd, tmp_path / 'work'), None, slurm)
    with place.engine() as engine:
        node = _submit(engine, place, f'{place.command}; sleep 60')
        wait_until(lambda: place.runs() == 1)
        wait_until(lambda: engine.core.source.reader.job(node.pid).state == 'submitted')
        slurm.run('scontrol', 'update', f'NodeName={slurm.node}', 'State=DOWN', 'Reason=power')
        engine.wait(node, timeout=90)
        assert (node.exit_status, node.exit_message) == (140, 'The node of the job failed: NODE_FAIL')
    assert place.runs() == place.submitted() == 1


#: A user's script, with the engine that nobody makes and nobody stops.
SCRIPT = """
import sys
from treadle.engine import Computer, ShellJob, run
computer = Computer.from_text(sys.argv[1])
run(ShellJob, command='sh', arguments=['-c', sys.argv[2]], options={'computer': computer})
"""


def test_interrupted_a_script_cancels_its_job_before_it_ends(slurm_place: Any, wait_until: Any) -> None:
    place = slurm_place
    words = [sys.executable, '-W', 'error', '-c', SCRIPT, place.computer.to_text(), f'{place.command}; sleep 300']
    environment = {**os.environ, 'TREADLE_STORE': place.store}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as script:
        wait_until(lambda: place.runs() == 1, 40)
        script.send_signal(signal.SIGINT)
        _, stderr = script.communicate(timeout=30)
    assert stderr.rstrip().endswith('KeyboardInterrupt') and 'broke' not in stderr
    wait_until(lambda: place.running() == [])  # nobody else is there to cancel it
    assert place.submitted() == 1


@pytest.mark.parametrize('held', [True, False], ids=['queued', 'running'])
def test_killed_in_the_queue(slurm_place: Any, wait_until: Any, held: bool) -> None:
    """Killed at once; and Slurm has nothing of it any more soon after."""
    options = {'custom_scheduler_commands': '#SBATCH --hold'} if held else {}
    with slurm_place.engine() as engine:
        node = _submit(engine, slurm_place, 'sleep 300', **options)
        shown = f'{"PENDING" if held else "RUNNING"} {slurm_place.computer.work_directory}/'
        wait_until(lambda: shown in slurm_place.slurm.run('squeue', '--noheader', '--format=%T %Z'), 40)
        wait_until(lambda: engine.core.source.reader.job(node.pid).state == 'submitted')
        engine.kill(node)
        assert node.is_killed
        wait_until(lambda: engine.core.source.reader.job(node.pid).state == 'gone', 40)
    assert slurm_place.running() == [] and slurm_place.submitted() == 1
