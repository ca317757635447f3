"""Retiring a store in the middle of what is being written: it is in the archive, or it was refused."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import EngineStopped
from treadle.engine.errors import StoreRetired
from treadle.engine.store.control import write_once
from treadle.engine.store.intents import kill
from treadle.engine.store.location import locate
from treadle.engine.store.moving import export_store, import_store, reopen, retire
from treadle.engine.store.records import Held, Unit
from treadle.engine.store.units import apply


@pytest.fixture
def crashes() -> list[BaseException]:
    """What the store thread of the rig has died of."""
    return []


@pytest.fixture
def rig(rigs: Any, store_url: str, crashes: list[BaseException]) -> Iterator[Any]:
    """A store thread on a new store, once on each kind of database."""
    with rigs.Rig(store_url, on_crash=crashes.append, tick_interval=0.01) as made:
        yield made


def processes(archive: Path) -> dict[int, dict[str, Any]]:
    with zipfile.ZipFile(archive) as opened:
        rows = [json.loads(line) for line in opened.read('tables/process.jsonl').splitlines()]
    return {row['pid']: row for row in rows}


def wait_until_blocked(location: Any) -> None:
    """Wait until somebody waits for a lock in a PostgreSQL database; in a file that cannot be seen."""
    if not location.url.startswith('postgresql'):
        return
    give_up = time.monotonic() + 20
    query = 'SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database ' + (
        'WHERE datname = current_database())'
    )
    while True:
        with location.contents().snapshot() as connection:
            if connection.exec_driver_sql(query).scalar_one():
                return
        assert time.monotonic() < give_up


def test_what_has_begun_before_is_in_the_archive(rig: Any, tmp_path: Path) -> None:
    stands, gate = threading.Event(), threading.Event()
    fence = rig.running()
    late = rig.record(state='created')

    def write(transaction: Any) -> None:
        (verdict,) = apply(transaction, [Unit(create=(late,))])
        assert isinstance(verdict, Held)
        stands.set()
        assert gate.wait(20)

    written = rig.store.call(write)
    assert stands.wait(20)
    archive = tmp_path / 'store.zip'
    leaving = threading.Thread(
        target=lambda: export_store(rig.location, archive, first=lambda: retire(rig.location, 'elsewhere'))
    )
    leaving.start()
    wait_until_blocked(rig.location)
    gate.set()
    assert written.result(20) is None
    leaving.join(30)
    rows = processes(archive)
    assert rows.keys() == {fence.pid, late.pid}
    # Whatever the engine still writes of what it ran would be refused by that alone.
    assert (rows[fence.pid]['owner'], rows[fence.pid]['epoch']) == (None, fence.epoch + 1)


def test_what_comes_after_is_refused_and_the_engine_ends(
    rigs: Any, rig: Any, crashes: list[BaseException], tmp_path: Path
) -> None:
    fence = rig.running()
    rig.successor = rigs.engine_record()  # it would go on, as after it was declared dead
    (cut,) = retire(rig.location, 'elsewhere')
    assert cut.id == rig.engine_id
    assert retire(rig.location, 'nowhere') == []
    with pytest.raises(EngineStopped, match=r'not written: this store was retired .* has moved to elsewhere'):
        rig.commit(rigs.finish(fence))
    rig.store.stop(20)
    assert [type(error) for error in crashes] == [StoreRetired]
    assert rig.lives == []
    with pytest.raises(StoreRetired, match='has moved to elsewhere'):
        write_once(rig.location, lambda transaction: kill(transaction, [fence.pid], 'no'))
    with pytest.raises(StoreRetired), rigs.Rig(rig.location.url):
        pass
    assert rig.reader.process(fence.pid).state == 'running'
    assert rig.reader.retirement().moved_to == 'elsewhere'
    export_store(rig.location, tmp_path / 'store.zip')
    assert processes(tmp_path / 'store.zip')[fence.pid]['epoch'] == fence.epoch + 1
    assert reopen(rig.location) and not reopen(rig.location)
    assert write_once(rig.location, lambda transaction: kill(transaction, [fence.pid], 'yes')) == [fence.pid]


def test_an_engine_of_the_new_store_gets_a_number_that_none_had(rig: Any, rigs: Any, tmp_path: Path) -> None:
    rig.running()
    export_store(rig.location, tmp_path / 'store.zip')
    new = locate(f'sqlite:///{tmp_path}/new.db')
    assert import_store(new, tmp_path / 'store.zip', copies=True).unfinished == 1
    with rigs.Rig(new.url) as there:
        assert there.engine_id == rig.engine_id + 1


def test_all_tables_are_moved_but_those_of_one_store_alone(rig: Any, tmp_path: Path) -> None:
    from treadle.engine.store.schema import metadata

    export_store(rig.location, tmp_path / 'store.zip')
    with zipfile.ZipFile(tmp_path / 'store.zip') as opened:
        there = set(json.loads(opened.read('manifest.json'))['tables'])
    assert there == set(metadata.tables) - {'compatibility', 'retirement'}


class Watched:
    """A location that knows whether a snapshot of it is open, and whether one was when its large contents were read."""

    def __init__(self, location: Any) -> None:
        self._location = location
        self.snapshots = 0
        self.seen: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._location, name)

    def contents(self) -> Any:
        made, snapshot = self._location.contents(), self._location.contents().snapshot

        @contextlib.contextmanager
        def counted() -> Iterator[Any]:
            with snapshot() as connection:
                self.snapshots += 1
                try:
                    yield connection
                finally:
                    self.snapshots -= 1

        made.snapshot = counted
        return made

    def objects(self) -> Any:
        made = self._location.objects()
        hashes, opened = made.hashes, made.open
        made.hashes = lambda: (self.seen.append(self.snapshots), hashes())[1]
        made.open = lambda sha256: (self.seen.append(self.snapshots), opened(sha256))[1]
        return made


def test_no_snapshot_is_open_while_large_contents_are_copied(rig: Any, tmp_path: Path) -> None:
    with contextlib.closing(rig.location.objects()) as objects:
        objects.put(b'x' * 100)
    watched = Watched(rig.location)
    assert export_store(watched, tmp_path / 'store.zip').objects == 1  # type: ignore[arg-type]
    assert watched.seen == [0, 0]


def test_a_large_exit_status_is_moved_from_a_file_to_postgresql(rigs: Any, postgres: str, tmp_path: Path) -> None:
    with rigs.Rig(f'sqlite:///{tmp_path}/store.db') as old:
        record = old.record(state='finished', exit_status=0xDEADBEEF)
        old.commit(Unit(create=(record,)))
        export_store(old.location, tmp_path / 'store.zip', first=lambda: retire(old.location))
    import_store(locate(postgres), tmp_path / 'store.zip')
    with contextlib.closing(locate(postgres).open_reader()) as reader:
        assert reader.process(record.pid).exit_status == 0xDEADBEEF
