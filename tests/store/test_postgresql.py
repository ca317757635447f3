"""A PostgreSQL server that is stopped, loses answers, ends sessions or lets nobody in; and writers that stand still."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.pq import Conninfo

from support.proxy import Proxy
from treadle.engine.communication.address import has_password
from treadle.engine.errors import StoreError, StoreReadOnly, StoreUnavailable, UnsupportedStore
from treadle.engine.store.control import write_once
from treadle.engine.store.engines import declare_dead
from treadle.engine.store.location import locate
from treadle.engine.store.migrations import HEAD
from treadle.engine.store.postgresql import database
from treadle.engine.store.postgresql.connection import connect
from treadle.engine.store.postgresql.location import PostgresqlLocation
from treadle.engine.store.postgresql.server import parse_url
from treadle.engine.store.postgresql.snapshot import Snapshot
from treadle.engine.store.postgresql.wording import PostgresqlWording
from treadle.engine.store.records import Held, Lost, Unit

PATIENCE = 60.0


def sessions(url: str, name: str) -> list[int]:
    """The server's processes that serve the sessions of that name."""
    with psycopg.connect(url) as connection:
        query = 'SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s'
        return [row[0] for row in connection.execute(query, [name])]


def wait_for_state(connection: psycopg.Connection[Any], name: str, state: str) -> None:
    """Wait until the session of that name is in that state."""
    query = (
        'SELECT FROM pg_stat_activity'
        ' WHERE datname = current_database() AND application_name = %s AND state = %s'
    )
    deadline = time.monotonic() + PATIENCE
    while connection.execute(query, [name, state]).fetchone() is None:
        assert time.monotonic() < deadline, f'{name} is not {state}'
        time.sleep(0.01)


def end_session(url: str, *pids: int) -> None:
    with psycopg.connect(url) as connection:
        for pid in pids:
            connection.execute('SELECT pg_terminate_backend(%s, 10000)', [pid])


def read(url: str) -> list[Any]:
    """What a reader sees of the processes."""
    with contextlib.closing(locate(url).open_reader()) as reader:
        return reader.counts()


def later(fence: Any, version: int) -> Any:
    """The same fence when the row has moved on."""
    return msgspec.structs.replace(fence, version=version)


# -- the URL -----------------------------------------------------------------------------------------------------------


def test_the_url_is_shown_without_passwords() -> None:
    server = parse_url('postgres://ada:se%40cret@db.example:5433/runs?sslmode=require&sslpassword=secret2')
    assert server.url == str(server) == 'postgresql://ada@db.example:5433/runs?sslmode=require'
    assert (server.place, server.database, server.user) == ('db.example:5433', 'runs', 'ada')
    assert server.parameters['password'] == 'se@cret'
    assert 'cret' not in repr(server) and 'cret' not in repr(locate('postgresql://ada:secret@db.example/runs'))


@pytest.mark.parametrize(
    ('url', 'remedy'),
    [
        ('postgresql+psycopg://a:secret@h/d', 'no driver is named'),
        ('postgresql:a:secret@h/d', 'two slashes'),
        ('postgresql://a:secret@h/d?sslmod=require', "no option 'sslmod'; did you mean 'sslmode'"),
        ('postgresql://a:secret@h/d?foo=bar', "no option 'foo'"),
        ('postgresql://a:secret@h/d?sslmode', 'option=value'),
        ('postgresql://a:secret@h:http/d', 'port|no URL'),
        ('postgresql://a:secret@h/d?connect_timeout=soon', 'connect_timeout is a number'),
        ('postgresql://a:se#cret@h/d', '%23'),
        ('postgresql://a:secret@[::1/d', 'no URL of a PostgreSQL database'),
    ],
)
def test_mistakes_are_answered_with_what_to_write(url: str, remedy: str) -> None:
    with pytest.raises(UnsupportedStore, match=remedy) as caught:
        locate(url)
    assert 'secret' not in str(caught.value)


@pytest.mark.parametrize(
    'url',
    [
        'postgresql://user:{}@host/db',
        'postgresql://:{}@host/db',
        'postgresql://user:{}/abc@host/db',
        'postgresql://user:{}/x@host/db',
        'postgresql://user:x/{}@host/db',
        'postgresql://user:p@{}@host/db',
        'postgresql://user:{}@x@host/db',
        'postgresql://user:{}?x@host/db',
        'postgresql://user:1?sslmode={}@host/db',
        'postgresql://user:1?{}=x@host/db',
        'postgresql://user:{}',
        'postgresql://host:1,user:{}/db',
        'postgresql://user@host:{}/db',
        'postgresql://user@host/db?port={}',
        'postgresql://user@host/db?connect_timeout={}',
        'postgresql://user@host/db?password={}',
        'postgresql://user@host/db?password=a&{}=b',
        'postgresql://user@host/db?oauth_client_secret={}',
        'postgresql://user@host/db?scram_client_key={}',
    ],
)
@pytest.mark.parametrize('secret', ['hunter2', '12345'])
def test_no_password_is_shown_however_it_is_written(
    url: str, secret: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level('DEBUG')
    # A number in the place of a port, or of a time-out, may be one.
    url = url.format(secret if re.search('{}.*@host|password|_secret|_key', url) else 'hunter2')
    try:
        found = locate(url)
    except UnsupportedStore as error:
        shown = ''.join(traceback.format_exception(error)).partition('UnsupportedStore:')[2]
    else:
        assert isinstance(found, PostgresqlLocation)
        shown = f'{found!r} {found} {found.url} {found.server!r} {found.server.place} {found.server.database}'
        public = {name: value for name, value in found.server.parameters.items() if secret not in value}
        assert parse_url(found.url).parameters == public
    assert secret not in f'{shown}{caplog.text}{capsys.readouterr()}'


def test_what_libpq_calls_a_secret_is_one() -> None:
    for option in Conninfo.get_defaults():
        if option.dispchar == b'*':
            url = f'postgresql://host/db?{option.keyword.decode()}=hunter2'
            assert has_password(url) and 'hunter2' not in locate(url).url


def test_a_limit_for_those_who_stand_still_does_not_end_an_export_or_an_import(postgres: str) -> None:
    locate(postgres).ensure_schema()
    contents = locate(f'{postgres}?options=-c%20idle_in_transaction_session_timeout%3D1s').contents()
    for begun in (contents.snapshot, contents.alone):
        with begun() as connection:
            assert connection.exec_driver_sql('SHOW idle_in_transaction_session_timeout').scalar_one() == '0'


# -- who is not let in, and where --------------------------------------------------------------------------------------


def refused(url: str) -> str:
    """What the error says; the command's, the engine's and the reader's are the same."""
    with pytest.raises(StoreError) as caught:
        read(url)
    with pytest.raises(StoreError) as again:
        locate(url).make_database().open()
    assert str(again.value) == str(caught.value) and 'secret' not in str(caught.value)
    return str(caught.value)


def test_errors_name_the_place_and_the_remedy(
    guarded: None, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('PGPASSWORD', raising=False)
    port = postgres_server.port
    wrong = refused(f'postgresql://guarded:secret@127.0.0.1:{port}/postgres')
    assert f'127.0.0.1:{port} refuses the password' in wrong and "'guarded'" in wrong and 'PGPASSWORD' in wrong
    assert 'PGPASSWORD' in refused(f'postgresql://guarded@127.0.0.1:{port}/postgres')
    assert "no database 'nowhere'" in refused(f'postgresql://treadle@127.0.0.1:{port}/nowhere')
    assert "no role 'nobody'" in refused(f'postgresql://nobody@127.0.0.1:{port}/postgres')
    assert 'listens at 127.0.0.1:1 ' in refused('postgresql://treadle:secret@127.0.0.1:1/x')
    assert 'is not known' in refused('postgresql://treadle:secret@nowhere.invalid/x?connect_timeout=5')
    assert 'TLS' in refused(f'postgresql://treadle@127.0.0.1:{port}/postgres?sslmode=require')


def test_a_server_that_does_not_answer_is_given_up_within_the_connect_time_out(postgres_store: str) -> None:
    with Proxy.of(postgres_store) as proxy:
        proxy.cut()
        begun = time.monotonic()
        assert 'did not answer in time' in refused(f'{proxy.through(postgres_store)}?connect_timeout=2')
        assert time.monotonic() - begun < 20


def test_a_database_without_a_store_and_one_of_another_application(postgres: str) -> None:
    location = locate(postgres)
    with pytest.raises(StoreUnavailable, match='is empty; it becomes a store'):
        read(postgres)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute('CREATE TABLE process (song text)')  # theirs, and in nobody's way
        location.ensure_schema()
        assert read(postgres) == []
        connection.execute('DROP SCHEMA treadle CASCADE')
        connection.execute('CREATE SCHEMA treadle')
        connection.execute('CREATE TABLE treadle.process (song text)')
    with pytest.raises(StoreUnavailable, match=r"of another application .*'process'.*left as it is"):
        location.ensure_schema()


def test_an_older_store_is_upgraded_only_by_the_command(postgres_store: str, rigs: Any) -> None:
    with psycopg.connect(postgres_store, autocommit=True) as connection:
        connection.execute("UPDATE treadle.alembic_version SET version_num = '0001'")
        try:
            for attempt in (locate(postgres_store).ensure_schema, lambda: read(postgres_store)):
                with pytest.raises(StoreUnavailable, match=r'older Treadle.*treadle store upgrade --store'):
                    attempt()
        finally:
            connection.execute('UPDATE treadle.alembic_version SET version_num = %s', [HEAD])


def test_a_role_that_may_make_no_tables_is_told_what_it_lacks(postgres: str, postgres_server: Any) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute('CREATE ROLE guest LOGIN')
        name = connection.info.dbname
    url = f'postgresql://guest@127.0.0.1:{postgres_server.port}/{name}'
    with pytest.raises(StoreReadOnly, match=r"role 'guest' may not.*GRANT CREATE ON DATABASE"):
        locate(url).ensure_schema()


def test_many_engines_make_the_tables_once(postgres: str) -> None:
    program = 'import sys; from treadle.engine.store.location import locate; locate(sys.argv[1]).ensure_schema()'
    command = [sys.executable, '-P', '-c', program, postgres]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(each.communicate(timeout=PATIENCE)[1], each.returncode) for each in started] == [(b'', 0)] * 4
    assert read(postgres) == []


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_commit_that_is_answered_is_on_a_disk(postgres_store: str) -> None:
    with psycopg.connect(postgres_store, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        try:
            with connect(parse_url(postgres_store)) as ours:
                assert ours.execute('SHOW synchronous_commit').fetchone() == ('on',)
        finally:
            connection.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')


def test_a_session_that_was_ended_while_nothing_was_written_is_opened_anew(rigs: Any, postgres_store: str) -> None:
    with rigs.Rig(postgres_store) as rig:
        fence = rig.running()
        end_session(postgres_store, *sessions(postgres_store, 'rig'), *sessions(postgres_store, 'treadle'))
        assert isinstance(rig.commit(rigs.proceed(fence)), Held)
        assert rig.row(fence.pid).visit == 1  # and the reader found another connection, too


def test_a_transaction_whose_session_was_ended_is_written_again_once(rigs: Any, postgres_store: str) -> None:
    with rigs.Rig(postgres_store) as rig:
        fence, attempts = rig.running(), []

        def work(transaction: Any) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                end_session(postgres_store, *sessions(postgres_store, 'rig'))

        unit, _ = rig.together(rigs.proceed(fence), work)
        assert isinstance(unit, Held) and len(attempts) == 2
        assert (rig.row(fence.pid).visit, rig.row(fence.pid).version) == (1, 1)


def test_the_lost_answer_to_a_commit_that_was_made_is_looked_up(rigs: Any, postgres_store: str) -> None:
    with Proxy.of(postgres_store) as proxy, rigs.Rig(proxy.through(postgres_store)) as rig:
        fence, attempts = rig.running(), []
        child = rig.record(parent=fence.pid, call_visit=0, call_number=0)
        gate = rig.gate()
        unit = rig.store.commit(rigs.proceed(fence, create=(child,)))
        other = rig.store.call(lambda transaction: attempts.append(1))
        lost = proxy.lose_reply(b'COMMIT')
        batches = rig.store.batches
        gate.set()  # the gate's own commit is the one
        assert isinstance(unit.result(PATIENCE), Held) and other.result(PATIENCE) is None
        assert lost.is_set() and attempts == [1] and rig.store.batches > batches
        again = proxy.lose_reply(b'COMMIT')
        verdict = rig.commit(rigs.proceed(later(fence, 1), visit=2))
        assert again.is_set() and isinstance(verdict, Held) and verdict.version == 2
        assert (rig.row(fence.pid).visit, rig.row(child.pid).state) == (2, 'created')


def test_a_commit_that_never_arrived_is_made_again(rigs: Any, postgres_store: str) -> None:
    with rigs.Rig(postgres_store) as rig:
        fence = rig.running()
        commit, ended = rig.database.commit, []

        def lose(self: Any = rig.database) -> None:
            if not ended:
                ended.extend(sessions(postgres_store, 'rig'))
                end_session(postgres_store, *ended)
            commit()

        rig.database.commit = lose
        assert isinstance(rig.commit(rigs.proceed(fence)), Held) and ended
        assert (rig.row(fence.pid).visit, rig.row(fence.pid).version) == (1, 1)


#: Locks all processes, and says so; then does more, and waits for a word before it writes.
HOLDER = """
import sys
from treadle.engine.store.location import locate
database = locate(sys.argv[1]).make_database(name='stands', lease=1.0)
database.connect()
cursor = database.begin()
cursor.execute('SELECT FROM process FOR UPDATE')
print('holds', flush=True)
if len(sys.argv) > 2:
    cursor.execute(sys.argv[2])
sys.stdin.readline()
cursor.execute('UPDATE process SET visit = 99')
"""
#: Much that is to be read, for longer than this machine's buffers and the other one's can take.
MUCH = "SELECT repeat('x', 1000), pg_sleep(0.00001) FROM generate_series(1, 1000000)"


@pytest.mark.parametrize(
    ('more', 'state', 'end'),
    [
        ([], 'idle in transaction', 'idle-in-transaction timeout'),
        ([MUCH], 'active', 'server closed the connection|Connection timed out|reset by peer'),
    ],
    ids=['between statements', 'while it reads'],
)
def test_a_writer_that_stands_still_in_a_transaction_holds_its_rows_for_a_share_of_its_lease(
    rigs: Any, postgres_store: str, more: list[str], state: str, end: str
) -> None:
    with rigs.Rig(postgres_store) as rig, psycopg.connect(postgres_store, autocommit=True) as observer:
        fence = rig.running()
        other = subprocess.Popen(
            [sys.executable, '-P', '-c', HOLDER, postgres_store, *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert other.stdout is not None and other.stdout.readline() == 'holds\n'
            wait_for_state(observer, 'stands', state)
            os.kill(other.pid, signal.SIGSTOP)
            assert isinstance(rig.commit(rigs.proceed(fence)), Held)
            os.kill(other.pid, signal.SIGCONT)
            _, err = other.communicate('\n', timeout=PATIENCE)
            assert re.search(end, err), err
        finally:
            other.kill()
            other.communicate()
        assert rig.row(fence.pid).visit == 1


@pytest.mark.parametrize('written', [1, 2], ids=['the new rows', 'the moves'])
def test_a_writer_that_is_cut_off_in_a_batch_holds_its_rows_for_a_share_of_its_lease(
    rigs: Any, postgres_store: str, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    run_each, cut, calls = PostgresqlWording.run_each, threading.Event(), itertools.count(1)

    def then_cut(*arguments: Any) -> None:
        run_each(*arguments)
        if threading.current_thread().name == one.store.name and next(calls) == written:
            proxy.cut()
            cut.set()

    with (
        Proxy.of(postgres_store) as proxy,
        rigs.Rig(proxy.through(postgres_store), lease=1.0, name='cut off') as one,
        rigs.Rig(postgres_store) as two,
    ):
        fence = one.running()
        monkeypatch.setattr(PostgresqlWording, 'run_each', then_cut)
        unit = one.store.commit(rigs.proceed(fence, create=(one.record(), one.record())))
        assert cut.wait(PATIENCE)
        assert two.do(lambda transaction: declare_dead(transaction, one.engine_id, seen=None, max_crashes=5)) == []
        assert two.row(fence.pid).owner is None
        proxy.heal()
        assert isinstance(unit.result(PATIENCE), Lost)
        assert two.reader.counts() == [('running', False, 1)], 'nothing of the batch is in'


def test_a_server_that_is_restarted_under_load_loses_and_doubles_nothing(make_postgres: Any, rigs: Any) -> None:
    server = make_postgres()
    url = server.create_database('runs')
    with rigs.Rig(url) as rig:
        reader = rig.location.open_reader(patience=PATIENCE)
        stop, errors, read = threading.Event(), [], [0]

        def read_on() -> None:
            while not stop.is_set():
                try:
                    reader.counts()
                    read[0] += 1
                except StoreError as error:
                    errors.append(error)

        thread = threading.Thread(target=read_on)
        thread.start()
        try:
            fences = [rig.running() for _ in range(10)]
            futures = []
            for round_ in range(3):
                futures += [rig.store.commit(rigs.proceed(later(fence, round_), visit=round_ + 1)) for fence in fences]
                server.kill() if round_ == 1 else server.stop()
                futures += [rig.store.commit(Unit(create=(rig.record(),))) for _ in range(20)]
                server.start()
                assert all(isinstance(future.result(PATIENCE), Held) for future in futures)
        finally:
            stop.set()
            thread.join()
            reader.close()
        assert errors == [] and read[0] > 0
        rows = rig.reader.query()
        assert len(rows) == 10 + 3 * 20
        assert {(row.visit, row.version) for row in rows if row.state == 'running'} == {(3, 3)}


def test_a_write_is_given_up_at_once_when_the_engine_is_to_stop(make_postgres: Any, rigs: Any) -> None:
    server = make_postgres()
    rig = rigs.Rig(server.create_database('runs'))
    with contextlib.suppress(StoreError), rig:
        fence = rig.running()
        server.stop()
        future = rig.store.commit(rigs.proceed(fence))
        rig.store.request_stop()
        assert isinstance(future.exception(PATIENCE), StoreUnavailable)


def test_a_command_does_not_wait_for_a_server_that_is_away(make_postgres: Any) -> None:
    server = make_postgres()
    location = locate(server.create_database('runs'))
    location.ensure_schema()
    server.stop()
    begun = time.monotonic()
    for attempt in (lambda: write_once(location, lambda transaction: None), location.open_reader().counts):
        with pytest.raises(StoreUnavailable, match='start it, or correct host and port'):
            attempt()
    assert time.monotonic() - begun < 10


# -- what others do ----------------------------------------------------------------------------------------------------


def test_what_others_commit_is_noticed_and_what_we_commit_is_not(
    rigs: Any, postgres_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, 'LOOK', 0.0)
    with rigs.Rig(postgres_store) as one, rigs.Rig(postgres_store) as two:
        look = lambda: one.database.changed_elsewhere()  # noqa: E731

        def settled() -> bool:  # autovacuum and other tests' databases count as well
            return any(not look() for _ in range(100))

        assert settled()
        seen = Snapshot(next=one.database._snapshot.next, open=0)
        one.commit(Unit(create=(one.record(),)))
        assert settled() and one.database._snapshot.next > seen.next
        two.commit(Unit(create=(two.record(pid=500),)))
        assert look()


def test_snapshots_count_what_has_ended() -> None:
    before = Snapshot.parse('740:745:741,743')
    assert before == Snapshot(next=745, open=2)
    assert Snapshot.parse('745:745:').ended_since(before) == 2
    assert Snapshot.parse('741:746:741,743,745').ended_since(before) == 0


def test_lock_files_are_this_users_and_named_after_the_store(
    postgres_store: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(tmp_path))
    folder = locate(postgres_store).lock_folder()
    assert folder == locate(f'{postgres_store}?connect_timeout=3').lock_folder()
    assert folder.parent.parent == tmp_path and folder.parent.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o777)
    with pytest.raises(StoreUnavailable, match='others can write to it'):
        locate(postgres_store).lock_folder()


@pytest.fixture(autouse=True)
def _no_password(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith('PG')]:
        monkeypatch.delenv(name)
    yield
