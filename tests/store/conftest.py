"""The rig: a store thread that a test holds in its hands."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str, path: Path) -> ModuleType:
    # By path: with import-mode=importlib neither the checkout nor tests/ is on sys.path.
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope='session')
def rigs() -> ModuleType:
    """The module ``rig``."""
    return _load('treadle_tests_rig', Path(__file__).with_name('rig.py'))


@pytest.fixture
def rig(rigs: Any, store_url: str) -> Iterator[Any]:
    """A store thread on a new store, once on each kind of database."""
    with rigs.Rig(store_url) as made:
        yield made
