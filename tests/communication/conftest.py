"""Engines on stores of their own, and communicators of every kind; no test leaves a thread behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import leaks
from support.stores import make_file
from treadle.engine import Communicator, Engine, LocalCommunicator

no_leaked_threads = leaks.no_leaked_threads
quiet_asyncio = leaks.quiet_asyncio


def _rabbit(request: pytest.FixtureRequest) -> Communicator:
    from treadle.engine.communication.address import address_of
    from treadle.engine.communication.rabbit import RabbitCommunicator

    address = address_of(request.getfixturevalue('broker'))
    assert address is not None
    made = RabbitCommunicator(address)
    made.start()
    return made


#: What makes a communicator, by its name; every one of them is held to the same contract.
COMMUNICATORS: dict[str, Callable[[pytest.FixtureRequest], Communicator]] = {
    'local': lambda request: LocalCommunicator(),
    'rabbit': _rabbit,
}


@pytest.fixture(params=COMMUNICATORS)
def communicator(request: pytest.FixtureRequest, no_leaked_threads: None) -> Iterator[Communicator]:
    """One communicator of each kind."""
    made = COMMUNICATORS[request.param](request)
    yield made
    made.close(20.0)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store with nothing in it."""
    return make_file(tmp_path / 'store.db')


@pytest.fixture
def make_engine(no_leaked_threads: None, store: str) -> Iterator[Callable[..., Engine]]:
    """Makes engines that run, by default on the same store, and stops them after the test."""
    made: list[Engine] = []

    def make(url: str = store, **kwargs: Any) -> Engine:
        engine = Engine(url, **kwargs)
        made.append(engine)
        return engine.start()

    yield make
    for engine in made:
        engine.stop()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """A running engine."""
    return make_engine()
