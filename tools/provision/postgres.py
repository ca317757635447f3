"""PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from .daemons import as_user
from .processes import GLANCE, working_in
from .service import Service, ServiceError, is_root

_BIN = '/usr/lib/postgresql/*/bin'

#: Settings that make it small, and quick at the cost of what tests never need: to survive a power cut. The data
#: do survive that all of its processes are killed, since the operating system still has what they have written.
_SETTINGS = {
    'listen_addresses': '127.0.0.1',
    'unix_socket_directories': '',
    'shared_buffers': '64MB',
    'max_connections': '200',
    'fsync': 'off',
    'full_page_writes': 'off',
    'log_line_prefix': '%m [%p] %d ',
}

# A client is whoever it says it is, but for the role `guarded`: with it, passwords are tried.
_ACCESS = """\
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""

# What a client of the protocol's version 3 says first and last; the letter of the answer to the first is R once
# the server lets clients in, and E while it starts or recovers.
_LET_IN = b'R'
_TERMINATE = struct.pack('!cI', b'X', 4)


class Postgres(Service):
    """A PostgreSQL server with the superuser `USER`, who needs no password.

    The server refuses to run as root, who therefore runs it as the user ``postgres`` of Debian's package.

    :param settings: of the server, by their names in postgresql.conf; they hold from the next start.
    """

    name = 'postgres'
    packages = ('postgresql',)
    programs = (f'{_BIN}/initdb', f'{_BIN}/postgres', f'{_BIN}/psql')
    port_names = ('postgres',)
    daemon_names = ('postgres',)
    stop_signal = signal.SIGINT  # "fast": sessions are ended, not waited for

    USER: ClassVar[str] = 'treadle'

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.settings = dict(settings or {})

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.ports['postgres']

    def url(self, database: str = USER) -> str:
        """The URL of a database."""
        return f'postgresql://{self.USER}@127.0.0.1:{self.port}/{database}'

    def execute(self, sql: str, *, database: str = 'postgres') -> str:
        """Execute statements, as the superuser; returns the rows, a line each.

        :raises ServiceError: the server refused; its message is in the error.
        """
        psql = self._program('psql')
        return self._call([psql, '-XqAt', '-v', 'ON_ERROR_STOP=1', self.url(database)], given=sql).rstrip('\n')

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its URL."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, and end the sessions that use it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def answers(self) -> bool:
        try:
            with socket.create_connection(('127.0.0.1', self.port), 2.0) as client:
                client.sendall(_startup_message(self.USER))
                answer = client.recv(1)
                client.sendall(_TERMINATE)
                return answer == _LET_IN
        except OSError:
            return False

    def environment(self) -> dict[str, str]:
        return {'TREADLE_TEST_POSTGRES': self.url()}

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._data.resolve(strict=True))
        super().remove()

    @property
    def _data(self) -> Path:
        return self.folder / 'data'

    @property
    def _user(self) -> str | None:
        return 'postgres' if is_root() else None

    def _prepare(self) -> None:
        if (self._data / 'PG_VERSION').exists():
            return
        with contextlib.suppress(FileNotFoundError):  # what an initdb that was cut off has left
            shutil.rmtree(self._data.resolve(strict=True))
        self._data.unlink(missing_ok=True)
        if is_root():
            self._make_data_for_postgres()
        initdb: list[str | Path] = [self._program('initdb'), '-D', self._data.resolve(), '-U', self.USER]
        initdb += ['--auth=trust', '--encoding=UTF8', '--locale=C.UTF-8', '--no-sync']
        self._call(initdb if self._user is None else as_user(self._user, initdb))
        (self._data / 'pg_hba.conf').write_text(_ACCESS)

    def _make_data_for_postgres(self) -> None:
        # Elsewhere, and linked: another user cannot get into folders that are root's alone, of which TMPDIR may be one.
        try:
            owner = pwd.getpwnam('postgres')
        except KeyError:
            raise ServiceError(
                'PostgreSQL does not run as root, and there is no user `postgres` to run it as; '
                'on Debian: apt-get install postgresql'
            ) from None
        data = tempfile.mkdtemp(prefix='treadle-postgres-', dir='/tmp')
        os.chown(data, owner.pw_uid, owner.pw_gid)
        self._data.symlink_to(data)

    def _launch(self) -> None:
        self._remove_lock_of_the_dead()
        settings = {**_SETTINGS, **self.settings, 'port': str(self.port)}
        command: list[str | Path] = [self._program('postgres'), '-D', self._data.resolve()]
        for name, value in settings.items():
            command += ['-c', f'{name}={value}']
        self.daemons[0].start(command, environment=self._environment(), user=self._user)

    def _remove_lock_of_the_dead(self) -> None:
        """Remove the lock file of a killed server, once all its processes have left the data.

        The server does so itself, but not as long as the pid in it exists; and one that nobody waits for, in a
        container whose first process is no init, exists for ever.
        """
        lock = self._data / 'postmaster.pid'
        deadline = time.monotonic() + self.patience
        while lock.exists() and working_in(self._data):
            if time.monotonic() > deadline:
                raise ServiceError(f'processes of a killed server still work in {self._data.resolve()}')
            time.sleep(GLANCE)
        lock.unlink(missing_ok=True)

    def _settle(self) -> None:
        if self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{self.USER}'") != '1':
            self.create_database(self.USER)


def _startup_message(user: str) -> bytes:
    parameters = b''.join(word.encode() + b'\0' for word in ('user', user, 'database', 'postgres', ''))
    return struct.pack('!II', 8 + len(parameters), 3 << 16) + parameters
