"""The hosts are small programs beside the tests, run as their users would run them, in OS processes of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from support import leaks
from support.scripts import PATIENCE, STRICT_PYTHON, launch
from treadle.engine import Engine, ProcessNode

no_leaked_threads = leaks.no_leaked_threads

HOSTS = Path(__file__).parent / 'hosts'
collect_ignore = ['hosts']  # the tests in there are a host's own


class Gate:
    """Where a `Waits` of hosts/work.py waits; a folder with two pipes and the effects of its steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        os.mkfifo(folder / 'entered')
        os.mkfifo(folder / 'open')

    def wait_until_entered(self) -> int:
        """Wait until a step waits; returns the OS process that it is in."""
        return int((self.folder / 'entered').read_text())

    def open(self) -> None:
        """Let the step that waits go on, and all that come later."""
        with open(self.folder / 'open', 'w'):  # which takes somebody who reads
            self.open_for_others()

    def open_for_others(self) -> None:
        """Let the steps that come later go on, but not the one that waits now."""
        (self.folder / 'open').rename(self.folder / 'opened')

    def close(self) -> None:
        """Release what a step of an OS process that was killed has left behind."""
        for name in ('open', 'opened'):
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(self.folder / name, os.O_RDWR))

    @property
    def effects(self) -> list[str]:
        """The steps that have run, in order."""
        return (self.folder / 'effects').read_text().split()


class Hosts:
    """Runs host programs on one store."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
        self._running: list[Any] = []

    def begin(self, *command: str | Path, tolerate: tuple[str, ...] = (), **environment: str) -> Any:
        """Start ``python COMMAND``, with hosts/ on its path; a host of that folder is named by its file's name.

        :param tolerate: every warning is an error but these, ``message:category``, of the host's own libraries.
        """
        python = [*STRICT_PYTHON, *(f'-Wignore:{each}' for each in tolerate)]
        environment = {
            'TREADLE_STORE': self.store,
            'PYTHONPATH': str(HOSTS),
            'HOME': str(self.folder),
            **environment,
        }
        command = tuple(HOSTS / each if str(each).endswith('.py') else each for each in command)
        script = launch([*python, *command], folder=self.folder, **environment)
        self._running.append(script)
        return script

    def run(self, *command: str | Path, **options: Any) -> Any:
        """Run ``python COMMAND`` to its end."""
        return self.begin(*command, **options).end()

    def nodes(self) -> list[ProcessNode]:
        """What is in the store now, read by an engine that runs none of it."""
        with Engine(self.store, name='reads') as engine:
            nodes = engine.query()
            for node in nodes:
                node._row()
            return nodes

    def engines_ended(self) -> list[str]:
        """How each engine has ended, in the order of their starts."""
        with contextlib.closing(sqlite3.connect(self.store.removeprefix('sqlite:///'))) as connection:
            return [ended for (ended,) in connection.execute('SELECT ended FROM engine ORDER BY id')]

    def close(self) -> None:
        """End what still runs."""
        for script in self._running:
            script.__exit__(None, None, None)


class Client:
    """Talks to a server on this machine as any client does; from any thread."""

    def __init__(self, port: int) -> None:
        self.port = port

    def when_it_listens(self) -> Client:
        """Return when the server takes connections."""
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(('127.0.0.1', self.port), PATIENCE).close()
                return self

    def call(self, method: str, path: str, body: Any = None, /, headers: Any = None, **query: Any) -> Any:
        """Make a request; returns status and decoded body."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        try:
            target = f'{path}?{urlencode(query)}' if query else path
            connection.request(method, target, None if body is None else json.dumps(body), headers or {})
            response = connection.getresponse()
            body = response.read()
            is_json = response.headers.get_content_type() == 'application/json'
            return response.status, json.loads(body) if is_json else body.decode()
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Any:
        """GET what must be there; returns the decoded body."""
        status, body = self.call('GET', path, **query)
        assert status == 200, body
        return body


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    return f'sqlite:///{tmp_path}/store.db'


@pytest.fixture
def hosts(no_leaked_threads: None, tmp_path: Path, store: str) -> Iterator[Hosts]:
    """Runs hosts."""
    hosts = Hosts(tmp_path, store)
    yield hosts
    hosts.close()


@pytest.fixture
def hosts_folder() -> Path:
    """Where the host programs are."""
    return HOSTS


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where a step waits for the test."""
    gate = Gate(tmp_path / 'gate')
    yield gate
    gate.close()


@pytest.fixture
def client() -> type[Client]:
    """Talks to a server."""
    return Client
