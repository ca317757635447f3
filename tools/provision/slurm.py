"""Slurm, with one node: this machine."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from .processes import GLANCE
from .service import Service, ServiceError

_SETTINGS = {
    'ClusterName': 'treadle',
    'AuthType': 'auth/munge',
    'CredType': 'cred/munge',
    # what a machine without cgroups to give away can do
    'ProctrackType': 'proctrack/pgid',
    'TaskPlugin': 'task/none',
    'MpiDefault': 'none',
    'SelectType': 'select/cons_tres',
    'SelectTypeParameters': 'CR_CPU_Memory',
    'DefMemPerNode': '1000',  # MB, of a job that asks for none
    'AccountingStorageType': 'accounting_storage/none',
    'JobCompType': 'jobcomp/filetxt',
    # a job that uses more memory than it has asked for is killed
    'JobAcctGatherType': 'jobacct_gather/linux',
    'JobAcctGatherFrequency': 'task=1',
    'JobAcctGatherParams': 'OverMemoryKill',
    # a restarted node takes jobs at once, and what is cancelled is gone soon
    'ReturnToService': '2',
    'KillWait': '3',
    'MessageTimeout': '10',
    # more processors than the machine may have: jobs of tests wait more than they compute
    'SlurmdParameters': 'config_overrides',
    # the daemons listen on 127.0.0.1 alone
    'CommunicationParameters': 'NoInAddrAny,NoCtldInAddrAny',
}

_CPUS = 8
_MEMORY = 1000 * _CPUS  # MB

#: The longest path that a Unix socket can have.
_LONGEST_SOCKET = 107


class Slurm(Service):
    """A Slurm controller and its one node, and the munge daemon by which they know their clients.

    All run as the user who starts them, whose jobs they take. Clients find it by ``SLURM_CONF`` in the environment.
    Jobs go on over `stop`, `kill` and `start`, but not over `end`; a controller that is killed has forgotten what
    happened in its last seconds, as anywhere.

    :param settings: of Slurm, by their names in slurm.conf; they hold from the next start.
    """

    name = 'slurm'
    packages = ('slurm-wlm', 'munge')
    programs = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'sinfo', 'scancel')
    port_names = ('slurmctld', 'slurmd')
    daemon_names = ('munged', 'slurmctld', 'slurmd')

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.settings = dict(settings or {})

    @property
    def config_file(self) -> Path:
        """What ``SLURM_CONF`` names."""
        return self.folder / 'slurm.conf'

    @property
    def node(self) -> str:
        """The name of the one node."""
        return socket.gethostname().partition('.')[0]

    def run(self, *command: str | Path, given: str | None = None) -> str:
        """Run one of Slurm's commands; returns what it prints.

        :param given: what it reads, such as a job script.
        :raises ServiceError: it failed; its own words are in the message.
        """
        return self._call(command, environment=self._environment(SLURM_CONF=str(self.config_file)), given=given)

    def finished_jobs(self) -> list[dict[str, str]]:
        """Slurm's own record of every job that has ended, with ``JobId``, ``Name``, ``JobState`` and more."""
        if not self._record.exists():
            return []
        lines = self._record.read_text(errors='replace').splitlines()
        return [dict(pair.split('=', 1) for pair in line.split() if '=' in pair) for line in lines]

    def cancel_all(self) -> None:
        """Cancel every job, and wait until none is left in the queue."""
        deadline = time.monotonic() + self.patience
        while self.run('squeue', '--noheader', '--format=%i'):
            self.run('scancel', f'--user={self.user}')
            if time.monotonic() > deadline:
                raise ServiceError(f'jobs that were cancelled are still there after {self.patience:g} s')
            time.sleep(GLANCE)

    def end(self) -> None:
        """Cancel every job, and stop; one that has crashed is started for that."""
        try:
            if self.state != 'down':
                self.start()
                self.cancel_all()
        finally:
            self.stop()

    def answers(self) -> bool:
        try:
            states = self.run('sinfo', '--noheader', '--format=%T').split()
        except ServiceError:
            return False
        return states in (['idle'], ['mixed'], ['allocated'], ['completing'])

    def environment(self) -> dict[str, str]:
        return {'SLURM_CONF': str(self.config_file)}

    @property
    def _socket(self) -> Path:
        return self.folder / 'munge.socket'

    @property
    def _record(self) -> Path:
        return self.folder / 'jobs.log'

    def _prepare(self) -> None:
        if len(str(self._socket).encode()) > _LONGEST_SOCKET:
            raise ServiceError(f'the path of {self._socket} is too long for a socket; use a folder with a shorter one')
        key = self.folder / 'munge.key'
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))
        for folder in ('state', 'spool'):
            (self.folder / folder).mkdir(exist_ok=True, mode=0o755)
        self.config_file.write_text(self._config())

    def _config(self) -> str:
        settings = {
            'SlurmctldHost': f'{self.node}(127.0.0.1)',
            'SlurmctldPort': str(self.ports['slurmctld']),
            'SlurmdPort': str(self.ports['slurmd']),
            'SlurmUser': self.user,
            'SlurmdUser': self.user,
            'AuthInfo': f'socket={self._socket}',
            'StateSaveLocation': str(self.folder / 'state'),
            'SlurmdSpoolDir': str(self.folder / 'spool'),
            'SlurmctldPidFile': str(self.folder / 'state' / 'slurmctld.pid'),
            'SlurmdPidFile': str(self.folder / 'state' / 'slurmd.pid'),
            'JobCompLoc': str(self._record),
            **_SETTINGS,
            **self.settings,
        }
        node = f'NodeName={self.node} NodeAddr=127.0.0.1 CPUs={_CPUS} RealMemory={_MEMORY} State=UNKNOWN'
        partition = f'PartitionName=main Nodes={self.node} Default=YES MaxTime=INFINITE State=UP'
        return ''.join(f'{name}={value}\n' for name, value in settings.items()) + f'{node}\n{partition}\n'

    def _launch(self) -> None:
        munged, slurmctld, slurmd = self.daemons
        environment = self._environment(SLURM_CONF=str(self.config_file))
        if not munged.is_running:
            files = {'socket': 'munge.socket', 'key-file': 'munge.key', 'seed-file': 'munge.seed'}
            files |= {'pid-file': 'munge-own.pid', 'log-file': 'munge-own.log'}
            options = [f'--{option}={self.folder / file}' for option, file in files.items()]
            munged.start([self._program('munged'), '--foreground', '--force', *options], environment=environment)
        for daemon in (slurmctld, slurmd):
            if not daemon.is_running:
                daemon.start([self._program(daemon.name), '-D'], environment=environment)
