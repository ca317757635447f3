"""The services of a checkout, side by side in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .postgres import Postgres
from .rabbitmq import RabbitMQ
from .service import Service
from .slurm import Slurm
from .sshd import Sshd

#: Every service there is, in the order in which they start.
KINDS: tuple[type[Service], ...] = (Postgres, RabbitMQ, Slurm, Sshd)


_Kind = TypeVar('_Kind', bound=Service)
_numbers = itertools.count(1)


class Group:
    """One instance of each service for all, each in a folder of its own below ``folder``, and more for single users.

    :param folder: made when the first one starts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._services = {kind.name: kind(self.folder / kind.name) for kind in KINDS}
        # who logs in finds the scheduler of the same folder, as on the front end of a cluster
        slurm = Slurm(self.folder / Slurm.name)
        sshd = Sshd(self.folder / Sshd.name, shell_environment=slurm.environment())
        self._services |= {slurm.name: slurm, sshd.name: sshd}

    @property
    def services(self) -> Sequence[Service]:
        """All of them, in the order in which they start."""
        return list(self._services.values())

    def __getitem__(self, name: str) -> Service:
        return self._services[name]

    def up(self, name: str) -> bool:
        """Install what is missing and start a service that is not up; returns whether it was up already.

        :raises ServiceError: it cannot be had.
        """
        service = self._services[name]
        with self._alone():
            if service.state == 'up':
                return True
            service.install()
            service.start()
            return False

    def down(self, name: str, *, remove: bool = False) -> bool:
        """Stop a service, the crashed too; returns whether there was anything to stop.

        :param remove: its data as well.
        :raises ServiceError: it is stopped, but what it has set going may not be.
        """
        service = self._services[name]
        if not self.folder.exists():
            return False
        with self._alone():
            was_there = service.state != 'down'
            service.end()
            service.forget_ports()
            if remove:
                service.remove()
            return was_there

    def own(self, kind: type[_Kind], **options: Any) -> _Kind:
        """Another instance, not started, for the calling OS process alone; `end_orphans` ends what it leaves behind.

        :param options: what the service's class takes.
        """
        return kind(self._owned / f'{kind.name}-{os.getpid()}-{next(_numbers)}', **options)

    def end_orphans(self) -> list[str]:
        """Stop and remove the instances whose OS process has ended without doing so; returns their names."""
        ended = []
        kinds = {kind.name: kind for kind in KINDS}
        for folder in sorted(self._owned.glob('*-*-*')):
            name, owner, _ = folder.name.rsplit('-', 2)
            if name in kinds and not Path('/proc', owner).exists():
                orphan = kinds[name](folder)
                orphan.end()
                orphan.remove()
                ended.append(folder.name)
        return ended

    @property
    def _owned(self) -> Path:
        return self.folder / 'own'

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two who start the same service would each choose its ports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / 'lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
