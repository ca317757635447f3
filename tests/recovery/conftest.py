"""Scripts to kill, and the leak checks for the tests that run an engine here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import recovery.books
from support import forkserver, leaks

HERE = Path(__file__).parent

no_leaked_threads = leaks.no_leaked_threads
quiet_asyncio = leaks.quiet_asyncio


@pytest.fixture(scope='session')
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """``scripts('scenario')``: the runs of a script of this folder."""
    servers: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in servers:
            servers[name] = forkserver.Scripts(HERE / f'{name}.py', tmp_path_factory.mktemp(name))
        return servers[name]

    yield get
    for server in servers.values():
        server.__exit__(None, None, None)


@pytest.fixture(params=['sqlite', 'postgresql'])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database of the places that are made; the test runs once on each."""
    return str(request.param)


@pytest.fixture
def make_place(request: pytest.FixtureRequest, kind: str, books: Any) -> Callable[[Path], Any]:
    """Makes places with new stores, in the folders that it is given."""

    def make(folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        if kind == 'sqlite':
            return books.Place(folder)
        kept = request.getfixturevalue('postgres_kept')
        kept.empty()
        return books.Place(folder, kept.url)

    return make


@pytest.fixture(scope='session')
def books() -> ModuleType:
    """The module ``books``: a place of a store and its effects, and the audit of both."""
    return recovery.books
