"""Engines on stores of their own, scripts in interpreters of their own; no test leaves a thread behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import leaks
from support.scripts import Scripts
from treadle.engine import Engine

no_leaked_threads = leaks.no_leaked_threads
quiet_asyncio = leaks.quiet_asyncio


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


@pytest.fixture
def scripts(no_leaked_threads: None, tmp_path: Path, store: str) -> Iterator[Scripts]:
    """Runs scripts."""
    scripts = Scripts(tmp_path, store)
    yield scripts
    scripts.close()
