"""The main job as a user runs it, with the real ``lmp``: killed, interrupted and started again.

Each attempt of ``lmp`` leaves a directory, so what was computed, and how often, can be counted afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Engine

pytestmark = pytest.mark.timeout(180)

CHILDREN = 15
CELLS = 12  # along each edge of the box: large enough that lmp is there to be found and killed


@dataclass
class Demo:
    """Runs of ``copper_eos.py`` in one folder."""

    script: Path
    folder: Path
    cells: int = CELLS
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[str]:
        """Start the script as the leader of a process group, the way a shell does it."""
        with (self.folder / f'output-{len(self.started)}.txt').open('w') as output:
            run = subprocess.Popen(
                [sys.executable, self.script, '--folder', self.folder, '--cells', str(self.cells)],
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
        return (self.folder / f'output-{len(self.started) - 1}.txt').read_text()

    def finish(self) -> dict[str, Any]:
        """Start the script, wait for its end and return the outputs that are on record."""
        status = self.start().wait(timeout=120)
        assert status == 0, self.output
        assert (self.folder / 'copper_eos.png').read_bytes().startswith(b'\x89PNG\r\n')
        with Engine(store=self.store) as engine:
            nodes = [node for node in engine.query(key=f'copper-eos-{self.cells}') if node.is_finished_ok]
            assert len(nodes) == 1
            return {name: nodes[0].outputs[name] for name in nodes[0].outputs}

    @property
    def store(self) -> str:
        return f'sqlite:///{self.folder}/treadle.sqlite'

    def processes(self) -> list[dict[str, Any]]:
        """Everything on record, as another OS process sees it."""
        listed = subprocess.run(
            [sys.executable, '-c', 'from treadle.engine.cli import main; main()', 'ps', '--all', '--json'],
            env={**os.environ, 'TREADLE_STORE': self.store},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert listed.returncode == 0, listed.stderr
        rows: list[dict[str, Any]] = json.loads(listed.stdout)
        return rows

    def states(self, process_label: str) -> Counter[str]:
        return Counter(row['state'] for row in self.processes() if row['process_label'] == process_label)

    def finished_constants(self) -> set[str]:
        """The lattice constants whose child is finished, as they begin the names of attempts."""
        return {
            row['label'].split()[0]
            for row in self.processes()
            if row['process_label'] == 'EnergyAtLatticeConstant' and row['state'] == 'finished'
        }

    def attempts(self) -> Counter[str]:
        """How often ``lmp`` was prepared, by lattice constant."""
        runs = self.folder / 'runs'
        return Counter(path.name.split('-')[0] for path in runs.iterdir()) if runs.is_dir() else Counter()

    def lmp_pids(self) -> list[int]:
        """The living processes whose working directory is that of an attempt."""
        found = []
        for entry in Path('/proc').iterdir():
            try:
                inside = entry.name.isdigit() and (self.folder / 'runs') in (entry / 'cwd').readlink().parents
            except OSError:
                continue  # it has ended, or is another user's
            if inside:
                found.append(int(entry.name))
        return found

    def reaches(self, run: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
        """Wait until `condition` holds, or until `run` has ended without it."""
        while not condition():
            try:
                run.wait(timeout=0.005)
            except subprocess.TimeoutExpired:
                continue
            return condition()
        return True

    def kill(self, run: subprocess.Popen[str]) -> None:
        """Kill the script alone, with SIGKILL: it cannot clean up, and its ``lmp`` are left behind."""
        run.kill()
        run.wait(timeout=10)


@pytest.fixture
def demo(examples: Path, tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(examples / 'copper_eos.py', tmp_path)
    yield demo
    for run in demo.started:
        if run.poll() is None:
            demo.kill(run)
    for pid in demo.lmp_pids():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def undisturbed(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Demo, dict[str, Any]]:
    """A run that nothing happened to, and its outputs."""
    demo = Demo(examples / 'copper_eos.py', tmp_path_factory.mktemp('undisturbed'))
    return demo, demo.finish()


def assert_complete(demo: Demo) -> None:
    """No child is lost and none exists twice."""
    rows = [row for row in demo.processes() if row['process_label'] == 'EnergyAtLatticeConstant']
    assert Counter(row['state'] for row in rows) == {'finished': CHILDREN}
    assert len({row['label'] for row in rows}) == CHILDREN
    assert demo.states('CopperEquationOfState') == {'finished': 1}


def test_figures_are_the_published_ones(undisturbed):
    demo, outputs = undisturbed
    assert outputs['lattice_constant'] == pytest.approx(3.615, rel=1e-3)
    assert outputs['cohesive_energy'] == pytest.approx(-3.54, rel=1e-3)
    assert outputs['bulk_modulus'] == pytest.approx(138, rel=0.04)
    assert_complete(demo)
    assert set(demo.attempts().values()) == {1}
    for said in ('lattice constant', '3.615', '-3.54', 'GPa', 'copper_eos.png', 'finished'):
        assert said in demo.output


def test_a_second_run_shows_what_is_on_record(undisturbed):
    demo, outputs = undisturbed
    before, listed = demo.attempts(), demo.processes()
    assert demo.finish() == outputs
    assert demo.attempts() == before
    assert demo.processes() == listed
    assert f'{outputs["bulk_modulus"]:.4f}' in demo.output


@pytest.mark.parametrize('wanted', [1, 5, 11, CHILDREN])
def test_killed_and_started_again_it_goes_on(demo, undisturbed, wanted):
    run = demo.start()
    assert demo.reaches(run, lambda: demo.attempts().total() >= wanted), demo.output
    demo.kill(run)
    before = demo.attempts()
    finished = demo.finished_constants()
    calculated = demo.states('lammps_energy')['finished']

    assert demo.finish() == undisturbed[1]

    after = demo.attempts()
    assert {constant: after[constant] for constant in finished} == dict.fromkeys(finished, 1)
    assert after.total() - before.total() == CHILDREN - calculated
    assert_complete(demo)


def test_killed_while_the_store_is_made(demo, undisturbed):
    run = demo.start()
    assert demo.reaches(run, (demo.folder / 'treadle.sqlite').exists), demo.output
    demo.kill(run)
    assert demo.finish() == undisturbed[1]
    assert_complete(demo)


@pytest.mark.timeout(300)
def test_killed_many_times_it_still_arrives(demo, undisturbed):
    settled: dict[str, int] = {}
    for wanted in range(2, 3 * CHILDREN, 7):
        run = demo.start()
        demo.reaches(run, lambda wanted=wanted: demo.attempts().total() >= wanted)
        demo.kill(run)
        attempts = demo.attempts()
        assert {constant: attempts[constant] for constant in settled} == settled
        settled = {constant: attempts[constant] for constant in demo.finished_constants()}
    assert demo.finish() == undisturbed[1]
    assert_complete(demo)


def test_interrupted_it_is_killed_and_begins_anew(demo, undisturbed):
    demo.cells = 40  # lmp takes long, so that it must be killed
    run = demo.start()
    assert demo.reaches(run, lambda: demo.attempts().total() >= 4 and bool(demo.lmp_pids())), demo.output

    os.killpg(run.pid, signal.SIGINT)

    assert run.wait(timeout=30) != 0
    assert demo.lmp_pids() == []
    assert 'Interrupted' in demo.output
    assert demo.states('CopperEquationOfState') == {'killed': 1}
    children = demo.states('EnergyAtLatticeConstant')
    assert set(children) <= {'killed', 'finished'}
    assert children['killed'] > 0
    assert children.total() == CHILDREN
    assert set(demo.states('lammps_energy')) <= {'killed', 'finished'}
    before = demo.attempts().total()

    outputs = demo.finish()

    assert outputs == {name: pytest.approx(value, rel=1e-6) for name, value in undisturbed[1].items()}
    assert demo.attempts().total() - before == CHILDREN
    assert demo.states('CopperEquationOfState') == {'killed': 1, 'finished': 1}
    assert demo.states('EnergyAtLatticeConstant')['finished'] == children['finished'] + CHILDREN


def test_another_calculation_in_the_same_folder_is_another_process(demo, undisturbed):
    demo.cells = 1
    first = demo.finish()
    demo.cells = 2
    assert demo.finish() == {name: pytest.approx(value, rel=1e-6) for name, value in first.items()}
    assert demo.states('CopperEquationOfState') == {'finished': 2}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize('delay', [0.1 * step for step in range(40)])
def test_killed_at_any_moment(demo, undisturbed, delay):
    run = demo.start()
    try:
        run.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        demo.kill(run)
    assert demo.finish() == undisturbed[1]
    assert_complete(demo)
    assert max(demo.attempts().values()) <= 2
