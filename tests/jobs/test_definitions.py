"""What is said of computers, options and jobs: what makes no sense is refused where it is said."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from support.jobs import HASTY
from treadle.engine import (
    CalcInfo,
    CalcJob,
    CodeInfo,
    Computer,
    ComputerNotFound,
    ConfigurationError,
    Engine,
    File,
    Folder,
    RemoteFolder,
    ShellJob,
    SpecError,
    ValidationError,
    WorkChain,
)
from treadle.engine.jobs.options import resources_of


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with Engine(f'sqlite:///{tmp_path}/store.db', timing=HASTY) as engine:
        yield engine


# -- computers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'name': 'a b'}, 'is no name for a computer'),
        ({'name': 'a', 'scheduler': 'lsf'}, 'scheduler must be one of direct, slurm, pbs, sge'),
        ({'name': 'a', 'transport': 'ssh'}, 'needs a hostname'),
        ({'name': 'a', 'transport': 'ftp'}, 'must be local or ssh'),
        ({'name': 'a', 'port': 0}, 'port must be 1 to 65535'),
        ({'name': 'a', 'max_jobs': 0}, 'max_jobs must be an int of at least 1'),
        ({'name': 'a', 'max_queued': True}, 'max_queued must be an int of at least 1'),
        ({'name': 'a', 'poll_interval': 0}, 'poll_interval must be more than 0'),
        ({'name': 'a', 'shebang': '/bin/sh'}, 'shebang must be one line'),
        ({'name': 'a', 'work_directory': ''}, 'work_directory must be the path of a folder'),
        ({'name': 'a', 'hostnam': 'b'}, "there is no field 'hostnam'; did you mean 'hostname'"),
        ({'transport': 'local'}, 'needs a name'),
        ({'name': 'a', 'poll_interval': 'often'}, "computer 'a'"),
    ],
)
def test_computers_that_make_no_sense(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Computer.from_dict(fields)


def test_a_computer_comes_back_as_it_was(tmp_path: Path) -> None:
    computer = Computer('a', transport='ssh', hostname='h', max_jobs=3, poll_interval=2.5, prepend_text='é\n')
    assert Computer.from_text(computer.to_text()) == computer
    file = tmp_path / 'computers.toml'
    file.write_text('[a]\ntransport = "ssh"\nhostname = "h"\n[b]\nmax_jobs = 2\n')
    found = Computer.from_toml(file)
    assert found == {'a': Computer('a', transport='ssh', hostname='h'), 'b': Computer('b', max_jobs=2)}
    wrong = {'[a': 'is no TOML', 'a = 1': 'is no table', '[a]\nmaxjobs = 1': "did you mean 'max_jobs'"}
    for text, words in wrong.items():
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=words):
            Computer.from_toml(file)


@pytest.mark.parametrize(
    ('work_directory', 'base'),
    [('jobs', '/home/me/jobs'), ('~/jobs/', '/home/me/jobs'), ('/scratch/x/', '/scratch/x'), ('~', '/home/me')],
)
def test_where_jobs_are(work_directory: str, base: str) -> None:
    assert Computer('a', work_directory=work_directory).base_folder('/home/me') == base


class _Chain(WorkChain):
    """Passes the options of a job on."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(ShellJob, namespace='job')
        spec.outline(cls.start)

    def start(self) -> None:
        raise AssertionError('it is refused before it begins')


def _builder() -> Any:
    builder = ShellJob.get_builder()
    builder.command = 'true'
    builder.options.computer = 'localhots'
    return builder


@pytest.mark.parametrize(
    ('place', 'call'),
    [
        ('ShellJob: options', lambda engine: engine.run(ShellJob, command='true', options={'computer': 'localhots'})),
        ('ShellJob: options', lambda engine: engine.submit(_builder())),
        (
            '_Chain: job.options',
            lambda engine: engine.submit(_Chain, job={'command': 'true', 'options': {'computer': 'localhots'}}),
        ),
    ],
    ids=['run', 'builder', 'chain'],
)
def test_an_unknown_computer_is_named_at_the_call(engine: Engine, place: str, call: Any) -> None:
    words = (
        f"{place}.computer: there is no computer 'localhots' in this store; did you mean 'localhost'? known are: "
        f'localhost; `treadle computer add` defines another'
    )
    with pytest.raises(ComputerNotFound, match=f'^{re.escape(words)}$'):
        call(engine)
    assert engine.query() == []


def test_a_computer_is_known_by_its_name_once_it_is_defined(engine: Engine, tmp_path: Path) -> None:
    here = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    assert engine.run(ShellJob, command='true', options={'computer': here})['exit_code'] == 0
    assert engine.run(ShellJob, command='true', options={'computer': 'here'})['exit_code'] == 0


class _Goes(ShellJob):
    """Takes a folder that another job has left."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('parents.last', valid_type=RemoteFolder)


def test_a_folder_on_another_computer_is_refused(engine: Engine, tmp_path: Path) -> None:
    here = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    words = "_Goes: parents.last is a folder on computer 'cluster', and the job is to run on '{}'"
    last = RemoteFolder('cluster', '/scratch/1')
    for computer, name in ((here, 'here'), ('localhost', 'localhost')):
        with pytest.raises(ValidationError, match=words.format(name)):
            engine.submit(_Goes, command='true', parents={'last': last}, options={'computer': computer})
    assert engine.query() == []
    folder = RemoteFolder('here', str(tmp_path))
    outputs = engine.run(_Goes, command='true', parents={'last': folder}, options={'computer': here})
    assert outputs['exit_code'] == 0


def test_a_computer_does_not_move_under_its_jobs(engine: Engine, tmp_path: Path, wait_until: Any) -> None:
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1, max_jobs=2)
    node = engine.submit(ShellJob, command='sleep', arguments=['300'], options={'computer': computer})
    wait_until(lambda: engine.core.source.reader.job(node.pid))
    moved = dataclasses.replace(computer, work_directory=str(tmp_path / 'elsewhere'))
    with pytest.raises(ConfigurationError, match=r'has 1 job\(s\) that live, so its work_directory cannot change'):
        engine.run(ShellJob, command='true', options={'computer': moved})
    slower = dataclasses.replace(computer, poll_interval=0.2)
    assert engine.run(ShellJob, command='true', options={'computer': slower})['exit_code'] == 0
    engine.kill(node)
    wait_until(lambda: engine.core.source.reader.job(node.pid).state == 'gone')


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'max_walclock_seconds': 60}, 'max_wallclock_seconds'),
        ({'resources': {'num_machine': 1}}, "did you mean 'num_machines'"),
        ({'resources': {'num_machines': 0}}, 'num_machines must be an int of at least 1'),
        ({'max_wallclock_seconds': 0}, 'must be more than 0'),
        ({'queue_name': 'a\nb'}, 'must be one line of text'),
        ({'environment_variables': {'A B': '1'}}, 'is no name of an environment variable'),
        ({'environment_variables': {'A': 1}}, 'the value of A must be a str'),
        ({'scheduler_stdout': 'a/b'}, 'must be a plain file name'),
        ({'computer': 3}, 'computer'),
    ],
)
def test_options_that_make_no_sense(engine: Engine, options: dict[str, Any], words: str) -> None:
    for given in ({'options': options}, {'metadata': {'options': options}}):
        with pytest.raises(ValidationError, match=words):
            engine.submit(ShellJob, command='true', **given)


def test_options_are_given_once(engine: Engine) -> None:
    with pytest.raises(ValidationError, match='given twice'):
        engine.submit(ShellJob, command='true', options={'account': 'a'}, metadata={'options': {'account': 'b'}})


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, (1, 2, 2)),
        ({'num_machines': 3}, (3, 2, 6)),
        ({'tot_num_mpiprocs': 5}, (1, 5, 5)),
        ({'num_machines': 2, 'num_mpiprocs_per_machine': 4}, (2, 4, 8)),
        ({'tot_num_mpiprocs': 8, 'num_mpiprocs_per_machine': 4}, (2, 4, 8)),
        ({'num_machines': 2, 'tot_num_mpiprocs': 7}, (2, 4, 7)),
    ],
)
def test_nodes_and_processes(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    found = _resources(given)
    assert (found.num_machines, found.num_mpiprocs_per_machine, found.tot_num_mpiprocs) == expected


def test_nodes_and_processes_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match='9 processes do not fit 2 machines of 4'):
        _resources({'num_machines': 2, 'num_mpiprocs_per_machine': 4, 'tot_num_mpiprocs': 9})
    with pytest.raises(ValidationError, match='cannot be shared'):
        _resources({'num_mpiprocs_per_machine': 4, 'num_cores_per_machine': 6})


def _resources(given: dict[str, int]) -> Any:
    plain = dict.fromkeys(('custom_scheduler_commands', 'scheduler_stdout', 'scheduler_stderr'), '')
    options = {'resources': given, 'import_sys_environment': True, **plain}
    return resources_of(options, Computer('a', default_mpiprocs_per_machine=2))


# -- jobs ----------------------------------------------------------------------------------------------------


class Told(CalcJob):
    """Does what it is told."""

    told: Any = None

    def prepare_for_submission(self, folder: Any) -> Any:
        return type(self).told(folder)


ECHO = CodeInfo(executable='echo')


@pytest.mark.parametrize(
    ('told', 'error', 'words'),
    [
        (lambda folder: None, TypeError, 'return a CalcInfo'),
        (lambda folder: CalcInfo(), ValidationError, 'codes_info is empty'),
        (lambda folder: CalcInfo(codes_info=['echo']), ValidationError, 'codes_info holds CodeInfo'),
        (lambda folder: CalcInfo(codes_info=[CodeInfo(executable='')]), ValidationError, 'must name a program'),
        (
            lambda folder: CalcInfo(codes_info=[CodeInfo(executable='a', cmdline_params=[1])]),
            ValidationError,
            'cmdline_params of a must be str',
        ),
        (
            lambda folder: CalcInfo(codes_info=[CodeInfo(executable='a', stdout_name='../out')]),
            ValidationError,
            'stdout_name',
        ),
        (lambda folder: CalcInfo(codes_info=[ECHO], retrieve_list=['/etc/passwd']), ValidationError, 'retrieve_list'),
        (lambda folder: CalcInfo(codes_info=[ECHO], retrieve_list=['a/../b']), ValidationError, 'retrieve_list'),
        (
            lambda folder: CalcInfo(codes_info=[ECHO], remote_copy_list=[('relative', 'x')]),
            ValidationError,
            'no absolute path',
        ),
        (
            lambda folder: CalcInfo(codes_info=[ECHO], local_copy_list=[('/no/such/file', 'x')]),
            ValidationError,
            'cannot be read',
        ),
        (
            lambda folder: CalcInfo(codes_info=[ECHO], local_copy_list=[(File(b'', name='x'), '.treadle/job.sh')]),
            ValidationError,
            'is for its own use',
        ),
        (lambda folder: folder.write_text('../out', ''), ValueError, 'no plain relative path'),
    ],
)
def test_jobs_that_make_no_sense(
    engine: Engine, told: Any, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Told, 'told', staticmethod(told))
    with pytest.raises(error, match=words):
        engine.run(Told)


def test_a_class_that_does_nothing() -> None:
    class Nothing(CalcJob):
        pass

    with pytest.raises(SpecError, match='override prepare_for_submission'):
        Nothing.spec()


def test_hostile_names_and_arguments(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces, quotes, newlines, leading dashes, and what a shell would expand: all of it arrives as it is."""
    names = ['with space', "quo'te\"s", '-dash', 'new\nline', '$(touch gone)', '*', 'ünï', 'sub dir/deep']
    words = ['$HOME', '`id`', "it's", 'a\nb', '--', '', '*', '\\']
    computer = Computer('here', work_directory=f"{tmp_path}/a work 'directory'", poll_interval=0.1)

    def told(folder: Any) -> CalcInfo:
        return CalcInfo(
            codes_info=[
                CodeInfo(executable='printf', cmdline_params=['%s\\0', *words], stdout_name='-the output'),
                CodeInfo(executable='cat', stdin_name='-dash', stdout_name="quo'te\"s.copy"),
            ],
            local_copy_list=[(File(name.encode(), name='x'), name) for name in names],
            retrieve_list=['*', '-the output', 'sub dir'],
        )

    monkeypatch.setattr(Told, 'told', staticmethod(told))
    outputs = engine.run(Told, options={'computer': computer, 'environment_variables': {'X': "a'b\n$c"}})
    retrieved: Folder = outputs['retrieved']
    assert {name: retrieved[name].read_text() for name in names} == {name: name for name in names}
    assert retrieved['-the output'].read_text().split('\0')[:-1] == words
    assert retrieved["quo'te\"s.copy"].read_text() == '-dash'
    assert not [path for path in retrieved if path.startswith('.treadle') or path == 'gone']


def test_copies_and_links_on_the_computer(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / 'there'
    (there / 'tree').mkdir(parents=True)
    (there / 'tree' / 'file').write_text('in a tree')
    (there / 'big').write_text('linked')

    def told(folder: Any) -> CalcInfo:
        return CalcInfo(
            codes_info=[CodeInfo(executable='cat', cmdline_params=['sub/tree/file', 'link'], stdout_name='out')],
            remote_copy_list=[(f'{there}/tree', 'sub/tree')],
            remote_symlink_list=[(f'{there}/big', 'link')],
            retrieve_list=['out', 'link', 'missing*'],
        )

    monkeypatch.setattr(Told, 'told', staticmethod(told))
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    outputs = engine.run(Told, options={'computer': computer})
    assert outputs['retrieved']['out'].read_text() == 'in a treelinked'
    assert outputs['retrieved']['link'].read_text() == 'linked'


@pytest.mark.parametrize(
    ('told', 'status', 'words'),
    [
        (CalcInfo(codes_info=[ECHO], remote_copy_list=[('/no/such/file', 'x')]), 132, 'No such file'),
        (CalcInfo(codes_info=[CodeInfo(executable='mkfifo', cmdline_params=['p'])], retrieve_list=['p']), 100, ''),
        (CalcInfo(codes_info=[CodeInfo(executable='sh', cmdline_params=['-c', 'rm -rf "$PWD"'])]), 142, ''),
    ],
    ids=['upload', 'retrieval', 'folder removed'],
)
def test_what_the_computer_refuses(
    engine: Engine, tmp_path: Path, told: CalcInfo, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Told, 'told', staticmethod(lambda folder: told))
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    _, node = engine.run_get_node(Told, options={'computer': computer})
    assert node.exit_status == status, node.exit_message
    assert words in (node.exit_message or '')


def test_a_work_directory_that_cannot_be_written(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    computer = Computer('here', work_directory=str(tmp_path / 'file' / 'work'), poll_interval=0.1)
    _, node = engine.run_get_node(ShellJob, command='true', options={'computer': computer})
    assert node.exit_status == 132 and 'Not a directory' in node.exit_message


@pytest.mark.parametrize(
    ('command', 'status'), [('no-such-program', 300), ('false', 310)], ids=['missing', 'failing']
)
def test_shell_jobs_that_fail(engine: Engine, tmp_path: Path, command: str, status: int) -> None:
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    _, node = engine.run_get_node(ShellJob, command=command, options={'computer': computer})
    assert node.exit_status == status, node.exit_message


class _Tells(ShellJob):
    """Tells what its parser sees of its end."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output('has_ended', valid_type=bool)

    def parse(self, retrieved: Folder) -> None:
        self.out('has_ended', self.outcome.has_ended)


@pytest.mark.parametrize(
    ('command', 'limit', 'has_ended'), [('true', 60, True), ('exit 3', 60, True), ('sleep 300', 1, False)]
)
def test_whether_a_job_came_to_its_own_end(
    engine: Engine, tmp_path: Path, command: str, limit: int, has_ended: bool
) -> None:
    options = {
        'computer': Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1),
        'max_wallclock_seconds': limit,
    }
    outputs = engine.run(_Tells, command='sh', arguments=['-c', command], options=options)
    assert outputs['has_ended'] is has_ended


def test_time_is_up_without_a_batch_system(engine: Engine, tmp_path: Path) -> None:
    computer = Computer('here', work_directory=str(tmp_path / 'work'), poll_interval=0.1)
    _, node = engine.run_get_node(
        ShellJob, command='sleep', arguments=['300'], options={'computer': computer, 'max_wallclock_seconds': 1}
    )
    assert node.exit_status == 120
