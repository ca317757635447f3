"""Private services for trying Treadle and for its tests: started in a folder, on free ports of 127.0.0.1, by this user.

``tools/services`` is the command; tests use the classes directly, for instances that they may stop, kill and restart::

    with RabbitMQ(tmp_path / 'broker', settings={'consumer_timeout': '60000'}) as broker:
        broker.kill()
        broker.start()

Needs Python >= 3.11 and nothing else: it runs before there is a virtual environment.
"""

from __future__ import annotations

from .group import Group
from .postgres import Postgres
from .rabbitmq import RabbitMQ
from .service import Service, ServiceError
from .slurm import Slurm
from .sshd import Sshd

__all__ = ['Group', 'Postgres', 'RabbitMQ', 'Service', 'ServiceError', 'Slurm', 'Sshd']
