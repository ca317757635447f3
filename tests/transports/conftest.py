"""Transports of every kind, with the real thing behind each; no test leaves a thread behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transports.rig import QUICK, Place, spec_of

from support.leaks import no_leaked_threads, quiet_asyncio
from treadle.engine.testing import FakeComputers
from treadle.engine.transports import ConnectionAuthority, ConnectionSpec
from treadle.threads import StepThreads, wait

__all__ = ['no_leaked_threads', 'quiet_asyncio']


@pytest.fixture
def threads(no_leaked_threads: None) -> Iterator[StepThreads]:
    """The pool that transports work on."""
    pool = StepThreads(permits=1, name='treadle-transport')
    yield pool
    pool.stop(20.0)


@pytest.fixture
def make_connections(no_leaked_threads: None) -> Iterator[Callable[..., ConnectionAuthority]]:
    """Makes connection authorities, and stops them after the test."""
    made: list[ConnectionAuthority] = []

    def make(**kwargs: Any) -> ConnectionAuthority:
        made.append(ConnectionAuthority(**{'backoff': QUICK, **kwargs}))
        return made[-1]

    yield make
    for connections in made:
        connections.stop(20.0)


@pytest.fixture(params=['local', 'ssh', 'fake'])
def place(
    request: pytest.FixtureRequest, make_connections: Callable[..., ConnectionAuthority], tmp_path: Path
) -> Iterator[Place]:
    """One transport of each kind."""
    kind = request.param
    spec = ConnectionSpec(name='cluster')
    connections = make_connections()
    if kind == 'fake':
        connections = make_connections(opener=FakeComputers(tmp_path / 'fake'))
    if kind == 'ssh':
        spec = spec_of(request.getfixturevalue('sshd'))
    lease = wait(connections.lease(spec), 30.0)
    folder = tmp_path / 'there'
    folder.mkdir()
    yield Place(kind, lease.blocking, folder)
    lease.release()
