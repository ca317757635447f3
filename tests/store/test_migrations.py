"""Making and upgrading databases, alone and in a crowd; leaving other people's files alone."""

from __future__ import annotations

import contextlib
import io
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from treadle.engine.errors import StoreTooNew, StoreUnavailable
from treadle.engine.store import migrations, schema
from treadle.engine.store.migrations import run
from treadle.engine.store.sqlite import upgrade
from treadle.engine.store.sqlite.connection import connect_reader, connect_writer
from treadle.engine.store.sqlite.file import StoreFile, default_url, parse_url
from treadle.engine.store.sqlite.location import SqliteLocation
from treadle.engine.store.sqlite.revision import check_schema, ensure_schema


@pytest.fixture
def location(tmp_path: Path) -> StoreFile:
    return parse_url(f'sqlite:///{tmp_path}/store.db')


def clauses(definition: str) -> tuple[str, ...]:
    """The parts of a definition, in an order that does not tell which columns were added later."""
    text = ' '.join(definition.split()).removesuffix(')').replace(' ( ', ', ')
    return tuple(sorted(re.split(r', (?![^(]*\))', text)))


def objects(path: Path) -> dict[str, tuple[str, ...]]:
    """Each table's and index's definition as SQLite keeps it, white space aside."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL AND name <> 'alembic_version'"
        ).fetchall()
    return {name: clauses(sql) for name, sql in rows}


def test_the_constant_is_the_only_head() -> None:
    assert run.script_directory().get_heads() == [migrations.HEAD] == [schema.HEAD]


def test_migrations_make_exactly_the_metadata(location: StoreFile, tmp_path: Path) -> None:
    ensure_schema(location)
    direct = tmp_path / 'direct.db'
    engine = sqlalchemy.create_engine(f'sqlite:///{direct}')
    schema.metadata.create_all(engine)
    engine.dispose()

    assert objects(location.path) == objects(direct)

    def is_comparable(item: object, name: str | None, *_: object) -> bool:
        # Alembic cannot read back an index that descends; its definition was compared above.
        return name != 'process_runnable'

    engine = sqlalchemy.create_engine(f'sqlite:///{location.path}')
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={'compare_type': True, 'compare_server_default': True, 'include_object': is_comparable},
        )
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_migrations_say_the_same_to_postgresql() -> None:
    text = io.StringIO()
    context = MigrationContext.configure(
        dialect_name='postgresql',
        opts={
            'as_sql': True,
            'output_buffer': text,
            'fn': lambda revision, _: run.script_directory()._upgrade_revs('head', revision),
        },
    )
    with Operations.context(context):
        context.run_migrations()
    script = ' '.join(text.getvalue().split())
    for table in schema.metadata.tables.values():
        ddl = str(sqlalchemy.schema.CreateTable(table).compile(dialect=context.dialect))
        created = re.findall(f'(CREATE TABLE {table.name} .*?);', script)
        added = re.findall(f'ALTER TABLE {table.name} ADD COLUMN (.*?);', script)
        found = [*clauses(created[0]), *added]
        for column, kind in re.findall(f'ALTER TABLE {table.name} ALTER COLUMN (\\w+) TYPE (\\w+);', script):
            found = [re.sub(f'^{column} [A-Z]+', f'{column} {kind}', each) for each in found]
        assert sorted(found) == list(clauses(ddl))
        for index in table.indexes:
            assert str(sqlalchemy.schema.CreateIndex(index).compile(dialect=context.dialect)) in script
    assert 'PRAGMA' not in script


def test_a_new_database_is_ready(location: StoreFile) -> None:
    ensure_schema(location)
    ensure_schema(location)
    with contextlib.closing(connect_writer(location)) as connection:
        assert connection.execute("SELECT name, next FROM counter WHERE name = 'pid'").fetchall() == [('pid', 1)]
        check_schema(connection, location)
    assert sorted(item.name for item in location.path.parent.iterdir()) == ['store.db']


def test_eight_processes_open_a_new_database_at_once(location: StoreFile) -> None:
    program = (
        'import sys\n'
        'from treadle.engine.store.sqlite.file import parse_url\n'
        'from treadle.engine.store.sqlite import upgrade\n'
        'from treadle.engine.store.sqlite.revision import ensure_schema\n'
        'from treadle.engine.store.sqlite.connection import connect_writer\n'
        'location = parse_url(sys.argv[1])\n'
        "print('ready', flush=True)\n"
        'sys.stdin.readline()\n'
        'ensure_schema(location)\n'
        'connection = connect_writer(location)\n'
        "connection.execute(\"UPDATE counter SET next = next + 1 WHERE name = 'pid'\")\n"
        'connection.close()\n'
    )
    children = [
        subprocess.Popen(
            [sys.executable, '-W', 'error', '-c', program, location.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == 'ready\n'
    for child in children:
        assert child.stdin is not None
        child.stdin.write('go\n')
        child.stdin.flush()
    assert [child.communicate(timeout=50)[1] for child in children] == [''] * 8
    assert [child.returncode for child in children] == [0] * 8
    with contextlib.closing(connect_reader(location)) as connection:
        assert connection.execute("SELECT name, next FROM counter WHERE name = 'pid'").fetchall() == [('pid', 9)]
        assert connection.execute('SELECT version_num FROM alembic_version').fetchall() == [(migrations.HEAD,)]


def test_opening_a_database_at_head_imports_neither_alembic_nor_sqlalchemy(location: StoreFile) -> None:
    ensure_schema(location)
    program = (
        'import sys\n'
        'import treadle.engine.store.lockfile\n'
        'from treadle.engine.store.sqlite.file import parse_url\n'
        'from treadle.engine.store.sqlite.revision import ensure_schema\n'
        'from treadle.engine.store.sqlite.connection import connect_reader, connect_writer\n'
        'location = parse_url(sys.argv[1])\n'
        'ensure_schema(location)\n'
        'connect_writer(location).close()\n'
        'connect_reader(location).close()\n'
        "print([name for name in ('sqlalchemy', 'alembic') if name in sys.modules])\n"
    )
    output = subprocess.run(
        [sys.executable, '-c', program, location.url], check=True, capture_output=True, text=True, timeout=50
    ).stdout
    assert output == '[]\n'


def test_a_failed_migration_leaves_nothing(location: StoreFile, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate = upgrade.migrate

    def fail(connection: sqlalchemy.Connection, store: str, revision: str | None) -> None:
        migrate(connection, store, revision)
        raise RuntimeError('struck by lightning')

    monkeypatch.setattr(upgrade, 'migrate', fail)
    with pytest.raises(RuntimeError, match='lightning'):
        ensure_schema(location)
    assert objects(location.path) == {}
    monkeypatch.undo()
    ensure_schema(location)
    assert 'process' in objects(location.path)


def test_a_newer_store_names_both_revisions_and_the_remedy(location: StoreFile) -> None:
    ensure_schema(location)
    with contextlib.closing(connect_writer(location)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = location.path.read_bytes()
    pattern = f'{re.escape(str(location.path))}.*9999.*{migrations.HEAD}.*Upgrade Treadle'
    with pytest.raises(StoreTooNew, match=pattern):
        ensure_schema(location)
    with contextlib.closing(connect_reader(location)) as reader, pytest.raises(StoreTooNew, match=pattern):
        check_schema(reader, location)
    assert location.path.read_bytes() == before


def test_a_reader_of_an_older_store_is_told_to_start_an_engine(location: StoreFile) -> None:
    ensure_schema(location)
    with contextlib.closing(connect_writer(location)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
        with pytest.raises(StoreUnavailable, match=r'older Treadle.*start an engine'):
            check_schema(connection, location)


def test_a_store_that_lost_its_revision_is_refused(location: StoreFile) -> None:
    ensure_schema(location)
    with contextlib.closing(connect_writer(location)) as connection:
        connection.execute('DELETE FROM alembic_version')
    with pytest.raises(StoreUnavailable, match='does not say which revision'):
        ensure_schema(location)


def make_first_revision(location: StoreFile) -> None:
    """A store as the first Treadle made it, with a process in it."""
    engine = sqlalchemy.create_engine(f'sqlite:///{location.path}')
    with engine.begin() as connection:
        steps = {'fn': lambda revision, _: run.script_directory()._upgrade_revs('0001', revision)}
        context = MigrationContext.configure(connection, opts=steps)
        with Operations.context(context):
            context.run_migrations()
        connection.exec_driver_sql(
            "INSERT INTO process (pid, uuid, class_name, state, inputs, origin, created_at, changed_at) "
            "VALUES (7, 'u', 'module:Class', 'created', '{}', 1, 0.0, 0.0)"
        )
    engine.dispose()


def test_a_store_of_the_first_revision_is_upgraded_with_all_that_is_in_it(
    location: StoreFile, tmp_path: Path
) -> None:
    make_first_revision(location)
    with contextlib.closing(connect_reader(location)) as reader, pytest.raises(StoreUnavailable, match='older Treadle'):
        check_schema(reader, location)
    ensure_schema(location)
    new = parse_url(f'sqlite:///{tmp_path}/new.db')
    ensure_schema(new)
    assert objects(location.path) == objects(new.path)
    record = SqliteLocation(location).open_reader().process(7)
    assert (record.class_name, record.state, record.code) == ('module:Class', 'created', None)


@pytest.mark.parametrize(
    'script',
    [
        'CREATE TABLE invoices (id INTEGER)',
        # An application that uses Alembic too, at a revision of the same name.
        "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('0001');"
        'CREATE TABLE invoices (id INTEGER)',
    ],
)
def test_the_database_of_another_application_is_left_as_it_is(location: StoreFile, script: str) -> None:
    with contextlib.closing(sqlite3.connect(location.path)) as connection:
        connection.executescript(script)
    before = location.path.read_bytes()
    with pytest.raises(StoreUnavailable, match=f'{re.escape(str(location.path))} .*another application'):
        ensure_schema(location)
    assert location.path.read_bytes() == before
    assert [item.name for item in location.path.parent.iterdir()] == ['store.db']


def test_a_file_that_is_no_database_is_left_as_it_is(location: StoreFile) -> None:
    text = b'Dear diary, ' * 500
    location.path.write_bytes(text)
    with pytest.raises(StoreUnavailable, match='is not an SQLite database; it is left as it is'):
        ensure_schema(location)
    assert location.path.read_bytes() == text


def test_an_empty_file_becomes_a_store(location: StoreFile) -> None:
    location.path.touch()
    with contextlib.closing(connect_reader(location)) as reader, pytest.raises(StoreUnavailable, match='is empty'):
        check_schema(reader, location)
    ensure_schema(location)
    assert 'process' in objects(location.path)


def test_no_database_is_made_beside_the_log_of_one_that_was_moved_away(location: StoreFile) -> None:
    ensure_schema(location)
    log = location.path.with_name(f'{location.path.name}-wal')
    away = location.path.with_name('away.db')
    with contextlib.closing(connect_writer(location)) as connection:
        connection.execute("UPDATE counter SET next = 5 WHERE name = 'pid'")
        location.path.rename(away)
        for attempt in (ensure_schema, connect_reader):
            with pytest.raises(StoreUnavailable, match=r'moved away or deleted .* Put it back; .* remove the log'):
                attempt(location)
        assert log.stat().st_size > 0 and not location.path.exists()
        away.rename(location.path)
    with contextlib.closing(connect_reader(location)) as reader:
        assert reader.execute("SELECT next FROM counter WHERE name = 'pid'").fetchall() == [(5,)]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    location = parse_url(f'sqlite:///{tmp_path}/not/there.db')
    with pytest.raises(StoreUnavailable, match=r'/not of the store .*does not exist; make it'):
        ensure_schema(location)
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_is_made_at_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('TREADLE_STORE', raising=False)
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    monkeypatch.setenv('HOME', str(tmp_path))
    location = parse_url(default_url())
    assert not location.path.parent.exists()
    ensure_schema(location)
    assert location.path.is_file()
