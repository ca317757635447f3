"""Jobs on this machine, from their inputs to their outputs."""

from __future__ import annotations

import asyncio
import os

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


class DoubleLater(Double):
    """The same, with a coroutine."""

    async def parse(self, retrieved):
        await asyncio.sleep(0)
        return super().parse(retrieved)


def test_a_coroutine_parses(engine, computer):
    outputs, node = engine.run_get_node(DoubleLater, number=4, metadata={'options': {'computer': computer}})
    assert node.is_finished_ok and outputs['result'] == 8


def test_options_that_come_to_nothing_are_said(engine, computer):
    options = {'computer': computer, 'queue_name': 'long', 'resources': {'parallel_env': 'mpi'}}
    _, node = engine.run_get_node(Double, number=4, metadata={'options': options})
    said = [record.message for record in node.log]
    assert node.is_finished_ok and said == [
        f"computer here: its scheduler 'direct' has no use for {name}" for name in ('queue_name', 'parallel_env')
    ]


def test_a_shell_job_runs(engine, computer):
    outputs = engine.run(
        ShellJob,
        command='sort',
        arguments='-r names.txt',
        files={'names': File(b'b\nc\na\n', name='names.txt')},
        options={'computer': computer},
    )
    assert outputs['stdout'].read_text() == 'c\nb\na\n' and outputs['exit_code'] == 0


def test_a_pid_that_is_given_again_has_a_job_of_its_own(direct_place):
    """As after a backup was restored."""
    def says(word):
        with direct_place.engine() as engine:
            outputs, node = engine.run_get_node(
                ShellJob, command='echo', arguments=[word], options={'computer': direct_place.computer}
            )
        return node.pid, outputs['stdout'].read_text()

    says('before')
    database = direct_place.folder / 'store.db'
    backup = database.read_bytes()
    pid, said = says('lost')
    database.write_bytes(backup)
    assert said == 'lost\n' and says('again') == (pid, 'again\n')


def test_this_machine_has_no_more_jobs_at_once_than_cores(engine, tmp_path, monkeypatch):
    """Without a limit of its own; none is left out."""
    monkeypatch.setattr('treadle.engine.jobs.computer._CORES', 3)
    here = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    running, counts = tmp_path / 'running', tmp_path / 'counts'
    running.mkdir()
    command = f'touch {running}/$$; ls {running} | wc -l >>{counts}; sleep 0.3; rm {running}/$$'
    nodes = [
        engine.submit(ShellJob, command='sh', arguments=['-c', command], options={'computer': here})
        for _ in range(9)
    ]
    engine.wait(nodes, timeout=100)
    assert all(node.is_finished_ok for node in nodes)
    seen = [int(line) for line in counts.read_text().split()]
    assert len(seen) == 9 and max(seen) <= 3


def test_a_limit_counts_more_than_the_cores():
    assert Computer('here').max_jobs_of_host == len(os.sched_getaffinity(0))
    assert Computer('here', max_jobs=500).max_jobs_of_host is None
    assert Computer('here', scheduler='slurm').max_jobs_of_host is None
