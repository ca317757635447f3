"""The rig: a store thread that a test holds in its hands."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import store.rig
from support import leaks

no_leaked_threads = leaks.no_leaked_threads


@pytest.fixture(scope='session')
def rigs() -> ModuleType:
    """The module ``rig``."""
    return store.rig


@pytest.fixture
def rig(no_leaked_threads: None, rigs: Any, store_url: str) -> Iterator[Any]:
    """A store thread on a new store, once on each kind of database."""
    with rigs.Rig(store_url) as made:
        yield made
