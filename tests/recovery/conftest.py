"""Scripts to kill, and the leak checks for the tests that run an engine here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


def _load(name: str, path: Path) -> ModuleType:
    # By path: with import-mode=importlib neither the checkout nor tests/ is on sys.path.
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_leaks = _load('treadle_tests_leaks', HERE.parent / 'support' / 'leaks.py')
no_leaked_threads = _leaks.no_leaked_threads
quiet_asyncio = _leaks.quiet_asyncio
_forkserver = _load('treadle_tests_forkserver', HERE.parent / 'support' / 'forkserver.py')


@pytest.fixture(scope='session')
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """``scripts('scenario')``: the runs of a script of this folder."""
    servers: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in servers:
            servers[name] = _forkserver.Scripts(HERE / f'{name}.py', tmp_path_factory.mktemp(name))
        return servers[name]

    yield get
    for server in servers.values():
        server.__exit__(None, None, None)


@pytest.fixture(scope='session')
def books() -> ModuleType:
    """The module ``books``: a place of a store and its effects, and the audit of both."""
    return _load('treadle_tests_books', HERE / 'books.py')
