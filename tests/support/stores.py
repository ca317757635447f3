"""Stores for tests, in every database: a test that takes `store_url` runs once on each."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

# All that processes and engines have left, but not what migrations have put there.
_TRUNCATE = """DO $$ BEGIN EXECUTE (
    SELECT 'TRUNCATE ' || string_agg(format('treadle.%I', tablename), ', ') || ' RESTART IDENTITY' FROM pg_tables
    WHERE schemaname = 'treadle' AND tablename NOT IN ('alembic_version', 'compatibility', 'counter', 'identity')
); END $$"""


class PostgresStore:
    """A store in a database that one test after the other has for itself: emptying it is faster than making another."""

    def __init__(self, server: Any) -> None:
        self._name = f'store_{os.getpid()}'
        self._admin: str = server.url('postgres')
        self.url: str = server.url(self._name)

    def __enter__(self) -> PostgresStore:
        from treadle.engine.store.location import locate

        self._execute(self._admin, f'CREATE DATABASE "{self._name}" TEMPLATE template0')
        locate(self.url).ensure_schema()
        return self

    def __exit__(self, *_: object) -> None:
        self._execute(self._admin, f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')

    def empty(self) -> None:
        """End all sessions of the test before, and make it a new store, with an identity of its own."""
        self._execute(
            self.url,
            'SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity '
            'WHERE datname = current_database() AND pid != pg_backend_pid()',
            _TRUNCATE,
            "UPDATE treadle.counter SET next = 1 WHERE name = 'pid'",
            'UPDATE treadle.identity SET uuid = gen_random_uuid()',
        )

    def _execute(self, url: str, *statements: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@functools.cache
def _new_file() -> bytes:
    from treadle.engine.store.location import locate

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'new.db'
        locate(f'sqlite:///{path}').ensure_schema()
        return path.read_bytes()


def make_file(path: Path) -> str:
    """Make a new store in a file, in a hundredth of the time that its migrations take; returns its URL."""
    path.touch(0o600)
    path.write_bytes(_new_file())
    return f'sqlite:///{path}'


@pytest.fixture(scope='session')
def postgres_kept(services: Any) -> Iterator[PostgresStore]:
    """The PostgreSQL store of this test run."""
    with PostgresStore(services.shared('postgres')) as store:
        yield store


@pytest.fixture
def postgres_store(postgres_kept: PostgresStore) -> str:
    """The URL of a store in a PostgreSQL database with nothing in it."""
    postgres_kept.empty()
    return postgres_kept.url


@pytest.fixture(params=['sqlite', 'postgresql'])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new store; the test runs once on each kind of database."""
    return _url(request, request.param, tmp_path)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new store: a file, or what the module's `STORES` or TREADLE_TEST_STORE says."""
    kind = getattr(request, 'param', os.environ.get('TREADLE_TEST_STORE', 'sqlite'))
    return _url(request, kind, tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test whose module says `STORES = 'both'` runs once on each kind of database, if it uses `store` at all."""
    if 'store' in metafunc.fixturenames and getattr(metafunc.module, 'STORES', None) == 'both':
        metafunc.parametrize('store', ['sqlite', 'postgresql'], indirect=True)


def _url(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    if kind == 'postgresql':
        url: str = request.getfixturevalue('postgres_store')
        return url
    return make_file(tmp_path / 'store.db')
