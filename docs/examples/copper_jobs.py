"""The equation of state of copper once more, each energy as a job on a computer of your choice.

The physics and the figures are those of ``copper_eos.py``; but where ``lmp`` ran in a step there, it is a job here:
on this machine, or on any computer that the store knows, through its batch system.

    pip install ".[demo]"    # in the checkout
    python docs/examples/copper_jobs.py

    treadle computer add cluster --hostname login.example.org --scheduler slurm --work-directory /scratch/me/jobs
    treadle computer test cluster
    python docs/examples/copper_jobs.py --computer cluster --lmp /opt/lammps/bin/lmp

Kill this script whenever you like, and start it again: jobs that were submitted run on, and none is submitted twice.
"""

import argparse
import sys
import threading
from pathlib import Path

import copper_lammps as copper
from copper_eos import LATTICE_CONSTANTS, show_progress, show_results

from treadle.engine import CalcInfo, CalcJob, CodeInfo, Engine, File, WorkChain, append_


class LammpsEnergy(CalcJob):
    """The energy of fcc copper at one lattice constant."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('lattice_constant', valid_type=float, help='in angstrom')
        spec.input('cells', valid_type=int, help='cubic cells along each edge of the box')
        spec.input('potential', valid_type=File, help='in the EAM format of LAMMPS')
        spec.input('lmp', valid_type=str, help='the program on the computer: its path, or a name to find')
        spec.output('energy', valid_type=float, help='in eV per atom')
        spec.exit_code(300, 'ERROR_NO_ENERGY', message='{problem}')

    def prepare_for_submission(self, folder):
        given = self.inputs
        folder.write_text(
            'in.lmp', copper.LMP_INPUT.format(lattice_constant=given.lattice_constant, cells=given.cells)
        )
        return CalcInfo(
            codes_info=[
                CodeInfo(
                    executable=given.lmp,
                    cmdline_params=['-in', 'in.lmp', '-log', 'none'],
                    stdout_name='out.lmp',
                    join_files=True,
                )
            ],
            local_copy_list=[(given.potential, 'Cu_u3.eam')],
            retrieve_list=['out.lmp'],
        )

    def parse(self, retrieved):
        if not self.outcome.has_ended:
            return None  # it was cut short; every job has exit codes for that
        output = retrieved['out.lmp'].read_text(errors='replace') if 'out.lmp' in retrieved else ''
        place = self.outputs['remote_folder']
        try:
            energy = copper.find_energy(output, self.outcome.exit_code, f'{place.computer}:{place.path}')
        except RuntimeError as problem:
            return self.exit_codes.ERROR_NO_ENERGY.format(problem=problem)
        self.out('energy', energy)


class CopperEquationOfState(WorkChain):
    """Jobs at many lattice constants, and the equation of state that fits their energies."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.expose_inputs(LammpsEnergy, exclude=['lattice_constant'])  # the options of the jobs among them
        spec.input('lattice_constants', valid_type=list, help='in angstrom')
        spec.output('energies', valid_type=list, help='in eV per atom')
        for name, (_, unit) in copper.PUBLISHED.items():
            spec.output(name, valid_type=float, help=f'in {unit}')
        spec.exit_code(410, 'ERROR_JOB', message='no energy at {label}: process {pid} is {state}, {reason}')
        spec.outline(cls.submit_jobs, cls.fit)

    def submit_jobs(self):
        inputs = self.exposed_inputs(LammpsEnergy)
        for constant in self.inputs.lattice_constants:
            job = self.submit(
                LammpsEnergy, inputs, lattice_constant=constant, metadata={'label': f'{constant:.3f} angstrom'}
            )
            self.to_context(jobs=append_(job))

    def fit(self):
        for job in self.ctx.jobs:
            if not job.is_finished_ok:
                return self.exit_codes.ERROR_JOB.format(
                    label=job.label, pid=job.pid, state=job.state, reason=job.exception or job.exit_message
                )
        energies = [job.outputs.energy for job in self.ctx.jobs]
        self.out('energies', energies)
        fit = copper.birch_murnaghan(self.inputs.lattice_constants, energies)
        for name, value in copper.ground_state(fit).items():
            self.out(name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description='The equation of state of copper, each energy as a job.')
    parser.add_argument('--computer', default='localhost', help='as `treadle computer list` calls it')
    parser.add_argument('--lmp', default=str(copper.LMP), help='the program on that computer')
    parser.add_argument('--cells', type=int, default=30, help='cells along an edge; more take longer')
    parser.add_argument('--plot', type=Path, default='copper_jobs.png', help='where to draw E(V)')
    arguments = parser.parse_args()
    key = f'copper-jobs-{arguments.computer}-{arguments.cells}'

    # The store is the one of the command `treadle`, which is told of computers: TREADLE_STORE, or the default one.
    with Engine() as engine:
        ended = threading.Event()
        progress = threading.Thread(target=show_progress, args=(engine, key, ended))
        progress.start()
        try:
            outputs, node = engine.run_get_node(
                CopperEquationOfState,
                lattice_constants=LATTICE_CONSTANTS,
                cells=arguments.cells,
                potential=File(copper.POTENTIAL),
                lmp=arguments.lmp,
                options={
                    'computer': arguments.computer,
                    'max_wallclock_seconds': 1800,
                    'environment_variables': {'OMP_NUM_THREADS': '1'},
                },
                metadata={'key': key},
            )
        except KeyboardInterrupt:
            sys.exit(
                'Interrupted: the process and its jobs are killed. What still runs on the computer is cancelled by '
                'the next engine on the store, such as `treadle worker`. Start again to begin anew.'
            )
        finally:
            ended.set()
            progress.join()
    if not node.is_finished_ok:
        sys.exit(f'process {node.pid} failed with exit status {node.exit_status}: {node.exit_message}')
    show_results(outputs, arguments.plot)


if __name__ == '__main__':
    main()
