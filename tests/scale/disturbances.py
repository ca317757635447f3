"""What goes wrong: engines die, stand still or are cut off; services are away, forget, or say everything twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

from provision import ServiceError
from scale.company import Company, Disturbance, Member
from scale.messages import Doubler

#: How often connections are closed before queues are purged.
CLOSED = 0.02


class WorkerKilled(Disturbance):
    """A worker gets SIGKILL, and another one takes its place."""

    pause = (0.5, 1.5)
    fails_engines = True

    def once(self, company: Company, rng: random.Random) -> None:
        """Kill one of them."""
        member = rng.choice(list(company.workers.values()))
        company.kill(member)
        company.hire(member.name)


class WorkerStopped(Disturbance):
    """A worker is stopped until another one has taken over from it, then goes on."""

    fails_engines = True

    def once(self, company: Company, rng: random.Random) -> None:
        """Stop one of them."""
        member = rng.choice(list(company.workers.values()))
        company.failed.add(member.os_pid)
        declared = _dead(company, member)
        _stop(company, member)
        try:
            company.wait_until(lambda: _dead(company, member) > declared, f'{member.name} is declared dead')
        finally:
            os.kill(member.os_pid, signal.SIGCONT)


class WorkerCutOff(Disturbance):
    """A worker's packets go nowhere until another one has taken over from it; then the network is whole again.

    :param member: the worker, whose services are behind the proxies.
    :param proxies: one for each of its services.
    """

    fails_engines = True

    def __init__(self, member: Member, proxies: list[Any]) -> None:
        self._member = member
        self._proxies = proxies

    def once(self, company: Company, rng: random.Random) -> None:
        """Cut all its connections, in any order."""
        company.failed.add(self._member.os_pid)
        lives = _lives(company, self._member)
        declared = _dead(company, self._member)
        for proxy in rng.sample(self._proxies, len(self._proxies)):
            proxy.cut()
        try:
            company.wait_until(
                lambda: _dead(company, self._member) > declared, 'who is cut off is declared dead'
            )
        finally:
            for proxy in self._proxies:
                proxy.heal()
        company.wait_until(lambda: _lives(company, self._member) > lives, 'who was cut off goes on')


class BrokerKilled(Disturbance):
    """RabbitMQ gets SIGKILL, and is started again."""

    pause = (0.5, 2.0)
    loses_messages = True

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def once(self, company: Company, rng: random.Random) -> None:
        """Kill it."""
        self._broker.kill()
        time.sleep(rng.uniform(0, 0.5))
        self._broker.start()


class QueuesPurged(Disturbance):
    """All queues of a virtual host are emptied, many times a second.

    A message that a consumer waits for never lies in a queue. So all connections are closed now and then, which puts
    back what is not acknowledged, and has messages lie there until the last of their consumers are back.

    :ivar purged: how many messages were thrown away.
    """

    pause = (0.005, 0.02)
    loses_messages = True

    def __init__(self, broker: Any, vhost: str) -> None:
        self.purged = 0
        self._broker = broker
        self._vhost = vhost
        queues = f'rabbit_amqqueue:list(<<"{vhost}">>)'
        # One that is gone by then cannot be purged.
        self._purge = f'lists:sum([N || Q <- {queues}, {{ok, N}} <- [catch rabbit_amqqueue:purge(Q)]])'

    def once(self, company: Company, rng: random.Random) -> None:
        """Purge."""
        with contextlib.suppress(ServiceError):  # a broker of a busy machine may not answer in time
            if rng.random() < CLOSED:
                self._broker.close_connections(self._vhost)
            self.purged += int(self._broker.evaluate(self._purge))


class MessagesDoubled(Disturbance):
    """Every message is delivered twice.

    :param url: of the virtual host.
    """

    def __init__(self, broker: Any, vhost: str, url: str) -> None:
        self._broker = broker
        self._vhost = vhost
        self.doubler = Doubler(url)

    def begin(self, company: Company) -> None:
        """Begin to double."""
        self._broker.evaluate(f'rabbit_trace:start(<<"{self._vhost}">>)')
        self.doubler.start()

    def end(self, company: Company) -> None:
        """Double no more."""
        self.doubler.stop()
        self._broker.evaluate(f'rabbit_trace:stop(<<"{self._vhost}">>)')


class DatabaseStopped(Disturbance):
    """PostgreSQL is stopped, with its sessions ended or all of its processes just ended, and started again.

    :param pause: seconds between two times, at least and at most.
    :param longest: seconds that it is away, at most, beside what it takes to start.
    """

    def __init__(self, database: Any, *, pause: tuple[float, float], longest: float) -> None:
        self.pause = pause
        self._database = database
        self._longest = longest

    def once(self, company: Company, rng: random.Random) -> None:
        """Stop it: fast, or immediately."""
        self._database.daemons[-1].stop(number=rng.choice([signal.SIGINT, signal.SIGQUIT]))
        time.sleep(rng.uniform(0, self._longest))
        self._database.start()


def _lives(company: Company, member: Member) -> int:
    sql = f'SELECT count(*) FROM engine WHERE os_pid = {member.os_pid}'
    return int(company.ledger.rows(sql)[0][0])


def _dead(company: Company, member: Member) -> int:
    sql = f"SELECT count(*) FROM engine WHERE os_pid = {member.os_pid} AND ended = 'dead'"
    return int(company.ledger.rows(sql)[0][0])


def _stop(company: Company, member: Member) -> None:
    """SIGSTOP; with SQLite not in the middle of a transaction, where it would keep everybody from writing."""
    while True:
        os.kill(member.os_pid, signal.SIGSTOP)
        while not _is_stopped(member.os_pid):
            time.sleep(0)
        if not company.store.startswith('sqlite:') or _can_write(company.store.removeprefix('sqlite:///')):
            return
        os.kill(member.os_pid, signal.SIGCONT)


def _can_write(path: str) -> bool:
    connection = sqlite3.connect(path, timeout=0.2, isolation_level=None)
    try:
        connection.execute('BEGIN IMMEDIATE')
        return True
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def _is_stopped(os_pid: int) -> bool:
    """Whether all threads of an OS process stand still; a thread may end while they are looked at."""
    try:
        stats = [(task / 'stat').read_text() for task in Path(f'/proc/{os_pid}/task').iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return {stat.rpartition(')')[2].split()[0] for stat in stats} == {'T'}
