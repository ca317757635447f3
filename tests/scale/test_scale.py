"""Nothing is lost, doubled or excepted while workers die and stand still."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale.company import Disturbance
from scale.disturbances import WorkerKilled, WorkerStopped

LEASE = 1.0
#: How many orders in the suite and in the soak, and how often they are disturbed at least.
QUICK, SOAK = (300, 3), (5000, 20)


def _work(company: Any, disturbance: Disturbance, size: tuple[int, int], seed: int) -> int:
    """Two workers and several submitters do so much, at least, while they are disturbed so often, at least."""
    count, times = size
    for name in ('worker 1', 'worker 2'):
        company.hire(name)
    with company.disturbed(disturbance, random.Random(seed)) as happened:
        company.order(count, pace=0.02)
        while happened() < times:
            company.order(30, pace=0.02)
    company.dismiss()
    return company.audit(fails_engines=disturbance.fails_engines)


@pytest.mark.timeout(180)
@pytest.mark.parametrize('kind', [Disturbance, WorkerKilled, WorkerStopped])
def test_on_a_file(kind: type[Disturbance], found: Callable[..., Any], tmp_path: Path) -> None:
    company = found(store=f'sqlite:///{tmp_path}/store.db', engine={'lease': LEASE})
    _work(company, kind(), QUICK, seed=1)
