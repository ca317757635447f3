"""Companies of engines in OS processes of their own."""

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
# The modules of this folder know one another by their plain names, as the members do.
for _name in ('orders', 'ledger', 'company', 'disturbances'):
    _load(_name, HERE / f'{_name}.py')


@pytest.fixture(scope='session')
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Forks members."""
    with _forkserver.Scripts(HERE / 'member.py', tmp_path_factory.mktemp('members')) as server:
        yield server


@pytest.fixture
def found(tmp_path: Path, members: Any) -> Iterator[Callable[..., Any]]:
    """Found a company, which is closed in the end."""
    companies = []

    def found(**options: Any) -> Any:
        companies.append(sys.modules['company'].Company(tmp_path, members, **options))
        return companies[-1]

    yield found
    for company in companies:
        company.close()
