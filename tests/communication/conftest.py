"""Engines on stores of their own, and communicators of every kind; no test leaves a thread behind."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treadle.engine import Communicator, Engine, LocalCommunicator


def _load(name: str, path: Path) -> ModuleType:
    # By path: with import-mode=importlib neither the checkout nor tests/ is on sys.path.
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_leaks = _load('treadle_tests_leaks', Path(__file__).parents[1] / 'support' / 'leaks.py')
no_leaked_threads = _leaks.no_leaked_threads
quiet_asyncio = _leaks.quiet_asyncio

#: Importable, so that tasks can name its classes.
_load('treadle_tests_hosts', Path(__file__).parent / 'hosts.py')

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
    """The URL of a store that is not there yet."""
    return f'sqlite:///{tmp_path}/store.db'


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
