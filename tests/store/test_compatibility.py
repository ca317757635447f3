"""Engines at work on a store that a newer Treadle upgrades: they go on, or end with a word."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from treadle.engine import Engine, EngineStopped, Process
from treadle.engine.errors import StoreTooNew
from treadle.engine.store.migrations import HEAD
from treadle.engine.store.migrations.run import compatible_since, script_directory
from treadle.engine.store.moving import export_store
from treadle.engine.store.records import Held
from treadle.engine.store.sqlite.location import SqliteLocation


@pytest.fixture
def crashes() -> list[BaseException]:
    """What the store thread of the rig has died of."""
    return []


@pytest.fixture
def rig(rigs: Any, store_url: str, crashes: list[BaseException]) -> Iterator[Any]:
    """A store thread on a new store, once on each kind of database; the store is of our revision again at the end."""
    with rigs.Rig(store_url, on_crash=crashes.append, tick_interval=0.01) as made:
        yield made
    set_revision(made.location, HEAD, HEAD)


def set_revision(location: Any, revision: str, since: str) -> None:
    """What an upgrade by another Treadle leaves; all that is connected is cut off where it can be."""
    statements = (
        f"UPDATE alembic_version SET version_num = '{revision}'",
        'DELETE FROM compatibility',
        f"INSERT INTO compatibility (revision, since) VALUES ('{revision}', '{since}')",
    )
    if isinstance(location, SqliteLocation):
        with contextlib.closing(sqlite3.connect(location.file.path)) as file, file:
            for statement in statements:
                file.execute(statement)
        return
    with psycopg.connect(location.url, autocommit=True, options='-c search_path=treadle') as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute(
            'SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity '
            'WHERE datname = current_database() AND pid != pg_backend_pid()'
        )


def test_an_engine_goes_on_if_all_that_was_changed_lets_it(rigs: Any, rig: Any, tmp_path: Any) -> None:
    fence = rig.running()
    set_revision(rig.location, '9999', HEAD)
    assert isinstance(rig.commit(rigs.finish(fence)), Held)
    with contextlib.closing(rig.location.open_reader()) as reader:
        assert reader.process(fence.pid).state == 'finished'
    # But none begins there, and nothing is taken from there of which not all is known.
    with pytest.raises(StoreTooNew, match='9999'), rigs.Rig(rig.location.url):
        pass
    with pytest.raises(StoreTooNew, match='9999'):
        export_store(rig.location, tmp_path / 'store.zip')
    with pytest.raises(StoreTooNew, match='9999'), rig.location.contents().alone():
        pass


@pytest.mark.parametrize(('revision', 'recorded'), [('9999', '9999'), ('9999', '9998')])
def test_an_engine_that_would_not_understand_it_ends(
    rigs: Any, rig: Any, crashes: list[BaseException], revision: str, recorded: str
) -> None:
    fence = rig.running()
    set_revision(rig.location, recorded, revision if recorded == revision else HEAD)
    if recorded != revision:  # by a program that does not know of the record
        statement = f"UPDATE alembic_version SET version_num = '{revision}'"
        if isinstance(rig.location, SqliteLocation):
            with contextlib.closing(sqlite3.connect(rig.location.file.path)) as file, file:
                file.execute(statement)
        else:
            with psycopg.connect(rig.location.url, autocommit=True, options='-c search_path=treadle') as connection:
                connection.execute(statement)
    with pytest.raises(EngineStopped, match=r'not written: the store .* newer Treadle made'):
        rig.commit(rigs.finish(fence))
    rig.store.stop(20)
    assert [type(error) for error in crashes] == [StoreTooNew]
    with contextlib.closing(rig.location.open_reader()) as reader, pytest.raises(StoreTooNew):
        reader.process(fence.pid)


class Nothing(Process):
    def run(self) -> None:
        pass


def test_whoever_uses_an_engine_that_has_ended_for_that_is_told(store_url: str) -> None:
    with Engine(store_url) as engine:
        engine.run(Nothing)
        set_revision(engine.location, '9999', '9999')
        with pytest.raises(EngineStopped, match='newer Treadle made'):
            engine.run(Nothing)
        engine.core.store._thread.join(20)
        with pytest.raises(EngineStopped, match=r'has ended: the store .* newer Treadle made'):
            engine.submit(Nothing)
    set_revision(engine.location, HEAD, HEAD)


def test_an_upgrade_says_since_when_engines_can_go_on(rig: Any) -> None:
    query = 'SELECT revision, since FROM compatibility'
    found = rig.reader._connections.use(lambda connection: connection.execute(query).fetchall())
    assert [tuple(row) for row in found] == [(HEAD, '0008')]


def test_since_when_engines_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = script_directory()
    modules = {script.revision: script.module for script in directory.walk_revisions()}
    monkeypatch.setattr(modules['0008'], 'engines_go_on', True)
    assert compatible_since(directory) == '0001'
    monkeypatch.setattr(modules['0004'], 'engines_go_on', False)
    assert compatible_since(directory) == '0004'
    monkeypatch.setattr(modules['0008'], 'engines_go_on', False)
    assert compatible_since(directory) == '0008'
