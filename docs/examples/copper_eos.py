"""The equation of state of copper, computed with LAMMPS.

A work chain gets a list of lattice constants, starts one child per lattice constant, and fits what the
children found. Each child runs the real ``lmp`` in a blocking ``calcfunction``, the way existing synchronous
code is wrapped. There is no resume logic: kill this script whenever you like, with SIGKILL or by pulling the
plug, and start it again. Its key finds the process, and finished children stay finished.

    pip install ".[demo]"    # in the checkout
    python docs/examples/copper_eos.py --folder copper-eos
"""

import argparse
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import copper_lammps as copper
from rich.console import Console
from rich.live import Live
from rich.table import Table

from treadle.engine import Engine, File, ProcessNode, WorkChain, append_, calcfunction, on_kill

LATTICE_CONSTANTS = [round(3.475 + 0.02 * step, 3) for step in range(15)]  # angstrom


@calcfunction
def lammps_energy(lattice_constant: float, cells: int, potential: File, folder: Path) -> float:
    """Run ``lmp`` and wait for it; when the process that runs this step is killed, so is ``lmp``."""
    attempt = copper.prepare(lattice_constant, cells, potential.read_bytes(), folder)
    with copper.start(attempt) as lmp, on_kill(lambda: copper.stop(lmp)):
        status = lmp.wait()
    return copper.read_energy(attempt, status)


class EnergyAtLatticeConstant(WorkChain):
    """The energy of fcc copper at one lattice constant."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('lattice_constant', valid_type=float, help='in angstrom')
        spec.input('cells', valid_type=int, help='cubic cells along each edge of the box')
        spec.input('potential', valid_type=File, help='in the EAM format of LAMMPS')
        spec.input('folder', valid_type=Path, help='where lmp gets a new directory for each attempt')
        spec.output('energy', valid_type=float, help='in eV per atom')
        spec.outline(cls.compute)

    def compute(self):
        given = self.inputs
        energy = lammps_energy(given.lattice_constant, given.cells, given.potential, given.folder)
        self.out('energy', energy)


class CopperEquationOfState(WorkChain):
    """Energies at many lattice constants, and the equation of state that fits them."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('lattice_constants', valid_type=list, help='in angstrom')
        spec.input('cells', valid_type=int, default=1)
        spec.input('potential', valid_type=File)
        spec.input('folder', valid_type=Path)
        spec.output('energies', valid_type=list, help='in eV per atom')
        for name, (_, unit) in copper.PUBLISHED.items():
            spec.output(name, valid_type=float, help=f'in {unit}')
        spec.exit_code(410, 'ERROR_CHILD', message='no energy at {label}: process {pid} is {state}')
        spec.outline(cls.start_children, cls.fit)

    def start_children(self):
        for constant in self.inputs.lattice_constants:
            child = self.submit(
                EnergyAtLatticeConstant,
                lattice_constant=constant,
                cells=self.inputs.cells,
                potential=self.inputs.potential,
                folder=self.inputs.folder,
                metadata={'label': f'{constant:.3f} angstrom'},
            )
            self.to_context(children=append_(child))

    def fit(self):
        for child in self.ctx.children:
            if not child.is_finished_ok:
                return self.exit_codes.ERROR_CHILD.format(label=child.label, pid=child.pid, state=child.state)
        energies = [child.outputs.energy for child in self.ctx.children]
        self.out('energies', energies)
        fit = copper.birch_murnaghan(self.inputs.lattice_constants, energies)
        for name, value in copper.ground_state(fit).items():
            self.out(name, value)


def show_progress(engine: Engine, key: str, ended: threading.Event) -> None:
    """Draw the children as the store has them, until `ended` is set, and once more then."""
    with Live() as live:
        last = False
        while not last:
            last = ended.wait(0.1)
            for node in engine.query(key=key):
                live.update(table_of_children(node))


def table_of_children(node: ProcessNode) -> Table:
    table = Table('pid', 'lattice constant', 'state', 'energy (eV/atom)')
    for child in node.called:
        energy = f'{child.outputs.energy:.6f}' if child.is_finished_ok else ''
        table.add_row(str(child.pid), child.label, str(child.state), energy)
    return table


def show_results(outputs: Mapping[str, Any], plot: Path) -> None:
    """Print what was computed beside what is published, and draw the energies."""
    results = Table('copper, Cu_u3.eam', 'computed', 'published', 'unit')
    for name, (published, unit) in copper.PUBLISHED.items():
        results.add_row(name.replace('_', ' '), f'{outputs[name]:.4f}', f'{published:g}', unit)
    console = Console()
    console.print('', results, sep='\n')
    copper.save_plot(plot, LATTICE_CONSTANTS, outputs['energies'])
    console.print(f'E(V) is plotted in {plot}', soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description='The equation of state of copper, computed with LAMMPS.')
    parser.add_argument('--folder', type=Path, default='copper-eos', help='for the store, runs and plot')
    parser.add_argument('--cells', type=int, default=30, help='cells along an edge; more take longer')
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    (folder / 'runs').mkdir(parents=True, exist_ok=True)
    key = f'copper-eos-{arguments.cells}'

    # Nothing in here kills its engine, so it is whoever plays with this script that does, as often as they like.
    with Engine(store=f'sqlite:///{folder}/treadle.sqlite', max_crashes=1000) as engine:
        ended = threading.Event()
        progress = threading.Thread(target=show_progress, args=(engine, key, ended))
        progress.start()
        try:
            outputs, node = engine.run_get_node(
                CopperEquationOfState,
                lattice_constants=LATTICE_CONSTANTS,
                cells=arguments.cells,
                potential=File(copper.POTENTIAL),
                folder=folder / 'runs',
                metadata={'key': key},
            )
        except KeyboardInterrupt:
            sys.exit('Interrupted: the process and its children are killed. Start again to begin anew.')
        finally:
            ended.set()
            progress.join()
    if not node.is_finished_ok:
        sys.exit(f'process {node.pid} failed with exit status {node.exit_status}: {node.exit_message}')
    show_results(outputs, folder / 'copper_eos.png')


if __name__ == '__main__':
    main()
