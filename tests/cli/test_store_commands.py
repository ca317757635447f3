"""``treadle store``: what is moved, copied and upgraded goes on where it stood, and no committed step is run again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from treadle.engine import StoreError
from treadle.engine.store.location import locate
from treadle.engine.store.migrations import HEAD

HERE = Path(__file__).parent
PATIENCE = 90.0
ENDED = {'finished', 'excepted', 'killed'}


class Yard:
    """A folder with the module ``cargo``, what its steps have noted, and the engines that were started here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gate = folder / 'gate'
        self.effects = folder / 'effects'
        self.effects.touch()
        (folder / 'cargo.py').write_text((HERE / 'cargo.py').read_text())
        self.started: list[subprocess.Popen[str]] = []

    def marks(self) -> list[tuple[int, int]]:
        """The steps that have begun, in their order: (pid, visit)."""
        pairs = (line.split() for line in self.effects.read_text().splitlines())
        return [(int(pid), int(visit)) for pid, visit in pairs]

    def start(self, *command: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, '-W', 'error', *map(str, command)],
            cwd=self.folder,
            env={**os.environ, 'EFFECTS': str(self.effects), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *command: object, store: str) -> subprocess.CompletedProcess[str]:
        """Run the command where ``cargo`` can be imported."""
        process = self.start('-m', 'treadle.engine.cli', *command, TREADLE_STORE=store)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def worker(self, store: str) -> subprocess.Popen[str]:
        return self.start('-m', 'treadle.engine.cli', 'worker', '--steps', 4, '--drain', 10, TREADLE_STORE=store)

    def fill(self, store: str, count: int = 75) -> subprocess.Popen[str]:
        """An engine with processes in all states, of which four execute a step that does not end."""
        process = self.begin_to_fill(store, count)
        self.wait(lambda: self.states(store)['waiting'] >= 4, 'waiting')
        return process

    def begin_to_fill(self, store: str, count: int) -> subprocess.Popen[str]:
        done = self.folder / 'filled'
        program = 'import sys, cargo; cargo.main(*sys.argv[1:])'
        process = self.start('-c', program, store, self.gate, count, done)
        self.wait(done.exists, 'filling')
        return process

    def states(self, store: str) -> Counter[str]:
        reader = locate(store).open_reader()
        try:
            counts: Counter[str] = Counter()
            for state, _, count in reader.counts():
                counts[state] += count
            return counts
        finally:
            reader.close()

    def wait(self, holds: Callable[[], object], doing: str = 'that') -> None:
        give_up = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < give_up, f'{doing} never came to pass'
            threading.Event().wait(0.05)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.close()


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """``new_url(kind, name)``: the URL of a store that is not there; of PostgreSQL's there is one for a test."""

    def make(kind: str, name: str) -> str:
        return sqlite(tmp_path, name) if kind == 'sqlite' else str(request.getfixturevalue('postgres'))

    return make


both = pytest.mark.parametrize('kind', ['sqlite', 'postgresql'])


def sqlite(folder: Path, name: str) -> str:
    return f'sqlite:///{folder}/{name}.db'


def numbers(store: str, column: str, of: str) -> set[int]:
    """What stands in a column of numbers."""
    with locate(store).contents().snapshot() as connection:
        return {row[0] for row in connection.exec_driver_sql(f'SELECT {column} FROM {of}')}


def is_empty(store: str) -> bool:
    return not any(numbers(store, 'count(*)', name) != {0} for name in ('process', 'awaiting', 'log', 'engine', 'code'))


def table(archive: Path, name: str) -> list[dict[str, Any]]:
    with zipfile.ZipFile(archive) as opened:
        return [json.loads(line) for line in opened.read(f'tables/{name}.jsonl').splitlines()]


def committed(archive: Path) -> dict[int, tuple[int, bool]]:
    """By pid: how many steps are committed, and whether it has ended."""
    return {row['pid']: (row['visit'], row['state'] in ENDED) for row in table(archive, 'process')}


def done(result: Any, *parts: str) -> None:
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    for part in parts:
        assert part in result.stdout


def refused(result: Any, *parts: str, status: int = 1) -> None:
    assert (result.returncode, result.stdout) == (status, ''), result
    assert 'Traceback' not in result.stderr
    for part in parts:
        assert part in result.stderr


def run_to_the_end(yard: Yard, store: str, treadle: Any) -> None:
    """Open the gate, play what is paused, and let two workers bring all to its end."""
    yard.gate.touch()
    rows = json.loads(treadle('ps', '--all', '--called', '--json', store=store).stdout)
    paused = [row['pid'] for row in rows if row['paused']]
    assert len(paused) == 10
    done(treadle('play', *paused, store=store))
    workers = [yard.worker(store) for _ in range(2)]
    for worker in workers:  # one that has not begun would not leave in good order
        assert 'works on' in worker.stderr.readline()
    yard.wait(lambda: set(yard.states(store)) <= ENDED, 'the end of all')
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        _, said = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, said


def check_outcome(store: str, count: int = 75) -> None:
    """What a yard that was filled comes to, wherever it went meanwhile."""
    location = locate(store)
    reader, objects = location.open_reader(), location.objects()
    try:
        rows = {row.pid: row for row in reader.query()}
        assert Counter(row.process_label for row in rows.values() if row.state == 'killed')['Item'] == 10
        assert Counter(row.state for row in rows.values() if row.process_label == 'Bad') == {'excepted': 4}
        assert all('bad' in (row.exception or '') for row in rows.values() if row.process_label == 'Bad')
        items = [row for row in rows.values() if row.process_label == 'Item' and row.state == 'finished']
        parts = [row for row in rows.values() if row.process_label == 'Part' and row.state == 'finished']
        assert len(items) == 4 + 1 + count
        assert len(parts) == len(items) + 10
        for row in items:
            x, outputs = json.loads(row.inputs)['x'], json.loads(row.outputs or '')
            assert outputs['y'] == 2 * (x + 1)
            assert next(entry.message for entry in reader.log(row.pid)).endswith(f'item {x} begins')
            assert ('file' in outputs) == (x < 4)
        hashes = set(objects.hashes())
        assert len(hashes) == 5
        for name in hashes:
            with objects.open(name) as stream:
                content = stream.read()
            assert len(content) in (200_000, 5_000_000) and len(set(content)) == 1
        (keyed,) = reader.query(key='fifty')
        assert (keyed.state, keyed.label) == ('finished', 'the \N{SNOWMAN} of it')
        assert Counter(row.parent for row in rows.values() if row.parent is not None).most_common(1)[0][1] == 1
    finally:
        reader.close()
        objects.close()


def assert_none_again(yard: Yard, before: int, archive: Path) -> None:
    """Of the steps that began after the first ``before`` ones, none was committed in the archive."""
    steps = committed(archive)
    again = [
        (pid, visit)
        for pid, visit in yard.marks()[before:]
        if pid in steps and (steps[pid][1] or visit < steps[pid][0])
    ]
    assert again == []


@pytest.mark.timeout(240)
def test_there_and_back_with_engines_killed_on_the_way(
    yard: Yard, treadle: Any, new_url: Callable[[str, str], str], tmp_path: Path
) -> None:
    """200 processes in all states, from a file to PostgreSQL and into another file."""
    stores = [new_url('sqlite', 'old'), new_url('postgresql', ''), new_url('sqlite', 'new')]
    archives = [tmp_path / f'{number}.zip' for number in range(2)]
    filling = yard.fill(stores[0])
    filling.kill()
    filling.wait()
    pid = int(yard.run('submit', 'cargo:Item', 'x=7', store=stores[0]).stdout)
    for archive, old, new in zip(archives, stores, stores[1:], strict=False):
        begun = len(yard.marks())
        moved = treadle('store', 'export', archive, '--retire', '--to', new, store=old)
        assert moved.returncode == 0, moved.stderr
        assert moved.stdout.endswith(f' unfinished), large contents: 5 (19.3 MiB), in {archive}\n')
        assert moved.stderr.count('is cut off') == 1
        states = Counter(row['state'] for row in table(archive, 'process'))
        assert {'running', 'waiting', 'finished', 'excepted', 'killed'} <= set(states)
        assert ('created' in states) == (old == stores[0])
        assert all(row['owner'] is None for row in table(archive, 'process'))
        done(treadle('store', 'import', archive, store=new), 'processes: ', f', in {locate(new).url}')
        assert yard.states(new) == states == yard.states(old)
        if new != stores[-1]:
            # It gets as far as the gate lets it.
            worker = yard.worker(new)
            yard.wait(lambda begun=begun: len(yard.marks()) >= begun + 4, 'going on')
            yard.wait(lambda new=new: yard.states(new)['created'] == 0, 'claiming')
            worker.kill()
            worker.wait()
            assert_none_again(yard, begun, archive)
    begun = len(yard.marks())
    run_to_the_end(yard, stores[-1], treadle)
    assert_none_again(yard, begun, archives[-1])
    check_outcome(stores[-1], count=76)
    assert json.loads(treadle('show', pid, '--json', store=stores[-1]).stdout)['state'] == 'finished'


@both
@pytest.mark.timeout(180)
def test_a_live_store_is_moved_under_its_workers(
    yard: Yard, treadle: Any, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    archive, new = tmp_path / 'store.zip', new_url({'sqlite': 'postgresql', 'postgresql': 'sqlite'}[kind], 'new')
    old = new_url(kind, 'old')
    filling = yard.fill(old)
    worker = yard.worker(old)
    yard.wait(lambda: len(json.loads(treadle('status', '--json', store=old).stdout)['engines']) == 2)
    moved = treadle('store', 'export', archive, '--retire', '--to', new, store=old)
    assert moved.returncode == 0 and moved.stderr.count('is cut off') == 2
    begun = len(yard.marks())
    assert worker.wait(PATIENCE) == 1
    said = worker.stderr.read() if worker.stderr else ''
    assert 'treadle: this store was retired on 20' in said and f'moved to {locate(new).url}' in said
    yard.gate.touch()  # what still executes in the other one comes to its end, and writes nothing
    yard.wait(lambda: filling.poll() is None)
    done(treadle('store', 'import', archive, store=new))
    run_to_the_end(yard, new, treadle)
    assert_none_again(yard, begun, archive)
    check_outcome(new)
    assert yard.states(old) == Counter(row['state'] for row in table(archive, 'process'))


@both
@pytest.mark.timeout(120)
def test_a_copy_is_one_moment_of_a_store_at_work(
    yard: Yard, treadle: Any, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    old, new, archive = new_url(kind, 'old'), sqlite(tmp_path, 'new'), tmp_path / 'store.zip'
    yard.gate.touch()
    filling = yard.begin_to_fill(old, 400)
    done(treadle('store', 'export', archive, store=old), '; the store goes on')
    assert filling.poll() is None
    rows = {row['pid']: row for row in table(archive, 'process')}
    # Whoever waits does so for one that is there and has not ended, and a child has its parent.
    for pair in table(archive, 'awaiting'):
        assert rows[pair['waiter']]['state'] == 'waiting' and rows[pair['awaited']]['state'] not in ENDED
    assert all(row['parent'] in rows for row in rows.values() if row['parent'] is not None)
    yard.wait(lambda: yard.states(old)['finished'] >= 800)
    refused(treadle('store', 'import', archive, store=new), 'not retired', 'would run here and there', '--copy')
    assert not (tmp_path / 'new.db').exists()
    done(treadle('store', 'import', archive, '--copy', store=new))
    assert numbers(new, 'owner', 'process') == {None}
    assert yard.states(new) == Counter(row['state'] for row in rows.values())


@both
@pytest.mark.timeout(180)
def test_a_retired_store_takes_nothing(
    yard: Yard, treadle: Any, script: Path, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    old, archive = new_url(kind, 'old'), tmp_path / 'store.zip'
    subprocess.run([sys.executable, script, old], check=True, timeout=50)
    to = 'sqlite:////srv/new.db'
    done(treadle('store', 'export', archive, '--retire', '--to', to, store=old))
    remedy = ('this store was retired on 20', 'has moved to sqlite:////srv/new.db', 'TREADLE_STORE')
    refused(treadle('kill', 1, store=old), *remedy)
    for command in (('submit', 'cargo:Part', 'x=1'), ('run', 'cargo:Part', 'x=1'), ('worker',)):
        refused(yard.run(*command, store=old), *remedy)
    # It can be looked at, and written out once more.
    assert treadle('ps', '--all', store=old).returncode == 0
    assert 'retired' in treadle('status', store=old).stdout
    assert json.loads(treadle('status', '--json', store=old).stdout)['retired']['moved_to'] == to
    done(treadle('store', 'export', tmp_path / 'again.zip', store=old))
    with zipfile.ZipFile(archive) as first, zipfile.ZipFile(tmp_path / 'again.zip') as again:
        members = {name: first.read(name) for name in first.namelist()}
        # A sequence may have moved on, whatever came of it.
        assert all(again.read(name) == members[name] for name in members if name != 'manifest.json')
    refused(treadle('store', 'reopen', store=old), 'would run twice', '--yes', status=2)
    done(treadle('store', 'reopen', '--yes', store=old), 'is in use again')
    done(treadle('store', 'reopen', '--yes', store=old), 'was not retired')
    assert yard.run('run', 'cargo:Part', 'x=1', store=old).stdout == 'y: 2\n'


@both
def test_an_import_goes_into_an_empty_store_only(
    treadle: Any, filled: str, script: Path, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    archive, used = tmp_path / 'store.zip', new_url(kind, 'used')
    done(treadle('store', 'export', archive, store=filled))
    subprocess.run([sys.executable, script, used], check=True, timeout=50)
    before = numbers(used, 'pid', 'process')
    refused(treadle('store', 'import', archive, '--copy', store=used), f'{locate(used)} is not empty', "'process'")
    assert numbers(used, 'pid', 'process') == before


@both
def test_pids_and_engines_go_on_counting(
    treadle: Any, filled: str, script: Path, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    archive, new = tmp_path / 'store.zip', new_url(kind, 'new')
    done(treadle('store', 'export', archive, store=filled))
    done(treadle('store', 'import', archive, '--copy', store=new))
    old_pids = {row['pid'] for row in table(archive, 'process')}
    old_engines = {row['id'] for row in table(archive, 'engine')}
    subprocess.run([sys.executable, script, new], check=True, timeout=50)
    pids, engines = numbers(new, 'pid', 'process'), numbers(new, 'id', 'engine')
    (counted,) = [row for row in table(archive, 'counter') if row['name'] == 'pid']
    # Relax has a key, and so is the one that is there.
    assert pids > old_pids and min(pids - old_pids) >= counted['next']
    assert engines > old_engines and min(engines - old_engines) > max(old_engines)


def damage(archive: Path) -> None:
    """Another value in a row, with the checksums of the zip archive set right."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    rows = members['tables/process.jsonl']
    members['tables/process.jsonl'] = rows.replace(b'"state":"finished"', b'"state":"running"')
    with zipfile.ZipFile(archive, 'w') as new:
        for name, content in members.items():
            new.writestr(name, content)


@both
def test_an_import_is_all_or_nothing(
    treadle: Any, filled: str, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    archive, new = tmp_path / 'store.zip', new_url(kind, 'new')
    done(treadle('store', 'export', archive, store=filled))
    whole = archive.read_bytes()
    damage(archive)
    said = 'is damaged: tables/process.jsonl has another checksum'
    refused(treadle('store', 'import', archive, '--copy', store=new), said)
    assert is_empty(new)
    archive.write_bytes(whole)
    done(treadle('store', 'import', archive, '--copy', store=new))


@both
def test_an_import_that_is_killed_leaves_an_empty_store(
    treadle: Any, filled: str, new_url: Callable[[str, str], str], kind: str, tmp_path: Path
) -> None:
    archive, new = tmp_path / 'store.zip', new_url(kind, 'new')
    done(treadle('store', 'export', archive, store=filled))
    program = (
        'import os, signal, sys\n'
        'from treadle.engine.store import moving\n'
        'from treadle.engine.store.location import locate\n'
        'take = moving._take_from_engines\n'
        'def die(connection):\n'
        '    take(connection)\n'
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
        'moving._take_from_engines = die\n'
        'moving.import_store(locate(sys.argv[1]), sys.argv[2], copies=True)\n'
    )
    killed = subprocess.run([sys.executable, '-c', program, new, archive], timeout=50)
    assert killed.returncode == -signal.SIGKILL
    assert is_empty(new)
    done(treadle('store', 'import', archive, '--copy', store=new))
    assert not is_empty(new)


def test_files_that_cannot_be_written_or_read(treadle: Any, filled: str, tmp_path: Path) -> None:
    there = tmp_path / 'there.zip'
    there.touch()
    refused(treadle('store', 'export', there, store=filled), f'{there} is there already')
    refused(treadle('store', 'export', there, '--retire', store=filled), f'{there} is there already')
    assert treadle('status', '--json', store=filled).stdout.count('"retired": null') == 1
    refused(treadle('store', 'export', tmp_path / 'no' / 'a.zip', store=filled), 'No such file or directory')
    refused(treadle('store', 'export', tmp_path / 'a.zip', '--to', filled, store=filled), '--retire', status=2)
    refused(treadle('store', 'import', tmp_path / 'no.zip', store=sqlite(tmp_path, 'new')), 'cannot be read')
    refused(treadle('store', 'import', there, store=sqlite(tmp_path, 'new')), 'no zip archive')
    assert sorted(item.name for item in tmp_path.iterdir()) == ['there.zip']


def test_an_export_that_fails_after_the_retirement_says_how_to_go_on(
    treadle: Any, script: Path, tmp_path: Path
) -> None:
    old = sqlite(tmp_path, 'old')
    subprocess.run([sys.executable, script, old], check=True, timeout=50)
    content = next(path for path in (tmp_path / 'old.db.objects' / 'loose').rglob('*') if path.is_file())
    content.chmod(0o600)
    content.write_bytes(b'x')
    result = treadle('store', 'export', tmp_path / 'a.zip', '--retire', store=old)
    refused(result, 'restore it from a backup', 'the store is retired and the file is not written', 'store reopen')
    assert not (tmp_path / 'a.zip').exists()
    done(treadle('store', 'reopen', '--yes', store=old))


# -- upgrading ---------------------------------------------------------------------------------------------


def first_revision(path: Path, *, lease: float = 0.5) -> None:
    """A store as the first Treadle made it, with an engine of another host that has not ended."""
    import sqlalchemy
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    from treadle.engine.store.migrations.run import script_directory

    engine = sqlalchemy.create_engine(f'sqlite:///{path}')
    with engine.begin() as connection:
        steps = {'fn': lambda revision, _: script_directory()._upgrade_revs('0001', revision)}
        context = MigrationContext.configure(connection, opts=steps)
        with Operations.context(context):
            context.run_migrations()
        connection.exec_driver_sql(
            'INSERT INTO engine (uuid, name, host, boot_id, os_pid, started_at, lease) '
            f"VALUES ('u', 'old', 'elsewhere', 'b', 7, 0.0, {lease})"
        )
    engine.dispose()


def test_an_older_store_is_upgraded_by_the_command(treadle: Any, tmp_path: Path) -> None:
    store = sqlite(tmp_path, 'old')
    first_revision(tmp_path / 'old.db')
    said = f'is at revision 0001 of the schema, and ours is {HEAD}: `treadle store upgrade` brings it there; '
    looked = treadle('store', 'upgrade', '--check', store=store)
    assert (looked.returncode, looked.stderr) == (1, '')
    assert said + 'stop the engines on it first' in looked.stdout
    refused(treadle('ps', store=store), 'older Treadle', 'revision 0001')
    done(treadle('store', 'upgrade', store=store), f'is at revision {HEAD} of the schema, and was at 0001')
    for command in (['store', 'upgrade'], ['store', 'upgrade', '--check']):
        done(treadle(*command, store=store), f'is at revision {HEAD} of the schema, which is ours')
    assert treadle('ps', store=store).returncode == 0


def test_an_upgrade_does_not_go_on_under_engines_that_would_not_understand_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treadle.engine.store import upgrading
    from treadle.engine.store.migrations.run import script_directory

    first_revision(tmp_path / 'old.db', lease=60)
    location = locate(sqlite(tmp_path, 'old'))
    modules = {script.revision: script.module for script in script_directory().walk_revisions()}
    assert all(isinstance(module.engines_go_on, bool) for module in modules.values())

    class Directory:
        """One of the steps is such."""

        def walk_revisions(self) -> Iterator[Any]:
            for script in script_directory().walk_revisions():
                yield SimpleNamespace(
                    revision=script.revision, module=SimpleNamespace(engines_go_on=script.revision != '0003')
                )

    monkeypatch.setattr(upgrading, 'script_directory', Directory)
    assert not upgrading.plan_upgrade(location).beside_engines
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            with contextlib.closing(sqlite3.connect(tmp_path / 'old.db', timeout=20)) as connection, connection:
                connection.execute('UPDATE engine SET heartbeat = heartbeat + 1')

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(StoreError, match=r"work on it: 1 \('old'\) on elsewhere, OS process 7\. Stop them"):
            upgrading.upgrade_store(location)
        assert upgrading.plan_upgrade(location).revision == '0001'
    finally:
        stop.set()
        beating.join()
    with contextlib.closing(sqlite3.connect(tmp_path / 'old.db')) as connection, connection:
        connection.execute('UPDATE engine SET lease = 0.5')
    # It is silent for its lease now.
    assert upgrading.upgrade_store(location).steps[-1] == HEAD
    assert upgrading.plan_upgrade(location).steps == ()


def test_stores_that_cannot_be_upgraded(treadle: Any, tmp_path: Path) -> None:
    refused(treadle('store', 'upgrade', store=sqlite(tmp_path, 'no')), 'there is no store at')
    (tmp_path / 'empty.db').touch()
    refused(treadle('store', 'upgrade', store=sqlite(tmp_path, 'empty')), 'is empty')
    first_revision(tmp_path / 'new.db')
    with contextlib.closing(sqlite3.connect(tmp_path / 'new.db')) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused(treadle('store', 'upgrade', store=sqlite(tmp_path, 'new')), 'revision 9999', 'Upgrade Treadle')
    for command in (['export', tmp_path / 'a.zip'], ['export', tmp_path / 'a.zip', '--retire'], ['reopen', '--yes']):
        refused(treadle('store', *command, store=sqlite(tmp_path, 'new')), 'revision 9999')
    assert not (tmp_path / 'a.zip').exists()


def test_what_a_newer_or_an_older_treadle_has_exported(treadle: Any, filled: str, tmp_path: Path) -> None:
    archive, new = tmp_path / 'store.zip', sqlite(tmp_path, 'new')
    done(treadle('store', 'export', archive, store=filled))
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    for revision, said in (('9999', 'newer Treadle'), ('0002', 'the Treadle that made it')):
        manifest = json.loads(members['manifest.json'])
        members['manifest.json'] = json.dumps({**manifest, 'revision': revision}).encode()
        with zipfile.ZipFile(archive, 'w') as changed:
            for name, content in members.items():
                changed.writestr(name, content)
        refused(treadle('store', 'import', archive, '--copy', store=new), f'revision {revision}', said)
    assert not (tmp_path / 'new.db').exists()
