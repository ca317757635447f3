"""What the tests are made with is tested itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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


no_leaked_threads = _load('treadle_tests_leaks', HERE / 'leaks.py').no_leaked_threads


@pytest.fixture(scope='session')
def proxies() -> ModuleType:
    """The module ``proxy``."""
    return _load('treadle_tests_proxy', HERE / 'proxy.py')
