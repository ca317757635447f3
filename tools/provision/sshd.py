"""OpenSSH's server."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from .processes import kill
from .service import Service, ServiceError, is_root

# `UsePAM no`: PAM would want root, and accounts that it approves of.
_SETTINGS = {
    'UsePAM': 'no',
    'StrictModes': 'no',
    'PasswordAuthentication': 'no',
    'KbdInteractiveAuthentication': 'no',
    'PermitRootLogin': 'prohibit-password',
    'Subsystem': 'sftp internal-sftp',
    'PidFile': 'none',
    'PrintMotd': 'no',
    'PrintLastLog': 'no',
    'LogLevel': 'VERBOSE',
}

# Where sshd confines the part of it that talks to strangers; only root's looks for it.
_CONFINEMENT = Path('/run/sshd')


class Sshd(Service):
    """An ssh server that lets in the user who runs it, with a key of its own, and with sftp.

    ``ssh -F FOLDER/ssh_config treadle`` opens a shell. A host key that was removed is made anew at the next start.

    :param settings: of the server, by their names in sshd_config; they hold from the next start.
    :param shell_environment: variables that its shells get.
    """

    name = 'sshd'
    packages = ('openssh-server',)
    programs = ('sshd', 'ssh', 'ssh-keygen')
    port_names = ('ssh',)
    daemon_names = ('sshd',)

    host: ClassVar[str] = '127.0.0.1'

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        shell_environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.settings = dict(settings or {})
        self.shell_environment = dict(shell_environment or {})

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.ports['ssh']

    @property
    def key_file(self) -> Path:
        """The user's private key; without a passphrase."""
        return self.folder / 'user_key'

    @property
    def host_key_file(self) -> Path:
        """The server's private key."""
        return self.folder / 'host_key'

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file with this server in it."""
        return self.folder / 'known_hosts'

    @property
    def config_file(self) -> Path:
        """A configuration of the client's, in which the server is the host ``treadle``."""
        return self.folder / 'ssh_config'

    @property
    def log(self) -> Path:
        """What the server logs; every connection and login is in it."""
        return self.daemons[0].log

    def accepted_logins(self) -> int:
        """How many logins the server has let in, in all its time."""
        # "Accepted key" says only that a key would do
        lines = self.log.read_text(errors='replace').splitlines()
        return sum(line.startswith('Accepted ') and not line.startswith('Accepted key') for line in lines)

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), 2.0) as client:
                return client.recv(4) == b'SSH-'
        except OSError:
            return False

    def environment(self) -> dict[str, str]:
        return {
            'TREADLE_TEST_SSH': f'ssh://{self.user}@{self.host}:{self.port}',
            'TREADLE_TEST_SSH_CONFIG': str(self.config_file),
        }

    def stop(self) -> None:
        """End it, and its sessions with it; the commands that these have started go on."""
        sessions = self.daemons[0].family()
        super().stop()
        kill(sessions)

    def _prepare(self) -> None:
        for key in (self.host_key_file, self.key_file):
            if not key.exists():
                key.with_suffix('.pub').unlink(missing_ok=True)
                comment = f'treadle {key.name}'
                keygen: list[str | Path] = [self._program('ssh-keygen'), '-q', '-t', 'ed25519', '-N', '']
                self._call([*keygen, '-C', comment, '-f', key])
        host_key = self.host_key_file.with_suffix('.pub').read_text()
        self.known_hosts.write_text(f'[{self.host}]:{self.port} {host_key}')
        (self.folder / 'authorized_keys').write_text(self.key_file.with_suffix('.pub').read_text())
        (self.folder / 'sshd_config').write_text(self._server_config())
        self.config_file.write_text(
            f'Host treadle\n'
            f'    HostName {self.host}\n'
            f'    Port {self.port}\n'
            f'    User {self.user}\n'
            f'    IdentityFile "{self.key_file}"\n'
            f'    IdentitiesOnly yes\n'
            f'    UserKnownHostsFile "{self.known_hosts}"\n'
            f'    StrictHostKeyChecking yes\n'
        )
        if is_root():
            _CONFINEMENT.mkdir(mode=0o755, exist_ok=True)

    def _server_config(self) -> str:
        settings = {
            'ListenAddress': self.host,
            'Port': str(self.port),
            'HostKey': f'"{self.host_key_file}"',
            'AuthorizedKeysFile': f'"{self.folder / "authorized_keys"}"',
            **_SETTINGS,
            **self.settings,
        }
        if self.shell_environment:
            pairs = (f'"{name}={value}"' for name, value in self.shell_environment.items())
            settings['SetEnv'] = ' '.join(pairs)
        return ''.join(f'{name} {value}\n' for name, value in settings.items())

    def _launch(self) -> None:
        command: list[str | Path] = [self._program('sshd'), '-D', '-e', '-f', self.folder / 'sshd_config']
        self.daemons[0].start(command, environment=self._environment())

    def _settle(self) -> None:
        # whether it lets anyone in depends on the account, too
        try:
            self._call([self._program('ssh'), '-F', self.config_file, '-o', 'BatchMode=yes', 'treadle', 'true'])
        except ServiceError as error:
            self.stop()
            raise ServiceError(f'it does not let {self.user} in: {error}; {self.daemons[0].end_of_log()}') from None
