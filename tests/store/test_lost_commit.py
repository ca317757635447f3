"""A commit whose answer is lost is in, or it is not; the engine finds out which, and does not guess."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from support.proxy import Proxy
from treadle.engine import Engine, OutcomeUnknown
from treadle.engine.store.control import write_once
from treadle.engine.store.location import locate
from treadle.engine.store.postgresql import database as module
from treadle.engine.store.postgresql.connection import connect
from treadle.engine.store.postgresql.errors import is_lost, translate_error
from treadle.engine.store.postgresql.server import parse_url
from treadle.engine.store.records import Held
from treadle.engine.store.transaction import Transaction

PATIENCE = 30.0

pytestmark = pytest.mark.timeout(120)


def end_sessions(url: str, database: str) -> None:
    """Have the server end all sessions of a database."""
    with psycopg.connect(url) as other:
        other.execute(
            'SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s '
            'AND pid != pg_backend_pid()',
            [database],
        )


def before_next_commit(rig: Any, action: Callable[[], object]) -> threading.Event:
    """Have this done right before the next commit is sent; set when it was."""
    commit, done = rig.database.commit, threading.Event()

    def then_commit() -> None:
        if not done.is_set():
            action()
            done.set()
        commit()

    rig.database.commit = then_commit
    return done


@contextmanager
def said(word: str) -> Iterator[threading.Event]:
    """Set when something with this word in it was logged about writing."""
    event = threading.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if word in record.getMessage():
                event.set()

    ear, store = Ear(), logging.getLogger('treadle.engine.store')
    level = store.level
    store.setLevel(logging.DEBUG)
    store.addHandler(ear)
    try:
        yield event
    finally:
        store.removeHandler(ear)
        store.setLevel(level)


def test_a_transaction_of_a_crashed_server_whose_number_another_one_was_given_is_written_again(
    make_postgres: Callable[..., Any],
) -> None:
    server = make_postgres()
    attempts = 0

    def write(transaction: Transaction) -> int:
        nonlocal attempts
        attempts += 1
        first_free = transaction.reserve_pids(10)
        if attempts == 1:
            # Nothing of the transaction is on the disk yet, so its number is free again, and is taken.
            server.daemons[-1].stop(number=signal.SIGQUIT)
            server.start()
            for _ in range(10):
                server.execute('BEGIN; SELECT pg_current_xact_id(); COMMIT;')
        return first_free

    with Engine(server.url()) as engine:
        server.execute('CHECKPOINT')
        first_free = engine.core.store.call(write).result(PATIENCE)
        assert attempts == 2
        assert engine.core.store.call(lambda each: each.reserve_pids(1)).result(PATIENCE) == first_free + 1


# -- over TLS, where libpq has words of its own ------------------------------------------------------------------------


@pytest.fixture
def tls_url(make_postgres: Callable[..., Any], tls_settings: dict[str, str]) -> str:
    url: str = make_postgres(settings=tls_settings).create_database('runs')
    return f'{url}?sslmode=require'


@pytest.mark.parametrize('resets', [True, False], ids=['reset', 'ended'])
def test_the_lost_answer_to_a_commit_over_tls_is_looked_up(rigs: Any, tls_url: str, resets: bool) -> None:
    with Proxy.of(tls_url) as proxy, rigs.Rig(proxy.through(tls_url)) as rig:
        fence, attempts, lost = rig.running(), [], []
        child = rig.record(parent=fence.pid, call_visit=0, call_number=0)

        def work(transaction: Transaction) -> None:
            attempts.append(1)
            # Nothing can be read of what flows, but of all requests the next one is the commit.
            before_next_commit(rig, lambda: lost.append(proxy.lose_reply(b'', resets=resets)))

        unit, other = rig.together(rigs.proceed(fence, create=(child,)), work)
        assert isinstance(unit, Held) and other is None
        assert lost[0].is_set() and attempts == [1]
        row = rig.row(fence.pid)
        assert (row.visit, row.version, rig.row(child.pid).state) == (1, 1, 'created')


def test_a_commit_over_tls_that_never_arrived_is_made_again(rigs: Any, tls_url: str) -> None:
    with Proxy.of(tls_url) as proxy, rigs.Rig(proxy.through(tls_url)) as rig:
        fence = rig.running()
        ended = before_next_commit(rig, proxy.reset)
        assert isinstance(rig.commit(rigs.proceed(fence)), Held) and ended.is_set()
        assert (rig.row(fence.pid).visit, rig.row(fence.pid).version) == (1, 1)


@pytest.mark.parametrize('ended', ['by the server', 'by the network'])
def test_a_session_over_tls_that_was_ended_is_opened_anew(rigs: Any, tls_url: str, ended: str) -> None:
    with Proxy.of(tls_url) as proxy, rigs.Rig(proxy.through(tls_url)) as rig:
        fence = rig.running()
        assert rig.row(fence.pid).visit == 0
        if ended == 'by the network':
            assert proxy.reset() > 1
        else:
            end_sessions(tls_url, 'runs')
        assert isinstance(rig.commit(rigs.proceed(fence)), Held)
        assert rig.row(fence.pid).visit == 1  # and the reader found another connection, too


# -- while nobody answers ----------------------------------------------------------------------------------------------


class Doorway:
    """A server that may let nobody into one of its databases, at `url`."""

    def __init__(self, server: Any) -> None:
        self.url: str = server.create_database('runs')
        self.server = server
        self._access = server._data / 'pg_hba.conf'
        self._for_all = self._access.read_text()

    def shut(self) -> None:
        self._let_in(self._for_all.replace(' all all ', ' postgres all '))
        while self._is_open():
            pass

    def open(self) -> None:
        self._let_in(self._for_all)
        while not self._is_open():
            pass

    def _let_in(self, access: str) -> None:
        self._access.write_text(access)
        self.server.execute('SELECT pg_reload_conf()')

    def _is_open(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError as error:
            assert 'no pg_hba.conf entry' in str(error)
            return False
        return True


@pytest.fixture
def unanswered(make_postgres: Callable[..., Any], rigs: Any) -> Iterator[Any]:
    """A rig whose next commit is made, and gets no answer, and nobody can be asked; what is written, and the door."""
    door = Doorway(make_postgres())
    with Proxy.of(door.url) as proxy, rigs.Rig(proxy.through(door.url)) as rig, said('cannot be asked') as asked:
        fence, attempts = rig.running(), []

        def lose() -> None:
            proxy.lose_reply(b'COMMIT')
            door.shut()

        def work(transaction: Transaction) -> None:
            attempts.append(1)

        gate = rig.gate()
        before_next_commit(rig, lambda: before_next_commit(rig, lose))  # the gate has one of its own
        futures = [rig.store.commit(rigs.proceed(fence)), rig.store.call(work)]
        gate.set()
        assert asked.wait(PATIENCE), futures
        yield rig, futures, attempts, door
        assert attempts == [1]
        assert (rig.row(fence.pid).visit, rig.row(fence.pid).version) == (1, 1)


def test_a_server_that_lets_nobody_in_is_asked_again_what_became_of_a_commit(unanswered: Any) -> None:
    _, futures, _, door = unanswered
    door.open()
    unit, other = (future.result(PATIENCE) for future in futures)
    assert isinstance(unit, Held) and other is None


def test_what_may_be_in_is_not_written_again_when_the_engine_stops(unanswered: Any) -> None:
    rig, futures, _, door = unanswered
    rig.store.request_stop()
    errors = [future.exception(PATIENCE) for future in futures]
    assert all(isinstance(error, OutcomeUnknown) for error in errors), errors
    assert 'not known' in str(errors[0]) and 'pg_hba.conf' in str(errors[0])
    door.open()


def test_a_command_does_not_ask_for_ever(make_postgres: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'ASK_PATIENCE', 0.0)
    door = Doorway(make_postgres())
    location = locate(door.url)
    location.ensure_schema()

    def work(transaction: Transaction) -> None:
        transaction.reserve_pids(1)
        door.shut()
        end_sessions(door.server.url('postgres'), 'runs')

    with pytest.raises(OutcomeUnknown, match='not written again'):
        write_once(location, work)


def failure(url: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        connect(parse_url(url))
    return caught.value


def test_a_name_that_is_not_known_may_come_to_be() -> None:
    error = failure('postgresql://treadle@nowhere.invalid/x?connect_timeout=5')
    assert is_lost(error) and 'is not known' in str(translate_error(error, parse_url('postgresql://nowhere.invalid/x')))


def test_who_is_refused_by_one_host_waits_for_the_other(postgres_server: Any) -> None:
    here, away = f'127.0.0.1:{postgres_server.port}', '127.0.0.1:1'
    assert not is_lost(failure(f'postgresql://nobody@{here}/postgres'))
    assert not is_lost(failure(f'postgresql://nobody@{here},{here}/postgres'))
    for hosts in (f'{here},{away}', f'{away},{here}'):
        assert is_lost(failure(f'postgresql://nobody@{hosts}/postgres'))


# -- standbys ----------------------------------------------------------------------------------------------------------


def become_standby(server: Any) -> None:
    """Restart the server as one that takes what a primary sends, and nothing else."""
    server.stop()
    (server._data / 'standby.signal').touch()
    server.start()


def test_a_standby_does_not_know_what_became_of_a_transaction(make_postgres: Callable[..., Any], rigs: Any) -> None:
    server = make_postgres()
    url = server.create_database('runs')
    with rigs.Rig(url) as rig:
        rig.store.stop(PATIENCE)
        become_standby(server)
        database = rig.location.make_database()
        database.connect()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            database.begin()
        assert database.is_busy(caught.value)
        known, unheard_of = rig.database._transaction_id, rig.database._transaction_id + 1_000_000

        def answer(number: int) -> str | None:
            database._transaction_id = number
            return database._ask_for_end()

        assert (answer(known), answer(unheard_of)) == (None, None)
        server.execute('SELECT pg_promote()')
        assert (answer(known), answer(unheard_of)) == ('committed', 'aborted')
        database.close()


def test_a_standby_is_waited_for_until_it_is_the_primary(make_postgres: Callable[..., Any], rigs: Any) -> None:
    server = make_postgres()
    with rigs.Rig(server.create_database('runs')) as rig:
        fence, answers, asked = rig.running(), [], threading.Event()
        ask = rig.database._ask_for_end

        def ask_for_end() -> Any:
            answers.append(ask())
            asked.set()
            return answers[-1]

        rig.database._ask_for_end = ask_for_end
        before_next_commit(rig, lambda: become_standby(server))
        unit = rig.store.commit(rigs.proceed(fence))
        assert asked.wait(PATIENCE), unit
        server.execute('SELECT pg_promote()')
        assert isinstance(unit.result(PATIENCE), Held)
        assert answers[0] is None and answers[-1] == 'aborted'
        assert rig.row(fence.pid).version == 1


def test_a_write_waits_for_a_standby_to_become_the_primary(make_postgres: Callable[..., Any], rigs: Any) -> None:
    server = make_postgres()
    with rigs.Rig(server.create_database('runs')) as rig, said('only reads') as refused:
        fence = rig.running()
        become_standby(server)
        unit = rig.store.commit(rigs.proceed(fence))
        assert refused.wait(PATIENCE)
        server.execute('SELECT pg_promote()')
        assert isinstance(unit.result(PATIENCE), Held)


def test_of_several_hosts_the_primary_is_wanted(
    postgres_server: Any, make_postgres: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('PGTARGETSESSIONATTRS', raising=False)
    wanted = lambda url: parse_url(url).parameters.get('target_session_attrs')  # noqa: E731
    assert wanted('postgresql://a,b/runs') == wanted('postgresql:///runs?host=a,b') == 'read-write'
    assert wanted('postgresql://a/runs') is None
    assert wanted('postgresql://a,b/runs?target_session_attrs=any') == 'any'
    standby = make_postgres()
    become_standby(standby)
    hosts = f'127.0.0.1:{standby.port},127.0.0.1:{postgres_server.port}'
    with connect(parse_url(f'postgresql://treadle@{hosts}/postgres')) as ours:
        assert ours.info.port == postgres_server.port
    monkeypatch.setenv('PGTARGETSESSIONATTRS', 'standby')
    assert wanted('postgresql://a,b/runs') is None
