"""The rig: a store thread that a test holds in its hands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import store.rig


@pytest.fixture(scope='session')
def rigs() -> ModuleType:
    """The module ``rig``."""
    return store.rig


@pytest.fixture
def rig(rigs: Any, tmp_path: Path) -> Iterator[Any]:
    """A store thread on a new file."""
    with rigs.Rig(tmp_path / 'store.db') as made:
        yield made
