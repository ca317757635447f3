"""Silicon with ``pw.x``: for real where it is, and how its input is made and its words are taken everywhere.

Where ``pw.x`` is not needed, a shell script has its place, which says what ``pw.x`` prints in that situation: by the
format statements of ``electrons.f90`` and ``check_stop.f90``, and the reference output of its first example.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treadle.engine import Computer, Engine, File

#: What Quantum ESPRESSO's own reference output for this input says, in Ry.
REFERENCE = -15.84452726

CONVERGED = """\
     End of self-consistent calculation

!    total energy              =     -15.84452726 Ry
     Harris-Foulkes estimate   =     -15.84452726 Ry
     estimated scf accuracy    <          8.4E-10 Ry

     convergence has been achieved in   6 iterations

=------------------------------------------------------------------------------=
   JOB DONE.
=------------------------------------------------------------------------------=
"""
NOT_CONVERGED = """\
     total energy              =     -15.84097088 Ry

     End of self-consistent calculation

     convergence NOT achieved after 100 iterations: stopping

=------------------------------------------------------------------------------=
   JOB DONE.
=------------------------------------------------------------------------------=
"""
OUT_OF_TIME = """\
     Maximum CPU time exceeded

     max_seconds     =      90.00
     elapsed seconds =      91.20

=------------------------------------------------------------------------------=
   JOB DONE.
=------------------------------------------------------------------------------=
"""


@pytest.fixture
def silicon(examples: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(examples)
    return importlib.import_module('silicon_pw')


class Laboratory:
    """An engine, this machine as its computer, and something to run in the place of ``pw.x``."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.computer = Computer('here', work_directory=str(folder / 'work'), poll_interval=0.1)

    def program(self, text: str) -> str:
        """A stand-in for ``pw.x``: shell text that is run beside its input."""
        for name, words in (('converged', CONVERGED), ('not-converged', NOT_CONVERGED), ('out-of-time', OUT_OF_TIME)):
            (self.folder / name).write_text(words)
        path = self.folder / 'pw.x'
        path.write_text(f'#!/bin/sh\nsays() {{ cat {self.folder}/"$1"; }}\n{text}\n')
        path.chmod(0o700)
        return str(path)

    def run(self, process: Any, **inputs: Any) -> tuple[Any, Any]:
        inputs = {'pseudopotential': File(b'of silicon', name='Si.pz-vbc.UPF'), **inputs}
        options = {'computer': self.computer, 'max_wallclock_seconds': 100}
        return self.engine.run_get_node(process, options=options, **inputs)


@pytest.fixture
def laboratory(tmp_path: Path):
    with Engine(f'sqlite:///{tmp_path}/treadle.sqlite') as engine:
        yield Laboratory(tmp_path, engine)


def test_the_energy_of_silicon(silicon, laboratory):
    pw = shutil.which('pw.x')
    if pw is None or not silicon.PSEUDOPOTENTIAL.is_file():
        pytest.skip(f'needs pw.x on PATH and {silicon.PSEUDOPOTENTIAL}: quantum-espresso and its -data in Debian')
    outputs, node = laboratory.run(silicon.SiliconEnergy, pseudopotential=File(silicon.PSEUDOPOTENTIAL), pw=pw)
    assert node.is_finished_ok, node.exit_message
    assert outputs['energy'] == pytest.approx(REFERENCE, abs=1e-5)
    assert outputs['iterations'] > 1


def test_input_and_energy(silicon, laboratory):
    pw = laboratory.program('[ "$1 $2" = "-in pw.in" ] && grep -q "of silicon" Si.UPF && says converged')
    outputs, node = laboratory.run(silicon.PwEnergy, pw=pw, kpoints=2)
    assert node.is_finished_ok, node.exit_message
    assert (outputs['energy'], outputs['iterations']) == (REFERENCE, 6)

    lines = Path(outputs['remote_folder'].path, 'pw.in').read_text().splitlines()
    settings = dict(line.strip().split(' = ') for line in lines if ' = ' in line)
    assert settings == {
        'calculation': "'scf'",
        'prefix': "'silicon'",
        'pseudo_dir': "'./'",
        'outdir': "'./out'",
        'restart_mode': "'from_scratch'",
        'max_seconds': '90',
        'ibrav': '2',
        'celldm(1)': '10.2',
        'nat': '2',
        'ntyp': '1',
        'ecutwfc': '18.0',
        'conv_thr': '1.0e-8',
        'electron_maxstep': '100',
        'mixing_beta': '0.7',
    }
    groups = [line for line in lines if line.startswith(('&', '/'))]
    assert groups == ['&CONTROL', '/', '&SYSTEM', '/', '&ELECTRONS', '/']
    assert lines[lines.index('K_POINTS automatic') + 1].split() == ['2', '2', '2', '1', '1', '1']


@pytest.mark.parametrize(
    ('program', 'label'),
    [
        ('says out-of-time; exit 255', 'ERROR_OUT_OF_WALLTIME'),
        ('says not-converged; exit 2', 'ERROR_NOT_CONVERGED'),
        ('echo "Error in routine readpp (1):"; exit 1', 'ERROR_OUTPUT'),
        ('says converged | grep -v "JOB DONE"', 'ERROR_OUTPUT'),
        ('exit 0', 'ERROR_OUTPUT'),
    ],
)
def test_what_went_wrong_is_told_apart(silicon, laboratory, program, label):
    outputs, node = laboratory.run(silicon.PwEnergy, pw=laboratory.program(program))
    assert node.exit_status == silicon.PwEnergy.exit_codes[label].status
    assert 'energy' not in outputs
    if 'readpp' in program:
        assert node.exit_message.startswith('pw.x ended with status 1; it wrote:\nError in routine readpp')


def test_a_run_that_stopped_in_time_is_continued(silicon, laboratory):
    pw = laboratory.program(
        'grep -q "restart_mode = \'restart\'" pw.in && grep -q half out/state && says converged && exit\n'
        'mkdir out; echo half >out/state; says out-of-time; exit 255'
    )
    outputs, node = laboratory.run(silicon.SiliconEnergy, pw=pw)
    assert node.is_finished_ok, node.exit_message
    assert outputs['energy'] == REFERENCE
    first, second = node.called
    assert first.exit_status == silicon.PwEnergy.exit_codes.ERROR_OUT_OF_WALLTIME.status
    assert second.inputs.parent_folder == first.outputs.remote_folder


@pytest.mark.parametrize('helps', [True, False])
def test_one_that_does_not_converge_is_mixed_gently(silicon, laboratory, helps):
    gently = 'grep -q "mixing_beta = 0.3" pw.in && says converged && exit\n' if helps else ''
    outputs, node = laboratory.run(
        silicon.SiliconEnergy, pw=laboratory.program(f'{gently}says not-converged; exit 2')
    )
    assert [child.inputs.mixing_beta for child in node.called] == [0.7, 0.3]
    if helps:
        assert node.is_finished_ok, node.exit_message
        assert outputs['energy'] == REFERENCE
    else:
        assert node.exit_status == silicon.SiliconEnergy.exit_codes.ERROR_NO_CONVERGENCE.status
