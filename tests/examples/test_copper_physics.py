"""The part of the example that knows nothing of Treadle: the real ``lmp``, and the fit."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def energy_of(copper: ModuleType, lattice_constant: float, cells: int, folder: Path) -> float:
    attempt = copper.prepare(lattice_constant, cells, copper.POTENTIAL.read_bytes(), folder)
    with copper.start(attempt) as lmp:
        status = lmp.wait()
    return copper.read_energy(attempt, status)


def textbook_birch_murnaghan(volume, energy, volume_0, bulk_modulus, derivative):
    """The third-order form as it is printed in textbooks, with the bulk modulus in eV per cubic angstrom."""
    eta = (volume_0 / volume) ** (2 / 3)
    return energy + 9 / 16 * volume_0 * bulk_modulus * (
        (eta - 1) ** 3 * derivative + (eta - 1) ** 2 * (6 - 4 * eta)
    )


@pytest.mark.parametrize(
    ('lattice_constant', 'energy', 'bulk_modulus', 'derivative'),
    [(3.615, -3.54, 138.0, 5.1), (4.05, -3.36, 76.0, 4.6), (3.52, -4.45, 181.0, 3.9)],
)
def test_fit_recovers_the_parameters(copper, lattice_constant, energy, bulk_modulus, derivative):
    constants = np.linspace(0.96 * lattice_constant, 1.05 * lattice_constant, 11)
    energies = textbook_birch_murnaghan(
        constants**3 / 4, energy, lattice_constant**3 / 4, bulk_modulus / copper.GPA, derivative
    )
    found = copper.ground_state(copper.birch_murnaghan(list(constants), list(energies)))
    given = {'lattice_constant': lattice_constant, 'cohesive_energy': energy, 'bulk_modulus': bulk_modulus}
    assert found == pytest.approx(given, rel=1e-6)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize('edges', [(3.7, 3.9), (3.3, 3.5)])
def test_fit_refuses_energies_without_a_minimum(copper, edges):
    constants = np.linspace(*edges, 9)
    energies = textbook_birch_murnaghan(constants**3 / 4, -3.54, 3.615**3 / 4, 138.0 / copper.GPA, 5.0)
    with pytest.raises(ValueError, match='no minimum within the range'):
        copper.ground_state(copper.birch_murnaghan(list(constants), list(energies)))


def test_lmp_gives_the_published_energy(copper, tmp_path):
    assert energy_of(copper, 3.615, 1, tmp_path) == pytest.approx(-3.54, rel=1e-5)


def test_energy_per_atom_does_not_depend_on_the_size_of_the_box(copper, tmp_path):
    assert energy_of(copper, 3.7, 3, tmp_path) == pytest.approx(energy_of(copper, 3.7, 1, tmp_path), rel=1e-9)


def test_each_attempt_has_a_directory_of_its_own(copper, tmp_path):
    attempts = {copper.prepare(3.615, 1, b'', tmp_path) for _ in range(3)}
    assert len(attempts) == 3
    assert {attempt.parent for attempt in attempts} == {tmp_path}


@pytest.mark.parametrize(
    ('output', 'status', 'complaint'),
    [
        ('atoms 4 energy -14.16\n', 1, 'status 1 and 1 energies'),
        ('atoms 4 energy -14.16\n', -15, 'status -15'),
        ('LAMMPS\nERROR: out of luck\n', 0, '0 energies .*\nLAMMPS\nERROR: out of luck'),
        ('atoms 4 energy -14.16\natoms 4 energy -14.2\n', 0, '2 energies'),
        ('', 0, '0 energies'),
    ],
)
def test_output_that_states_no_energy_is_an_error(copper, tmp_path, output, status, complaint):
    (tmp_path / 'out.lmp').write_text(output)
    with pytest.raises(RuntimeError, match=complaint):
        copper.read_energy(tmp_path, status)


def test_an_energy_that_is_no_number_is_an_error(copper, tmp_path):
    (tmp_path / 'out.lmp').write_text('atoms 4 energy much\n')
    with pytest.raises(ValueError, match='much'):
        copper.read_energy(tmp_path, 0)


def test_a_broken_potential_is_reported_in_the_words_of_lmp(copper, tmp_path):
    attempt = copper.prepare(3.615, 1, b'no potential\n', tmp_path)
    with copper.start(attempt) as lmp:
        status = lmp.wait()
    with pytest.raises(RuntimeError, match=r'status 1 and 0 energies(?s:.*)ERROR'):
        copper.read_energy(attempt, status)


def test_lmp_runs_in_a_session_of_its_own_and_can_be_stopped(copper, tmp_path):
    attempt = copper.prepare(3.615, 60, copper.POTENTIAL.read_bytes(), tmp_path)  # 864,000 atoms take a while
    with copper.start(attempt) as lmp:
        assert os.getsid(lmp.pid) == lmp.pid
        copper.stop(lmp)
        assert lmp.wait() == -signal.SIGTERM
        copper.stop(lmp)  # nothing is left to stop, and that is fine


def test_stop_uses_force_where_asking_does_not_help(copper):
    deaf = subprocess.Popen(
        ['sh', '-c', 'trap "" TERM; echo ready; exec tail -f /dev/null'],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with deaf:
        assert deaf.stdout is not None
        assert deaf.stdout.readline() == b'ready\n'
        copper.stop(deaf)
        assert deaf.wait() == -signal.SIGKILL


def test_the_plot_is_a_png(copper, tmp_path):
    constants = [3.5, 3.55, 3.6, 3.65, 3.7]
    copper.save_plot(tmp_path / 'plot.png', constants, [(a - 3.615) ** 2 for a in constants])
    assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG\r\n')


def test_figures_of_the_real_potential(copper, tmp_path):
    constants = [round(3.475 + 0.04 * step, 3) for step in range(8)]
    energies = [energy_of(copper, constant, 1, tmp_path) for constant in constants]
    found = copper.ground_state(copper.birch_murnaghan(constants, energies))
    assert found['lattice_constant'] == pytest.approx(3.615, rel=1e-3)
    assert found['cohesive_energy'] == pytest.approx(-3.54, rel=1e-3)
    assert found['bulk_modulus'] == pytest.approx(138, rel=0.04)


def test_lmp_takes_no_ctrl_c_not_even_while_it_starts(copper, tmp_path):
    attempt = copper.prepare(3.615, 30, copper.POTENTIAL.read_bytes(), tmp_path)
    with copper.start(attempt) as lmp:
        os.kill(lmp.pid, signal.SIGINT)
        status = lmp.wait()
    assert copper.read_energy(attempt, status) == pytest.approx(-3.54, abs=1e-3)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
