"""The examples are tested as they are shipped: from the checkout, on the installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / 'docs' / 'examples'


@pytest.fixture(scope='session')
def examples() -> Path:
    return EXAMPLES


@pytest.fixture(scope='session')
def copper() -> ModuleType:
    """The module ``copper_lammps``, without its folder on ``sys.path``."""
    spec = importlib.util.spec_from_file_location('copper_lammps', EXAMPLES / 'copper_lammps.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
