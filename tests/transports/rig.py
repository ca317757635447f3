"""What the tests of transports have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from treadle.engine.transports import Backoff, ConnectionSpec, Transport

#: A backoff for tests that wait for one.
QUICK = Backoff(first=0.2, most=0.4, first_refused=0.2, most_refused=0.4, jitter=0.0, stable=0.0)


def spec_of(sshd: Any, **changes: Any) -> ConnectionSpec:
    """How an ssh server of the tests is reached, whatever the user's own configuration says."""
    fields: dict[str, Any] = {
        'name': 'cluster',
        'transport': 'ssh',
        'hostname': 'treadle',
        'ssh_config': str(sshd.config_file),
    }
    return ConnectionSpec(**{**fields, **changes})


@dataclasses.dataclass
class Place:
    """A transport, and a folder of the test's own on its computer."""

    kind: str
    transport: Transport
    folder: Path

    def path(self, name: str) -> str:
        """The path there of a name in the folder."""
        return f'{self.folder}/{name}'
