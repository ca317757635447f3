"""For tests of what one builds on Treadle: crashes and errors on purpose, and computers that are not there.

``KillAt``, ``RaiseAt``, ``BlockAt``, ``RecordFaults`` and ``Together`` are given to ``Engine(faults=...)``, which calls
them at each :class:`~treadle.engine.faults.FaultPoint`. ``FakeComputers`` is given to a
:class:`~treadle.engine.transports.ConnectionAuthority`; its computers are folders, and fail when they are told to.
``FakeScheduler`` is a batch system whose commands lose replies, lie and hang when they are told to.
"""

from __future__ import annotations

from ..faults import FaultPoint, Faults
from .faults import BlockAt, KillAt, RaiseAt, RecordFaults, Together
from .scheduler import FakeJob, FakeScheduler
from .transports import FakeComputer, FakeComputers, FakeTransport, Gate

__all__ = [
    'BlockAt',
    'FakeComputer',
    'FakeComputers',
    'FakeJob',
    'FakeScheduler',
    'FakeTransport',
    'FaultPoint',
    'Faults',
    'Gate',
    'KillAt',
    'RaiseAt',
    'RecordFaults',
    'Together',
]
