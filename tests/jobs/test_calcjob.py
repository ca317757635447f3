"""Jobs on this machine, from their inputs to their outputs."""

from __future__ import annotations

import pytest

from treadle.engine import CalcInfo, CalcJob, CodeInfo, Computer, Engine, File, ShellJob


class Double(CalcJob):
    """Doubles a number by a shell."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('number', valid_type=int)
        spec.output('result', valid_type=int)
        spec.exit_code(410, 'ERROR_NO_NUMBER', message='there is no number in the output')

    def prepare_for_submission(self, folder):
        folder.write_text('number.txt', f'{self.inputs.number}\n')
        return CalcInfo(
            codes_info=[
                CodeInfo(
                    executable='sh',
                    cmdline_params=['-c', 'read number; echo $((2 * number))'],
                    stdin_name='number.txt',
                    stdout_name='result.txt',
                )
            ],
            retrieve_list=['result.txt'],
        )

    def parse(self, retrieved):
        if 'result.txt' not in retrieved:
            return self.exit_codes.ERROR_NO_NUMBER
        self.out('result', int(retrieved['result.txt'].read_text()))


@pytest.fixture
def computer(tmp_path):
    return Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)


@pytest.fixture
def engine(tmp_path):
    with Engine(f'sqlite:///{tmp_path}/store.db') as engine:
        yield engine


def test_a_job_runs(engine, computer):
    outputs, node = engine.run_get_node(Double, number=21, metadata={'options': {'computer': computer}})
    assert node.is_finished_ok, node.exit_message
    assert outputs['result'] == 42
    assert set(outputs['retrieved']) == {'result.txt', '_scheduler-stdout.txt', '_scheduler-stderr.txt'}
    assert outputs['remote_folder'].computer == 'here'


def test_a_shell_job_runs(engine, computer):
    outputs = engine.run(
        ShellJob,
        command='sort',
        arguments='-r names.txt',
        files={'names': File(b'b\nc\na\n', name='names.txt')},
        options={'computer': computer},
    )
    assert outputs['stdout'].read_text() == 'c\nb\na\n' and outputs['exit_code'] == 0
