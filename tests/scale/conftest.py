"""Companies of engines in OS processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scale.company import Company
from support.forkserver import Scripts
from support.leaks import no_leaked_threads, quiet_asyncio

__all__ = ['no_leaked_threads', 'quiet_asyncio']


@pytest.fixture(scope='session')
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    """Forks members."""
    with Scripts(Path(__file__).with_name('member.py'), tmp_path_factory.mktemp('members')) as server:
        yield server


@pytest.fixture
def found(tmp_path: Path, members: Scripts) -> Iterator[Callable[..., Company]]:
    """Found a company, which is closed in the end."""
    companies: list[Company] = []

    def found(**options: Any) -> Company:
        companies.append(Company(tmp_path, members, **options))
        return companies[-1]

    yield found
    for company in companies:
        company.close()
