"""Private services for real: brought up, found out when they have died, taken down; and what happens without them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision import Group, Postgres, RabbitMQ, ServiceError

CHECKOUT = Path(__file__).parents[2]
PROVISION = CHECKOUT / 'tools' / 'provision'
BY_NAME = {'postgres': Postgres, 'rabbitmq': RabbitMQ}


class Command:
    """The command tools/services on a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [CHECKOUT / 'tools' / 'services', command, *arguments, '--folder', self.folder],
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def status(self, name: str) -> dict[str, Any]:
        done = subprocess.run(
            [CHECKOUT / 'tools' / 'services', 'status', name, '--json', '--folder', self.folder],
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        (row,) = json.loads(done.stdout)
        assert done.returncode == (row['state'] != 'up')
        return row


@pytest.fixture
def command(services, tmp_path):
    command = Command(tmp_path / 'services')
    yield command
    command('down', '--remove')


def exists(pid: int) -> bool:
    """Whether an OS process is there and has not ended."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('name', BY_NAME)
def test_up_status_env_kill_up_down(name: str, command: Command, services: Any) -> None:
    services.ready(name)
    assert command.status(name)['state'] == 'down'

    command('up', name)
    row = command.status(name)
    assert row['state'] == 'up'
    assert all(exists(pid) for pid in row['pids'].values())
    (url,) = row['environment'].values()
    assert f'127.0.0.1:{row["ports"][min(row["ports"])]}' in url
    assert command('env', name).stdout == f'export TREADLE_TEST_{name.upper()}={url}\n'
    assert 'was up' in command('up', name).stdout
    assert command.status(name) == row

    os.kill(row['pids'][name], signal.SIGKILL)
    while exists(row['pids'][name]):
        pass
    assert command.status(name)['state'] == 'crashed'
    assert f'{name}: crashed' in command('env', name, status=1).stderr
    assert 'started again' in command('up', name).stdout
    again = command.status(name)
    assert (again['state'], again['ports'], again['environment']) == ('up', row['ports'], row['environment'])
    assert again['pids'][name] != row['pids'][name]

    command('down', name)
    assert command.status(name)['state'] == 'down'
    assert not any(exists(pid) for pid in (again['pids'] | row['pids']).values())
    assert 'was down' in command('down', name).stdout


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


def test_a_silent_service_is_neither_up_nor_down(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    server.send(signal.SIGSTOP)
    assert server.state == 'silent'
    server.send(signal.SIGCONT)
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
def test_the_role_guarded_needs_its_password(postgres_server: Postgres, password: str, status: int) -> None:
    postgres_server.execute("DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN PASSWORD 'right'")
    url = postgres_server.url('postgres').replace('treadle@', 'guarded@')
    psql = ['psql', url, '-c', 'SELECT 1']
    done = subprocess.run(psql, env={**os.environ, 'PGPASSWORD': password}, capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr


def test_a_port_that_another_has_taken_is_named(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
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


def test_the_virtual_host_of_a_test_is_its_own(broker: str, services: Any) -> None:
    vhost = broker.rpartition('/')[2]
    rabbitmq = services.shared('rabbitmq')
    assert rabbitmq.evaluate(f'rabbit_vhost:exists(<<"{vhost}">>)') == 'true'
    rabbitmq.delete_vhost(vhost)
    with pytest.raises(ServiceError, match='no_such_vhost'):
        rabbitmq.delete_vhost(vhost)
    rabbitmq.create_vhost(vhost)


def test_settings_reach_the_broker(make_rabbitmq: Callable[..., RabbitMQ]) -> None:
    broker = make_rabbitmq(settings={'consumer_timeout': '60000'})
    assert broker.evaluate('application:get_env(rabbit, consumer_timeout)') == '{ok, 60000}'


def test_what_tests_that_were_cut_off_have_left_is_ended(services: Any, tmp_path: Path) -> None:
    services.ready('postgres')
    script = (
        'import sys; from pathlib import Path; from provision import Group, Postgres\n'
        'server = Group(Path(sys.argv[1])).own(Postgres); server.start(); print(server.pids["postgres"])'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, tmp_path],
        env={**os.environ, 'PYTHONPATH': str(CHECKOUT / 'tools')},
        stdout=subprocess.PIPE, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert exists(int(done.stdout))
    mine = Group(tmp_path).own(Postgres)
    mine.folder.mkdir(parents=True)
    assert 'postgres-' in Command(tmp_path)('down').stdout
    assert not exists(int(done.stdout))
    assert list((tmp_path / 'own').iterdir()) == [mine.folder]


# -- a service that cannot be had -------------------------------------------------------------------------------------


def test_one_that_cannot_be_had_does_not_keep_the_others_down(services: Any, command: Command, tmp_path: Path) -> None:
    services.ready('postgres')
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_RABBITMQ, 'up', 'rabbitmq', 'postgres', '--folder', command.folder],
        env={**os.environ, 'PYTHONPATH': str(CHECKOUT / 'tools')},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'rabbitmq: cannot be had: rabbitmq-server' in done.stderr
    assert 'sudo apt-get install rabbitmq-server' in done.stderr
    assert command.status('postgres')['state'] == 'up'


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
    assert "no service 'mysql'; there are: postgres rabbitmq" in done.stderr
