"""What the command says when a database or a broker cannot be had, and how it waits for one that is coming."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, '-W', 'error', '-m', 'treadle.engine.cli']
SECRET = 'pA5s-w0rd'


def refused(done: Any, *parts: str) -> None:
    """It ended with a line that has these parts, and no secret."""
    assert (done.returncode, done.stdout) == (1, ''), done
    assert done.stderr.startswith('treadle: ') and done.stderr.count('\n') == 1, done.stderr
    for part in parts:
        assert part in done.stderr
    assert SECRET not in done.stderr


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as held:
        held.bind(('127.0.0.1', 0))
        yield held.getsockname()[1]


@pytest.fixture
def mute() -> Iterator[int]:
    """A port on which connections are taken, and nothing is ever said."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        yield listening.getsockname()[1]


COMMANDS = [['ps'], ['worker'], ['store', 'upgrade'], ['kill', '1']]


@pytest.mark.parametrize('command', COMMANDS)
def test_nobody_listens_for_the_store(treadle: Any, nobody: int, command: list[str]) -> None:
    store = f'postgresql://me:{SECRET}@127.0.0.1:{nobody}/work'
    refused(treadle(*command, store=store), f'no PostgreSQL server listens at 127.0.0.1:{nobody}', 'URL of the store')


@pytest.mark.parametrize('command', [['ps'], ['worker']])
def test_the_store_does_not_answer(treadle: Any, mute: int, command: list[str]) -> None:
    done = treadle(*command, store=f'postgresql://me:{SECRET}@127.0.0.1:{mute}/work?connect_timeout=2')
    refused(done, f'127.0.0.1:{mute} did not answer in time', 'connect_timeout')


@pytest.mark.parametrize('command', COMMANDS)
def test_a_wrong_password(treadle: Any, guarded: None, postgres_server: Any, command: list[str]) -> None:
    place = f'127.0.0.1:{postgres_server.port}'
    done = treadle(*command, store=f'postgresql://guarded:{SECRET}@{place}/treadle')
    refused(done, f'{place} refuses the password', "'guarded'", 'PGPASSWORD', '~/.pgpass')


@pytest.mark.parametrize('command', COMMANDS)
def test_a_database_that_does_not_exist(treadle: Any, postgres_server: Any, command: list[str]) -> None:
    place = f'127.0.0.1:{postgres_server.port}'
    done = treadle(*command, store=f'postgresql://treadle@{place}/nowhere')
    refused(done, f'{place} has no database', "'nowhere'", 'createdb nowhere')


def test_a_password_on_the_command_line(treadle: Any) -> None:
    for url in (
        f'postgresql://me:{SECRET}@db/work',
        f'postgresql://db/work?user=me&password={SECRET}',
        f'postgresql://db/work?sslpassword={SECRET}',
        f'postgresql://db/work?oauth_client_secret={SECRET}',
        f'postgresql://me:a@{SECRET}@db/work',
        f'postgresql://me:{SECRET}/x@db/work',
        f'postgresql://me:1/{SECRET}@db/work',
        f'postgresql://me:1?{SECRET}@db/work',
    ):
        done = treadle('ps', '--store', url)
        assert done.returncode == 2 and 'everybody on this machine can see' in done.stderr
        assert 'TREADLE_STORE' in done.stderr and 'passfile=PATH' in done.stderr and SECRET not in done.stderr
    done = treadle('worker', '--broker', f'amqp://me:{SECRET}@broker/work')
    assert done.returncode == 2 and 'password_file=PATH' in done.stderr and SECRET not in done.stderr
    done = treadle('store', 'export', 'work.zip', '--retire', '--to', f'postgresql://me:{SECRET}@db/work')
    assert done.returncode == 2 and 'everybody on this machine can see' in done.stderr and SECRET not in done.stderr
    for url in ('postgresql://me@127.0.0.1:1/work', 'postgresql://127.0.0.1:1/a:b%40c'):
        assert treadle('ps', '--store', url).returncode == 1


def test_the_password_is_in_a_file(treadle: Any, guarded: None, postgres_server: Any, tmp_path: Path) -> None:
    path = tmp_path / 'pgpass'
    path.write_text(f'127.0.0.1:{postgres_server.port}:*:guarded:right\n')
    path.chmod(0o600)
    store = f'postgresql://guarded@127.0.0.1:{postgres_server.port}/treadle?passfile={path}'
    assert 'refuses the password' not in treadle('ps', '--store', store).stderr
    path.write_text(f'127.0.0.1:{postgres_server.port}:*:guarded:{SECRET}\n')
    refused(treadle('ps', '--store', store), 'refuses the password')


# -- the broker --------------------------------------------------------------------------------------------


def worker(treadle: Any, tmp_path: Path, broker: str, **more: str) -> Any:
    return treadle('worker', store=f'sqlite:///{tmp_path}/store.db', env={'TREADLE_BROKER': broker, **more})


def test_nobody_listens_for_the_broker(treadle: Any, tmp_path: Path, nobody: int) -> None:
    done = worker(treadle, tmp_path, f'amqp://me:{SECRET}@127.0.0.1:{nobody}/work')
    refused(done, 'TREADLE_BROKER', f'nothing listens on 127.0.0.1 port {nobody}')


def test_the_broker_does_not_answer(treadle: Any, tmp_path: Path, mute: int) -> None:
    done = worker(treadle, tmp_path, f'amqp://me:{SECRET}@127.0.0.1:{mute}/work?connection_timeout=1')
    refused(done, f'127.0.0.1:{mute}', 'did not answer within 1 s')


def test_a_wrong_password_of_the_broker(treadle: Any, tmp_path: Path, broker: str) -> None:
    done = worker(treadle, tmp_path, broker.replace('guest:guest', f'guest:{SECRET}'))
    refused(done, 'TREADLE_BROKER', "refuses the user 'guest' or its password")


def test_a_virtual_host_that_does_not_exist(treadle: Any, tmp_path: Path, broker: str) -> None:
    done = worker(treadle, tmp_path, broker + 'x')
    refused(done, "the virtual host 'test-", 'rabbitmqctl add_vhost')


# -- waiting -----------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in the background."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *command],
            env={**os.environ, **environment},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert process.stderr is not None
    return process.stderr.readline()


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(40)


def test_a_worker_waits_for_its_store(start: Callable[..., Any], make_postgres: Callable[..., Any]) -> None:
    server = make_postgres()
    server.stop()
    waiting = start('worker', '--wait', TREADLE_STORE=server.url())
    said = line(waiting)
    assert said.startswith('treadle: no PostgreSQL server listens at') and said.endswith('; trying again\n')
    server.start()
    while not (said := line(waiting)).startswith('treadle: engine 1 works on '):
        assert said.endswith('; trying again\n')
    assert ended(waiting) == 0


def test_a_worker_that_may_wait_starts_without_its_broker(
    start: Callable[..., Any], make_rabbitmq: Callable[..., Any], tmp_path: Path
) -> None:
    broker = make_rabbitmq()
    broker.stop()
    store = f'sqlite:///{tmp_path}/store.db'
    waiting = start('worker', '--wait', '--log-level', 'INFO', TREADLE_STORE=store, TREADLE_BROKER=broker.url())
    while 'nothing listens' not in line(waiting):
        assert waiting.poll() is None
    broker.start()
    while ' is back' not in line(waiting):
        assert waiting.poll() is None
    assert ended(waiting) == 0


def test_it_waits_so_long_and_no_longer(treadle: Any, nobody: int) -> None:
    store = f'postgresql://me@127.0.0.1:{nobody}/work'
    for command in (['worker'], ['store', 'upgrade']):
        begun = time.monotonic()
        done = treadle(*command, '--wait', '1.5', store=store)
        assert time.monotonic() - begun >= 1.5
        # How often it tries depends on how long a try takes; it says so each time, and at last that it has given up.
        assert done.returncode == 1
        assert done.stderr.count('\n') == done.stderr.count('; trying again\n') + 1
        assert not done.stderr.endswith('; trying again\n')


def test_it_does_not_wait_for_what_is_wrong(treadle: Any, postgres_server: Any) -> None:
    store = f'postgresql://treadle@127.0.0.1:{postgres_server.port}/nowhere'
    refused(treadle('worker', '--wait', store=store), "no database 'nowhere'")


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_leaves_when_it_is_told_to(
    start: Callable[..., Any], nobody: int, number: signal.Signals
) -> None:
    waiting = start('worker', '--wait', TREADLE_STORE=f'postgresql://me@127.0.0.1:{nobody}/work')
    line(waiting)
    waiting.send_signal(number)
    assert waiting.wait(20) in (-number, 130)


def test_a_submission_waits(start: Callable[..., Any], make_postgres: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / 'parts.py').write_text(
        'from treadle.engine import calcfunction\n@calcfunction\ndef double(x):\n    return 2 * x\n'
    )
    server = make_postgres()
    server.stop()
    waiting = start('submit', 'parts:double', 'x=2', '--wait', '60', TREADLE_STORE=server.url())
    line(waiting)
    server.start()
    assert waiting.wait(100) == 0 and waiting.stdout.read() == '1\n'
