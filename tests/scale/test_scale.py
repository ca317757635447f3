"""Nothing is lost, doubled or excepted while services and engines fail, in turn."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scale.company import Company, Disturbance
from scale.disturbances import (
    BrokerKilled,
    DatabaseStopped,
    MessagesDoubled,
    QueuesPurged,
    WorkerCutOff,
    WorkerKilled,
    WorkerStopped,
)
from scale.messages import hold_a_message
from support.proxy import Proxy

#: Seconds: where engines are to lose their lease, and where nobody is.
SHORT, LONG = 2.0, 20.0
Found = Callable[..., Company]

#: How many orders in the suite and in the soak, and how often they are disturbed at least.
sizes = pytest.mark.parametrize(
    'size',
    [
        pytest.param((150, 2), id='quick', marks=pytest.mark.timeout(180)),
        pytest.param((5000, 20), id='soak', marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)


def work(
    company: Company,
    disturbance: Disturbance,
    size: tuple[int, int],
    is_enough: Callable[[], bool] = lambda: True,
    seed: int = 1,
) -> None:
    """Two workers and several submitters do so much, at least, while they are disturbed so often, at least.

    :param is_enough: whether the disturbance has done what it is there for.
    """
    count, times = size
    # Those that cost nobody much time go on to the end.
    most = 2 * times if disturbance.fails_engines or isinstance(disturbance, BrokerKilled) else 10**9

    def has_done_enough() -> bool:
        return is_enough() and (company.ledger.has_repetitions() or not disturbance.fails_engines)

    for name in ('worker 1', 'worker 2'):
        if name not in company.workers:
            company.hire(name)
    loses_messages = disturbance.loses_messages
    # Slowly, where engines come to stand still for a lease: there has to be work all the time.
    pace = 0.1 if disturbance.fails_engines else 0.02
    with company.disturbed(disturbance, random.Random(seed), most, has_done_enough) as happened:
        company.order(count, pace=pace, loses_messages=loses_messages)
        while happened() < times or not has_done_enough():
            company.order(30, pace=pace, loses_messages=loses_messages)
    company.dismiss()
    again = company.audit(fails_engines=disturbance.fails_engines)
    assert again > 0 or not disturbance.fails_engines, 'no engine failed while it worked'


def options(store: str, broker: str | None = None, lease: float = LONG) -> dict[str, Any]:
    """Of a company with these services."""
    # Who kills workers as often as this test does must not have their work set aside.
    engine: dict[str, Any] = {'lease': lease, 'max_crashes': 1000}
    if broker is not None:
        engine.update(broker=broker, broadcasts='all')
    return {'store': store, 'engine': engine, 'patience': 600.0}


#: Engines fail in the suite on PostgreSQL with a broker, which is the hardest, and elsewhere in the soak.
kinds = pytest.mark.parametrize(
    'kind',
    [
        Disturbance,
        pytest.param(WorkerKilled, marks=pytest.mark.soak),
        pytest.param(WorkerStopped, marks=pytest.mark.soak),
    ],
)


@sizes
@kinds
def test_on_a_file(kind: type[Disturbance], size: tuple[int, int], found: Found, tmp_path: Path) -> None:
    lease = SHORT if kind is WorkerStopped else LONG
    work(found(**options(f'sqlite:///{tmp_path}/store.db', lease=lease)), kind(), size)


@sizes
@pytest.mark.parametrize('kind', [Disturbance, WorkerKilled, WorkerStopped])
def test_on_postgres(
    kind: type[Disturbance], size: tuple[int, int], found: Found, postgres: str, broker: str
) -> None:
    lease = SHORT if kind is WorkerStopped else LONG
    work(found(**options(postgres, broker, lease=lease)), kind(), size)


@sizes
@kinds
def test_without_a_broker(
    kind: type[Disturbance], size: tuple[int, int], found: Found, postgres: str
) -> None:
    lease = SHORT if kind is WorkerStopped else LONG
    work(found(**options(postgres, lease=lease)), kind(), size)


@sizes
def test_rabbitmq_is_killed(size: tuple[int, int], found: Found, postgres: str, make_rabbitmq: Any) -> None:
    rabbitmq = make_rabbitmq()
    work(found(**options(postgres, rabbitmq.url())), BrokerKilled(rabbitmq), size)


@sizes
def test_queues_are_purged(size: tuple[int, int], found: Found, postgres: str, make_rabbitmq: Any) -> None:
    rabbitmq = make_rabbitmq()
    purging = QueuesPurged(rabbitmq, '/')
    work(found(**options(postgres, rabbitmq.url())), purging, size, lambda: purging.purged > 0)


@sizes
def test_messages_are_doubled(
    size: tuple[int, int], found: Found, postgres: str, broker: str, services: Any
) -> None:
    doubling = MessagesDoubled(services.shared('rabbitmq'), urlsplit(broker).path[1:], broker)
    work(found(**options(postgres, broker)), doubling, size)
    assert doubling.doubler.count > size[0]


@sizes
def test_postgres_is_stopped(
    size: tuple[int, int], found: Found, make_postgres: Any, broker: str, request: pytest.FixtureRequest
) -> None:
    server = make_postgres()
    pause, longest = ((5.0, 40.0), 2.0) if size[0] > 1000 else ((0.5, 1.5), 0.5)
    work(found(**options(server.url(), broker)), DatabaseStopped(server, pause=pause, longest=longest), size)


@sizes
def test_a_worker_is_cut_off(size: tuple[int, int], found: Found, postgres: str, broker: str) -> None:
    company = found(**options(postgres, broker, lease=SHORT))
    with Proxy.of(postgres) as database, Proxy.of(broker) as messages:
        cut = company.hire(
            'worker 1',
            store=database.through(postgres),
            engine={'broker': messages.through(broker)},
        )
        work(company, WorkerCutOff(cut, [database, messages]), size)
    # It counted its lease from before its last heartbeat, so it had stopped when the other one took over.
    assert company.ledger.stale() == []


@pytest.mark.parametrize(
    ('timeout', 'slowness', 'size'),
    [
        pytest.param(1.0, 4.0, (100, 3), id='quick', marks=pytest.mark.timeout(120)),
        pytest.param(60.0, 150.0, (5000, 5), id='soak', marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_processes_take_longer_than_the_consumer_timeout(
    timeout: float, slowness: float, size: tuple[int, int], found: Found, postgres: str, make_rabbitmq: Any
) -> None:
    rabbitmq = make_rabbitmq(settings={'consumer_timeout': str(int(1000 * timeout))})
    # How often it looks.
    rabbitmq.evaluate(f'application:set_env(rabbit, channel_tick_interval, {int(500 * timeout)})')
    assert hold_a_message(rabbitmq.url(), most=2 * timeout + 30) > timeout, 'the broker does not mind'
    company = found(**options(postgres, rabbitmq.url()), slowness=slowness)
    for name in ('worker 1', 'worker 2'):
        company.hire(name)
    count, gates = size
    company.order_waits(count, gates)
    company.dismiss()
    company.audit(fails_engines=False)
