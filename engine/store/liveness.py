"""Whether an engine lives, as far as that can be told from this host."""

from __future__ import annotations

import socket
from pathlib import Path

from ..errors import StoreError
from .location import StoreLocation
from .lockfile import LockState, probe
from .records import EngineRecord

__all__ = ['holds_lock', 'lives', 'lock_path']


def lock_path(location: StoreLocation, engine_uuid: str) -> Path:
    """The lock file of an engine of this host."""
    return location.lock_folder() / f'{engine_uuid}.lock'


def lives(location: StoreLocation, engine: EngineRecord) -> bool | None:
    """Whether the engine lives; ``None`` when it cannot be told, as for one of another host.

    On one host its lock file says so at once: the operating system frees the lock when the OS process ends.
    """
    return False if engine.ended is not None else holds_lock(location, engine.uuid, engine.host)


def holds_lock(location: StoreLocation, engine_uuid: str, host: str) -> bool | None:
    """Whether the engine holds its lock file; ``None`` when that cannot be told, as for one of another host."""
    if host != socket.gethostname():
        return None
    try:
        found = probe(lock_path(location, engine_uuid))
    except StoreError:
        return None  # the file may not be read by this user, or not be found just now
    return None if found is LockState.MISSING else found is LockState.HELD
