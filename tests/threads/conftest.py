"""Every test here leaves no thread and no complaint of asyncio behind."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from treadle.threads import LoopThread


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


@pytest.fixture
def loop_thread(no_leaked_threads: None) -> Iterator[LoopThread]:
    """A running loop thread in debug mode, stopped after the test."""
    thread = LoopThread('treadle-worker-1', debug=True)
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def make_thread(no_leaked_threads: None) -> Iterator[Callable[..., LoopThread]]:
    """Makes loop threads, and ends those that still run after the test; crashes are the test's to look at."""
    made: list[LoopThread] = []

    def make(name: str = 'treadle-worker-1', **kwargs: object) -> LoopThread:
        thread = LoopThread(name, **kwargs)  # type: ignore[arg-type]
        made.append(thread)
        return thread

    yield make
    for thread in made:
        thread.request_stop()
    for thread in made:
        thread.thread.join(5) if thread.thread.ident is not None else None
