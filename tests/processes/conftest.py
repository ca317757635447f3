"""Engines for the tests of processes: one for a whole module where nothing asks for more, and the checks for leaks."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import leaks
from support.stores import make_file
from treadle.engine import Engine, default_engine

quiet_asyncio = leaks.quiet_asyncio


@pytest.fixture(scope='module', autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail when the engines of a module leave threads behind; per module, since its tests share one engine."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(5.0)
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory, no_leaked_threads: None) -> Iterator[Engine]:
    """The default engine, on a store of the module's own: what module-level calls use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TREADLE_STORE', f'sqlite:///{tmp_path_factory.mktemp("store")}/treadle.sqlite')
        engine = default_engine()
        yield engine
        engine.stop()


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes running engines on one store, one after the other or side by side; stops those that still run."""
    made: list[Engine] = []
    store = make_file(tmp_path / 'treadle.sqlite')

    def make(**kwargs: object) -> Engine:
        made.append(Engine(store, **kwargs).start())  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()
