"""What goes wrong: engines that die or stand still."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from pathlib import Path

from company import Company, Member


class WorkerKilled:
    """A worker gets SIGKILL, and another one takes its place."""

    pause = (0.2, 0.6)
    fails_engines = True

    def once(self, company: Company, rng: random.Random) -> None:
        """Kill one of them."""
        member = rng.choice(list(company.workers.values()))
        company.kill(member)
        company.hire(member.name)


class WorkerStopped:
    """A worker is stopped until another one has taken over from it, then goes on."""

    pause = (0.2, 0.6)
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


def _dead(company: Company, member: Member) -> int:
    sql = f"SELECT count(*) FROM engine WHERE os_pid = {member.os_pid} AND ended = 'dead'"
    return int(company.ledger.rows(sql)[0][0])


def _stop(company: Company, member: Member) -> None:
    """SIGSTOP; with SQLite not in the middle of a transaction, where it would keep everybody from writing."""
    while True:
        os.kill(member.os_pid, signal.SIGSTOP)
        while {_state_of(task) for task in Path(f'/proc/{member.os_pid}/task').iterdir()} != {'T'}:
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


def _state_of(task: Path) -> str:
    return (task / 'stat').read_text().rpartition(')')[2].split()[0]
