"""Fixtures for tests that need a service, each with the real one; see tools/provision.

The services of the checkout are started when the first chosen test needs them, and `./tools/test` stops them at its
end. One that cannot be had skips the tests that need it, with a summary at the end that nobody overlooks, and fails
them where nothing may be left out, which `CI=true` in the environment says.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision import Group, Postgres, RabbitMQ, Service, ServiceError, Slurm, Sshd

FOLDER = Path(__file__).parents[2] / '.services'

#: Fixtures of a place in a service that all tests share, and the service.
_SHARED: dict[str, type[Service]] = {
    'postgres_server': Postgres,
    'broker': RabbitMQ,
    'sshd': Sshd,
    'slurm': Slurm,
}
#: Fixtures that make instances of a service for one test alone, and the service.
_OWN: dict[str, type[Service]] = {
    'make_postgres': Postgres,
    'make_rabbitmq': RabbitMQ,
    'make_sshd': Sshd,
    'make_slurm': Slurm,
}

_numbers = itertools.count(1)


class Services:
    """The services of a test run, with one rule for those that cannot be had."""

    def __init__(self, folder: Path, *, all_required: bool) -> None:
        self.group = Group(folder)
        self.all_required = all_required
        self.problems: dict[str, str] = {}

    def attempt(self, name: str, action: Callable[[], object]) -> bool:
        """Do what needs a service; a failure is kept, and is not tried again."""
        if name in self.problems:
            return False
        try:
            action()
        except ServiceError as error:
            self.problems[name] = str(error)
        return name not in self.problems

    def shared(self, name: str) -> Any:
        """The instance that all tests share, up."""
        if not self.attempt(name, lambda: self.group.up(name)):
            self._give_up(name)
        return self.group[name]

    def ready(self, name: str) -> None:
        """Have the programs of a service, for tests that start it in a way of their own."""
        if not self.attempt(name, self.group[name].install):
            self._give_up(name)

    def own(self, kind: type[Service], **options: Any) -> Any:
        """An instance for one test, up."""
        service = self.group.own(kind, **options)

        def start() -> None:
            service.install()
            service.start()

        if not self.attempt(kind.name, start):
            service.end()
            service.remove()
            self._give_up(kind.name)
        return service

    def _give_up(self, name: str) -> None:
        words = f'{name} cannot be had: {self.problems[name]}'
        if self.all_required:
            pytest.fail(words, pytrace=False)
        pytest.skip(words)


_services = pytest.StashKey[Services]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_services] = Services(FOLDER, all_required=os.environ.get('CI', '').lower() in ('1', 'true'))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the services ready that the chosen tests need, so that no test's own time is spent on it."""
    if session.config.option.collectonly:
        return
    services = session.config.stash[_services]
    fixtures = {name for item in session.items for name in getattr(item, 'fixturenames', ())}
    for kind in {_SHARED[name]: None for name in _SHARED if name in fixtures}:
        services.attempt(kind.name, lambda kind=kind: services.group.up(kind.name))
    for kind in {_OWN[name]: None for name in _OWN if name in fixtures}:
        services.attempt(kind.name, lambda kind=kind: services.group.own(kind).install())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which services could not be had, why, and what was left out for it."""
    services = config.stash[_services]
    if not services.problems:
        return
    reports = [report for key in ('skipped', 'error', 'failed') for report in terminalreporter.stats.get(key, ())]
    left_out = Counter(name for report in reports for name in services.problems if _is_for(report, name))
    terminalreporter.section('services that cannot be had', red=True, bold=True)
    for name, problem in services.problems.items():
        verb = 'FAILED' if services.all_required else 'SKIPPED'
        terminalreporter.line(f'{name}: {left_out[name]} tests {verb}: {problem}', red=True)
    terminalreporter.line('`./tools/services up` tries again, and shows what is wrong.')


def _is_for(report: Any, name: str) -> bool:
    words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return f'{name} cannot be had: ' in words


@pytest.fixture(scope='session')
def services(request: pytest.FixtureRequest) -> Services:
    """The services of this run."""
    return request.config.stash[_services]


@pytest.fixture
def postgres_server(services: Services) -> Postgres:
    """The PostgreSQL server of the checkout; it is shared, and so not for stopping."""
    return services.shared('postgres')


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    name = f'test_{os.getpid()}_{next(_numbers)}'
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def guarded(postgres_server: Postgres) -> None:
    """The role of that name on the shared server has a password, `right`; for one test at a time."""
    postgres_server.execute(
        'DO $$ BEGIN CREATE ROLE guarded LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; '
        "ALTER ROLE guarded PASSWORD 'right'"
    )


@pytest.fixture
def broker(services: Services) -> Iterator[str]:
    """The URL of a virtual host of the test's own on the RabbitMQ of the checkout."""
    rabbitmq = services.shared('rabbitmq')
    name = f'test-{os.getpid()}-{next(_numbers)}'
    yield rabbitmq.create_vhost(name)
    rabbitmq.delete_vhost(name)


@pytest.fixture
def sshd(services: Services) -> Sshd:
    """The ssh server of the checkout, in whose shells Slurm's commands find the `slurm` of the checkout."""
    return services.shared('sshd')


@pytest.fixture
def slurm(services: Services) -> Iterator[Slurm]:
    """The Slurm of the checkout; the jobs that the test leaves behind are cancelled."""
    slurm = services.shared('slurm')
    yield slurm
    slurm.cancel_all()


@pytest.fixture
def make_postgres(services: Services) -> Iterator[Callable[..., Postgres]]:
    """Makes PostgreSQL servers, with the arguments of `Postgres`, which the test may stop, kill and start."""
    yield from _make(services, Postgres)


@pytest.fixture
def make_rabbitmq(services: Services) -> Iterator[Callable[..., RabbitMQ]]:
    """Makes RabbitMQ brokers, with the arguments of `RabbitMQ`, which the test may stop, kill and start."""
    yield from _make(services, RabbitMQ)


@pytest.fixture
def make_sshd(services: Services) -> Iterator[Callable[..., Sshd]]:
    """Makes ssh servers, with the arguments of `Sshd`, which the test may stop, kill and start."""
    yield from _make(services, Sshd)


@pytest.fixture
def make_slurm(services: Services) -> Iterator[Callable[..., Slurm]]:
    """Makes schedulers, with the arguments of `Slurm`, which the test may stop, kill and start."""
    yield from _make(services, Slurm)


def _make(services: Services, kind: type[Service]) -> Iterator[Callable[..., Any]]:
    made: list[Service] = []

    def make(**options: Any) -> Any:
        made.append(services.own(kind, **options))
        return made[-1]

    yield make
    for service in made:
        service.end()
        service.remove()
