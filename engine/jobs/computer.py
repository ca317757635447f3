"""``Computer``: where jobs run, how it is reached, and what its scheduler understands."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from ..errors import ConfigurationError
from ..transports import ConnectionSpec

__all__ = ['SCHEDULERS', 'Computer']

#: What Treadle can submit to.
SCHEDULERS: Final = ('direct', 'slurm', 'pbs', 'sge')

_NAME: Final = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*')

#: The cores that this OS process may use; a container or ``taskset`` leaves it fewer than there are.
_CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

#: What says where a job of this computer is to be found; it must not change under jobs that live.
_PLACE: Final = ('transport', 'hostname', 'user', 'port', 'work_directory', 'scheduler')


@dataclasses.dataclass(frozen=True, slots=True)
class Computer:
    """A computer that runs jobs.

    The vocabulary is that of ``aiida.orm.Computer`` with its settings for authentication in one. A definition is plain
    data without secrets: of a key only the file's name is kept.

    :param name: for people, options and the command line; letters, digits, ``.``, ``_`` and ``-``.
    :param transport: ``local`` is this machine, ``ssh`` is reached through ``hostname``.
    :param hostname: a host's name or address, or a ``Host`` of the ssh configuration.
    :param user: the account there; default: what the ssh configuration says, else the local name.
    :param port: of the ssh server; default: likewise, else 22.
    :param key_filename: the private key to use, before those of the agent.
    :param ssh_config: the configuration file to read instead of ``~/.ssh/config``.
    :param known_hosts: the file of host keys to read instead of the user's.
    :param work_directory: where jobs get a folder each; relative paths and ``~/`` begin at the home directory there.
        It must be seen under that path by the nodes that run jobs.
    :param scheduler: ``direct`` starts jobs as plain processes of that computer.
    :param max_jobs: how many jobs of this store may be in the scheduler's hands at once, waiting and running together.
        It holds over all engines of the store. ``None`` sets no bound, except where jobs are processes of this machine
        (``local`` and ``direct``), which no scheduler makes wait: there it is as many as it has cores, on each host.
    :param max_queued: how many of them may be waiting to run.
    :param poll_interval: seconds between two questions to the scheduler, which are about all jobs at once.
    :param safe_interval: seconds between two openings of a connection, at least.
    :param shebang: the first line of each job script; the shell must understand POSIX ``sh``.
    :param prepend_text: shell commands before those of each job, such as ``module load``.
    :param mpirun_command: how to start a program with MPI; ``{tot_num_mpiprocs}`` and the other resources are filled
        in.
    :param default_mpiprocs_per_machine: for jobs that do not say it.
    :param description: for people.
    :raises ConfigurationError: a field makes no sense; says which, and what would.
    """

    name: str
    _: dataclasses.KW_ONLY
    transport: Literal['local', 'ssh'] = 'local'
    hostname: str | None = None
    user: str | None = None
    port: int | None = None
    key_filename: str | None = None
    ssh_config: str | None = None
    known_hosts: str | None = None
    work_directory: str = 'treadle-jobs'
    scheduler: Literal['direct', 'slurm', 'pbs', 'sge'] = 'direct'
    max_jobs: int | None = None
    max_queued: int | None = None
    poll_interval: float | None = None
    safe_interval: float = 0.0
    shebang: str = '#!/bin/bash'
    prepend_text: str = ''
    mpirun_command: str = 'mpirun -np {tot_num_mpiprocs}'
    default_mpiprocs_per_machine: int = 1
    description: str = ''

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f'{self.name!r} is no name for a computer; use letters, digits, ".", "_" and "-"'
            )
        if self.scheduler not in SCHEDULERS:
            raise self._wrong('scheduler', f'must be one of {", ".join(SCHEDULERS)}, not {self.scheduler!r}')
        for field in ('max_jobs', 'max_queued'):
            bound = getattr(self, field)
            if bound is not None and (type(bound) is not int or bound < 1):
                raise self._wrong(field, f'must be an int of at least 1, or None for no bound, not {bound!r}')
        if self.poll_interval is not None and not self.poll_interval > 0:
            raise self._wrong('poll_interval', f'must be more than 0 seconds, not {self.poll_interval!r}')
        processes = self.default_mpiprocs_per_machine
        if type(processes) is not int or processes < 1:
            raise self._wrong('default_mpiprocs_per_machine', f'must be an int of at least 1, not {processes!r}')
        if not self.shebang.startswith('#!') or '\n' in self.shebang:
            raise self._wrong('shebang', f'must be one line that begins with "#!", not {self.shebang!r}')
        if not self.work_directory or '\n' in self.work_directory or '\0' in self.work_directory:
            raise self._wrong('work_directory', f'must be the path of a folder, not {self.work_directory!r}')
        _ = self.connection  # checks the rest

    def _wrong(self, field: str, message: str) -> ConfigurationError:
        return ConfigurationError(f'computer {self.name!r}: {field} {message}')

    # -- what others read of it ----------------------------------------------------------------------------

    @property
    def seconds_between_polls(self) -> float:
        """How often its scheduler is asked: as ``poll_interval`` says, else 0.5 s here and 10 s elsewhere."""
        if self.poll_interval is not None:
            return self.poll_interval
        return 0.5 if self.has_plain_processes_here else 10.0

    @property
    def has_plain_processes_here(self) -> bool:
        """Whether its jobs are processes of this machine, with nothing between us and them."""
        return self.transport == 'local' and self.scheduler == 'direct'

    @property
    def max_jobs_of_host(self) -> int | None:
        """How many jobs may be in the hands of one host's engines: its cores, where nothing else holds jobs back."""
        return _CORES if self.max_jobs is None and self.has_plain_processes_here else None

    @property
    def connection(self) -> ConnectionSpec:
        """How it is reached, for the transports.

        :raises ConfigurationError: it cannot be reached like that.
        """
        return ConnectionSpec(
            name=self.name,
            transport=self.transport,
            hostname=self.hostname,
            user=self.user,
            port=self.port,
            key_filename=self.key_filename,
            ssh_config=self.ssh_config,
            known_hosts=self.known_hosts,
            safe_interval=self.safe_interval,
        )

    def base_folder(self, home: str) -> str:
        """The absolute path of the work directory.

        :param home: the absolute path of the home directory there.
        """
        path = self.work_directory
        if path == '~' or path.startswith('~/'):
            path = path[2:]
        return path.rstrip('/') or '/' if path.startswith('/') else f'{home.rstrip("/")}/{path}'.rstrip('/')

    def moved(self, other: Computer) -> list[str]:
        """The names of the fields that differ and say where jobs are to be found."""
        return [field for field in _PLACE if getattr(self, field) != getattr(other, field)]

    # -- as data -------------------------------------------------------------------------------------------

    def to_text(self) -> str:
        """The definition as JSON text, without what is as by default."""
        return msgspec.json.encode(self.to_dict()).decode()

    def to_dict(self) -> dict[str, Any]:
        """The definition as a dictionary, without what is as by default."""
        fields = dataclasses.fields(self)
        return {
            each.name: value
            for each in fields
            if (value := getattr(self, each.name)) != each.default or each.name == 'name'
        }

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What :meth:`to_text` has made."""
        return cls.from_dict(msgspec.json.decode(text))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A computer from its fields.

        :raises ConfigurationError: a field is unknown, or makes no sense.
        """
        known = [each.name for each in dataclasses.fields(cls)]
        name = fields.get('name', '')
        for field in fields:
            if field not in known:
                near = difflib.get_close_matches(field, known, n=1)
                hint = f'; did you mean {near[0]!r}?' if near else f'; there is {", ".join(known)}'
                raise ConfigurationError(f'computer {name!r}: there is no field {field!r}{hint}')
        if 'name' not in fields:
            raise ConfigurationError('a computer needs a name')
        try:
            return cls(**fields)
        except TypeError as error:  # such as a text where a number belongs
            raise ConfigurationError(f'computer {name!r}: {error}') from error

    @classmethod
    def from_toml(cls, path: str | Path) -> dict[str, Self]:
        """The computers of a TOML file by name, one table each: ``[cluster]``, ``transport = "ssh"``, and so on.

        :raises ConfigurationError: the file is no TOML, or says something of a computer that makes no sense.
        :raises OSError: it cannot be read.
        """
        import tomllib  # noqa: PLC0415 - few read such a file, and all who import Treadle would pay

        try:
            tables = tomllib.loads(Path(path).read_text(encoding='utf-8'))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f'{path} is no TOML: {error}') from error
        found = {}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ConfigurationError(
                    f'{path}: {name!r} is no table; each computer has one, such as [{name}] with its fields below'
                )
            found[name] = cls.from_dict({'name': name, **table})
        return found
