"""Private services for real: brought up, found out when they have died, taken down; and what happens without them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision import Group, Postgres, ServiceError, Slurm, Sshd
from provision.cli import main
from support.services import Services

pytestmark = pytest.mark.timeout(180)

CHECKOUT = Path(__file__).parents[2]
PROVISION = CHECKOUT / 'tools' / 'provision'

#: The services, and the variable that tells where each is.
VARIABLES = {
    'postgres': 'TREADLE_TEST_POSTGRES',
    'rabbitmq': 'TREADLE_TEST_RABBITMQ',
    'slurm': 'SLURM_CONF',
    'sshd': 'TREADLE_TEST_SSH',
}


class Command:
    """The command tools/services, in this OS process, on a folder of the test's own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, command: str, *arguments: str, status: int = 0) -> str:
        """Returns what it prints."""
        self._capsys.readouterr()
        ended = main([command, *arguments, '--folder', str(self.folder)])
        said = self._capsys.readouterr()
        assert ended == status, said.out + said.err
        return said.out + said.err

    def status(self, name: str) -> dict[str, Any]:
        self._capsys.readouterr()
        ended = main(['status', name, '--json', '--folder', str(self.folder)])
        (row,) = json.loads(self._capsys.readouterr().out)
        assert ended == (row['state'] != 'up')
        return row


@pytest.fixture
def command(services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    command = Command(tmp_path / 'services', capsys)
    yield command
    command('down', '--remove')


def exists(pid: int) -> bool:
    """Whether an OS process is there and has not ended."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('name', VARIABLES)
def test_up_status_env_kill_up_down(name: str, command: Command, services: Services) -> None:
    services.ready(name)
    assert command.status(name)['state'] == 'down'

    command('up', name)
    row = command.status(name)
    assert row['state'] == 'up'
    assert all(exists(pid) for pid in row['pids'].values())
    where = row['environment'][VARIABLES[name]]
    assert f'export {VARIABLES[name]}={where}\n' in command('env', name)
    assert 'was up' in command('up', name)
    assert command.status(name) == row

    main = list(row['pids'])[-1]
    os.kill(row['pids'][main], signal.SIGKILL)
    while exists(row['pids'][main]):
        pass
    assert command.status(name)['state'] == 'crashed'
    assert f'{name}: crashed' in command('env', name, status=1)
    assert 'started again' in command('up', name)
    again = command.status(name)
    assert (again['state'], again['ports'], again['environment']) == ('up', row['ports'], row['environment'])
    assert again['pids'][main] != row['pids'][main]

    command('down', name)
    assert command.status(name)['state'] == 'down'
    assert not any(exists(pid) for pid in (again['pids'] | row['pids']).values())
    assert 'was down' in command('down', name)


def test_a_pid_that_now_belongs_to_another_is_left_alone(tmp_path: Path) -> None:
    service = Postgres(tmp_path)
    bystander = subprocess.Popen(['sleep', '60'])
    try:
        stat = Path(f'/proc/{bystander.pid}/stat').read_text()
        before, parenthesis, rest = stat.rpartition(')')
        fields = rest.split()
        fields[19] = str(int(fields[19]) - 1)
        (tmp_path / 'postgres.pid').write_text(f'{before}{parenthesis} {" ".join(fields)}')
        assert service.state == 'crashed'
        service.kill()
        service.stop()
        assert service.state == 'down'
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_silent_service_is_neither_up_nor_down(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd()
    pids = server.pids
    server.send(signal.SIGSTOP)
    assert server.state == 'silent'
    threading.Timer(0.2, server.send, [signal.SIGCONT]).start()
    server.start()  # waits for it, and starts no second one
    assert server.pids == pids
    assert server.state == 'up'


def test_databases_outlive_a_kill_and_are_gone_when_dropped(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres(settings={'max_connections': '37'})
    url = server.create_database('kept')
    assert url.endswith(f':{server.port}/kept')
    server.execute('CREATE TABLE t (n int); INSERT INTO t VALUES (7)', database='kept')
    server.kill()
    assert server.state == 'crashed'
    server.start()
    assert server.execute('SELECT n FROM t; SHOW max_connections', database='kept').split() == ['7', '37']
    server.drop_database('kept')
    with pytest.raises(ServiceError, match='database "kept" does not exist'):
        server.execute('SELECT 1', database='kept')


@pytest.mark.parametrize(('password', 'status'), [('right', 0), ('wrong', 2)])
def test_the_role_guarded_needs_its_password(
    guarded: None, postgres_server: Postgres, password: str, status: int
) -> None:
    url = postgres_server.url('postgres').replace('treadle@', 'guarded@')
    psql = ['psql', url, '-c', 'SELECT 1']
    done = subprocess.run(psql, env={**os.environ, 'PGPASSWORD': password}, capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr


def test_a_port_that_another_has_taken_is_named(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd()
    server.stop()
    refused = pytest.raises(ServiceError, match=rf'taken port {server.port} .*remove .*ports.json')
    with socket.create_server(('127.0.0.1', server.port)), refused:
        server.start()
    server.start()


def test_the_database_of_a_test_is_empty_and_its_own(postgres: str, postgres_server: Postgres) -> None:
    found = re.fullmatch(r'postgresql://treadle@127\.0\.0\.1:(\d+)/(test_\d+_\d+)', postgres)
    assert found and int(found[1]) == postgres_server.port
    tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert postgres_server.execute(tables, database=found[2]) == '0'


def test_the_virtual_host_of_a_test_is_its_own(broker: str, services: Services) -> None:
    vhost = broker.rpartition('/')[2]
    rabbitmq = services.shared('rabbitmq')
    assert rabbitmq.evaluate(f'rabbit_vhost:exists(<<"{vhost}">>)') == 'true'
    rabbitmq.delete_vhost(vhost)
    with pytest.raises(ServiceError, match='no_such_vhost'):
        rabbitmq.delete_vhost(vhost)
    rabbitmq.create_vhost(vhost)


def ssh(server: Sshd, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command there, as a user does."""
    return subprocess.run(
        ['ssh', '-F', server.config_file, 'treadle', command], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_login_is_counted_and_a_changed_host_key_refused(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd(shell_environment={'GREETING': 'hello there'})
    before = server.accepted_logins()
    assert ssh(server, 'echo $GREETING').stdout == 'hello there\n'
    assert server.accepted_logins() == before + 1
    known = server.known_hosts.read_text()
    server.stop()
    server.host_key_file.unlink()
    server.start()
    server.known_hosts.write_text(known)
    assert 'HOST IDENTIFICATION HAS CHANGED' in ssh(server, 'true').stderr


def test_a_stopped_server_ends_its_sessions_only(make_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = make_sshd()
    command = f'echo $$; exec sleep 30 2>{tmp_path}/error'
    with subprocess.Popen(['ssh', '-F', server.config_file, 'treadle', command], stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        pid = int(session.stdout.readline())
        server.stop()
        assert session.wait(10) == 255
        assert exists(pid)
        os.kill(pid, signal.SIGKILL)
    assert ssh(server, 'true').returncode == 255
    server.start()
    assert ssh(server, 'true').returncode == 0


def test_jobs_run_from_the_front_end_and_are_on_record(sshd: Sshd, slurm: Slurm, tmp_path: Path) -> None:
    script = tmp_path / 'job.sh'
    script.write_text(f'#!/bin/sh\necho $SLURM_JOB_NAME >{tmp_path}/out.new\nmv {tmp_path}/out.new {tmp_path}/out\n')
    submitted = ssh(sshd, f'sbatch --wait --parsable --job-name=copper --output=/dev/null {script}')
    assert submitted.returncode == 0, submitted.stderr
    assert (tmp_path / 'out').read_text() == 'copper\n'
    deadline = time.monotonic() + 20  # the record is written after the waiting are told
    while not (jobs := [job for job in slurm.finished_jobs() if job['JobId'] == submitted.stdout.strip()]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [(job['Name'], job['JobState']) for job in jobs] == [('copper', 'COMPLETED')]
    with pytest.raises(ServiceError, match='invalid partition specified: nowhere'):
        slurm.run('sbatch', '--partition=nowhere', given='#!/bin/sh\n')


def test_jobs_outlive_all_but_the_end(make_slurm: Callable[..., Slurm], tmp_path: Path) -> None:
    slurm = make_slurm()
    script = f'#!/bin/sh\necho $$ >{tmp_path}/new\nmv {tmp_path}/new {tmp_path}/pid\nsleep 60\n'
    job = slurm.run('sbatch', '--parsable', '--output=/dev/null', given=script).strip()
    deadline = time.monotonic() + 30
    while not (tmp_path / 'pid').exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int((tmp_path / 'pid').read_text())
    slurm.kill()
    assert slurm.state == 'crashed'
    slurm.start()
    slurm.restart()
    assert slurm.run('squeue', '--noheader', '--format=%i %t') == f'{job} R\n'
    assert exists(pid)
    slurm.end()
    assert not exists(pid)
    assert [(each['JobId'], each['JobState']) for each in slurm.finished_jobs()] == [(job, 'CANCELLED')]


def test_what_tests_that_were_cut_off_have_left_is_ended(services: Services, tmp_path: Path) -> None:
    services.ready('sshd')
    script = (
        'import sys; from pathlib import Path; from provision import Group, Sshd\n'
        'server = Group(Path(sys.argv[1])).own(Sshd); server.start(); print(server.pids["sshd"])'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, tmp_path],
        env={**os.environ, 'PYTHONPATH': str(CHECKOUT / 'tools')},
        stdout=subprocess.PIPE, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert exists(int(done.stdout))
    group = Group(tmp_path)
    mine = group.own(Sshd)
    mine.folder.mkdir(parents=True)
    (ended,) = group.end_orphans()
    assert ended.startswith('sshd-')
    assert not exists(int(done.stdout))
    assert list((tmp_path / 'own').iterdir()) == [mine.folder]


# -- a service that cannot be had -------------------------------------------------------------------------------------


def test_one_that_cannot_be_had_does_not_keep_the_others_down(services: Services, command: Command) -> None:
    services.ready('sshd')
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_RABBITMQ, 'up', 'rabbitmq', 'sshd', '--folder', command.folder],
        env={**os.environ, 'PYTHONPATH': str(CHECKOUT / 'tools')},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'rabbitmq: cannot be had: rabbitmq-server' in done.stderr
    assert 'sudo apt-get install rabbitmq-server' in done.stderr
    assert command.status('sshd')['state'] == 'up'


# A machine without RabbitMQ's programs, whose user may not install them.
WITHOUT_RABBITMQ = """
import sys
from provision import packages
from provision.cli import main
there = packages.find
packages.find = lambda program: None if 'rabbitmq' in program or program == 'apt-get' else there(program)
sys.exit(main(sys.argv[1:]))
"""

NEEDS = """
def test_of_a_broker(broker):
    raise AssertionError('there is none')

def test_of_the_broker_too(broker, tmp_path):
    raise AssertionError('there is none')

def test_of_a_brokers_own(make_rabbitmq):
    make_rabbitmq()

def test_of_nothing():
    pass
"""

CONFTEST = """
from pathlib import Path
from provision import packages
from support import services
services.FOLDER = Path(__file__).with_name('services')
there = packages.find
packages.find = lambda program: None if 'rabbitmq' in program or program == 'apt-get' else there(program)
pytest_plugins = ['support.services']
"""


@pytest.mark.parametrize('ci', ['true', ''])
def test_it_skips_its_tests_loudly_and_fails_them_in_ci(tmp_path: Path, ci: str) -> None:
    (tmp_path / 'test_needs.py').write_text(NEEDS)
    (tmp_path / 'conftest.py').write_text(CONFTEST)
    (tmp_path / 'pytest.ini').write_text(f'[pytest]\npythonpath = {CHECKOUT / "tests"} {CHECKOUT / "tools"}\n')
    done = subprocess.run(
        [sys.executable, '-P', '-m', 'pytest', '-q', '-p', 'no:asyncio', '-p', 'no:anyio', '-p', 'no:cacheprovider'],
        cwd=tmp_path, env={**os.environ, 'CI': ci}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    counted = r'1 failed, 1 passed, .*2 errors' if ci else r'1 passed, 3 skipped'
    assert re.search(counted, done.stdout), done.stdout
    assert done.returncode == (1 if ci else 0)
    assert 'services that cannot be had' in done.stdout
    word = 'FAILED' if ci else 'SKIPPED'
    assert re.search(rf'^rabbitmq: 3 tests {word}: rabbitmq-server.* not found; on Debian: sudo', done.stdout, re.M)
    assert not (tmp_path / 'services' / 'rabbitmq').exists()


def test_a_name_that_no_service_has_is_refused() -> None:
    done = subprocess.run(
        [CHECKOUT / 'tools' / 'services', 'up', 'mysql'], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 2
    assert "no service 'mysql'; there are: postgres rabbitmq slurm sshd" in done.stderr
