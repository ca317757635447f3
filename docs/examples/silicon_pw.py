"""The total energy of silicon, computed with ``pw.x`` of Quantum ESPRESSO as a job.

The input is that of the first example that Quantum ESPRESSO comes with, whose energy is -15.8445 Ry. A run that stops,
since its walltime is nearly over, is continued where it was; one that does not converge is tried once more with gentler
mixing.

    apt install quantum-espresso quantum-espresso-data    # Debian; or where you have pw.x, say so below
    python docs/examples/silicon_pw.py

    treadle computer add cluster --hostname login.example.org --scheduler slurm --work-directory /scratch/me/jobs
    python docs/examples/silicon_pw.py --computer cluster --pw /opt/qe/bin/pw.x --processes 4
"""

import argparse
import re
import sys
from pathlib import Path

from treadle.engine import (
    BaseRestartWorkChain,
    CalcInfo,
    CalcJob,
    CodeInfo,
    Engine,
    File,
    ProcessHandlerReport,
    RemoteFolder,
    process_handler,
)

PSEUDOPOTENTIAL = Path('/usr/share/espresso/pseudo/Si.pz-vbc.UPF')
#: Part of the walltime after which pw.x stops by itself and leaves what it needs to go on.
PART_OF_WALLTIME = 0.9

PW_INPUT = """\
&CONTROL
  calculation = 'scf'
  prefix = 'silicon'
  pseudo_dir = './'
  outdir = './out'
  restart_mode = '{restart_mode}'
  max_seconds = {max_seconds:.0f}
/
&SYSTEM
  ibrav = 2
  celldm(1) = {lattice_constant!r}
  nat = 2
  ntyp = 1
  ecutwfc = {cutoff!r}
/
&ELECTRONS
  conv_thr = 1.0e-8
  electron_maxstep = {max_iterations}
  mixing_beta = {mixing_beta!r}
/
ATOMIC_SPECIES
  Si 28.086 Si.UPF
ATOMIC_POSITIONS alat
  Si 0.00 0.00 0.00
  Si 0.25 0.25 0.25
K_POINTS automatic
  {kpoints} {kpoints} {kpoints} 1 1 1
"""

_ENERGY = re.compile(r'^! +total energy += +(\S+) Ry$', re.MULTILINE)
_CONVERGED = re.compile(r'^ +convergence has been achieved in +(\d+) iterations$', re.MULTILINE)


class PwEnergy(CalcJob):
    """The energy of the two atoms in the unit cell of silicon."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('pseudopotential', valid_type=File)
        spec.input('pw', valid_type=str, default='pw.x', help='the program on the computer: a path, or a name to find')
        spec.input('lattice_constant', valid_type=float, default=10.2, help='in bohr')
        spec.input('cutoff', valid_type=float, default=18.0, help='of the wave functions, in Ry')
        spec.input('kpoints', valid_type=int, default=4, help='along each reciprocal vector')
        spec.input('max_iterations', valid_type=int, default=100)
        spec.input('mixing_beta', valid_type=float, default=0.7)
        spec.input('parent_folder', valid_type=RemoteFolder, required=False, help='of the run to go on with')
        spec.output('energy', valid_type=float, help='in Ry')
        spec.output('iterations', valid_type=int)
        spec.exit_code(300, 'ERROR_OUTPUT', message='pw.x ended with status {status}; it wrote:\n{output}')
        spec.exit_code(400, 'ERROR_OUT_OF_WALLTIME', message='pw.x stopped, for its time was nearly over')
        spec.exit_code(410, 'ERROR_NOT_CONVERGED', message='there was no convergence in {max_iterations} iterations')

    def prepare_for_submission(self, folder):
        given, walltime = self.inputs, self.options.get('max_wallclock_seconds')
        parent = given.get('parent_folder')
        settings = {
            **given,
            'restart_mode': 'from_scratch' if parent is None else 'restart',
            'max_seconds': 1e7 if walltime is None else PART_OF_WALLTIME * walltime,
        }
        folder.write_text('pw.in', PW_INPUT.format_map(settings))
        return CalcInfo(
            codes_info=[
                CodeInfo(
                    executable=given.pw, cmdline_params=['-in', 'pw.in'], stdout_name='pw.out', join_files=True
                )
            ],
            local_copy_list=[(given.pseudopotential, 'Si.UPF')],
            remote_copy_list=[] if parent is None else [(f'{parent.path}/out', 'out')],
            retrieve_list=['pw.out'],
        )

    def parse(self, retrieved):
        if not self.outcome.has_ended:
            return None  # it was cut short; every job has exit codes for that
        output = retrieved['pw.out'].read_text(errors='replace') if 'pw.out' in retrieved else ''
        if 'Maximum CPU time exceeded' in output:
            return self.exit_codes.ERROR_OUT_OF_WALLTIME
        if 'convergence NOT achieved' in output:
            return self.exit_codes.ERROR_NOT_CONVERGED.format(max_iterations=self.inputs.max_iterations)
        energy, converged = _ENERGY.search(output), _CONVERGED.search(output)
        if energy is None or converged is None or 'JOB DONE.' not in output:
            tail = '\n'.join(output.splitlines()[-10:])
            return self.exit_codes.ERROR_OUTPUT.format(status=self.outcome.exit_code, output=tail)
        self.out('energy', float(energy[1]))
        self.out('iterations', int(converged[1]))


class SiliconEnergy(BaseRestartWorkChain):
    """Runs ``pw.x`` until it has an energy."""

    _process_class = PwEnergy

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.expose_inputs(PwEnergy)
        spec.expose_outputs(PwEnergy)
        spec.exit_code(420, 'ERROR_NO_CONVERGENCE', message='there is no convergence with gentle mixing either')

    def setup(self):
        super().setup()
        self.ctx.inputs = self.exposed_inputs(PwEnergy)

    @process_handler(exit_codes=PwEnergy.exit_codes.ERROR_OUT_OF_WALLTIME)
    def go_on(self, node):
        """Continue with what it has left on the computer."""
        self.ctx.inputs.parent_folder = node.outputs.remote_folder
        return ProcessHandlerReport()

    @process_handler(exit_codes=PwEnergy.exit_codes.ERROR_NOT_CONVERGED)
    def mix_gently(self, node):
        """Begin anew, with small steps."""
        if self.ctx.inputs.mixing_beta <= 0.3:
            return ProcessHandlerReport(exit_code=self.exit_codes.ERROR_NO_CONVERGENCE)
        self.ctx.inputs.pop('parent_folder', None)
        self.ctx.inputs.mixing_beta = 0.3
        return ProcessHandlerReport()


def main() -> None:
    parser = argparse.ArgumentParser(description='The total energy of silicon, computed with pw.x as a job.')
    parser.add_argument('--computer', default='localhost', help='as `treadle computer list` calls it')
    parser.add_argument('--pw', default='pw.x', help='the program on that computer')
    parser.add_argument('--pseudopotential', type=Path, default=PSEUDOPOTENTIAL, help='the file here')
    parser.add_argument('--processes', type=int, help='run it with so many MPI processes')
    parser.add_argument('--seconds', type=int, default=600, help='how long each job may take')
    arguments = parser.parse_args()
    if not arguments.pseudopotential.is_file():
        sys.exit(
            f'There is no {arguments.pseudopotential}; it is in quantum-espresso-data of Debian. '
            f'Say where it is with --pseudopotential.'
        )
    options = {'computer': arguments.computer, 'max_wallclock_seconds': arguments.seconds}
    if arguments.processes is not None:
        options |= {'withmpi': True, 'resources': {'num_machines': 1, 'tot_num_mpiprocs': arguments.processes}}
    # The store is the one of the command `treadle`, which is told of computers: TREADLE_STORE, or the default one.
    with Engine() as engine:
        outputs, node = engine.run_get_node(
            SiliconEnergy, pseudopotential=File(arguments.pseudopotential), pw=arguments.pw, options=options
        )
    if not node.is_finished_ok:
        sys.exit(f'process {node.pid} failed with exit status {node.exit_status}: {node.exit_message}')
    print(f'silicon: {outputs["energy"]:.6f} Ry after {outputs["iterations"]} iterations')


if __name__ == '__main__':
    main()
