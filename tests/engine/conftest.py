"""Engines on stores of their own, scripts in interpreters of their own; no test leaves a thread behind."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treadle.engine import Engine


def _load(name: str, path: Path) -> ModuleType:
    # By path: with import-mode=importlib neither the checkout nor tests/ is on sys.path.
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_scripts = _load('treadle_tests_scripts', Path(__file__).parents[1] / 'support' / 'scripts.py')
Scripts = _scripts.Scripts
_leaks = _load('treadle_tests_leaks', Path(__file__).parents[1] / 'support' / 'leaks.py')
no_leaked_threads = _leaks.no_leaked_threads
quiet_asyncio = _leaks.quiet_asyncio


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
