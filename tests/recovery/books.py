"""Reads a store and a file of effects as an auditor would: with plain SQL, and trusting no engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from treadle.engine.store.location import locate

TERMINAL = ('finished', 'excepted', 'killed')


@dataclasses.dataclass(frozen=True)
class Effect:
    """One body that executed."""

    os_pid: int
    pid: int
    visit: int
    epoch: int
    what: str


@dataclasses.dataclass
class Place:
    """One store with the files that its runs write.

    :ivar url: the store's; by default that of a file in the folder.
    """

    folder: Path
    url: str = ''
    store: Path = dataclasses.field(init=False)
    effects_path: Path = dataclasses.field(init=False)
    results_path: Path = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.store = self.folder / 'store.db'
        self.url = self.url or f'sqlite:///{self.store}'
        self.effects_path = self.folder / 'effects'
        self.results_path = self.folder / 'results'

    @property
    def order(self) -> dict[str, str]:
        """What a run of the script is told."""
        return {'store': self.url, 'effects': str(self.effects_path), 'results': str(self.results_path)}

    @property
    def effects(self) -> list[Effect]:
        """What has executed, in its order."""
        if not self.effects_path.exists():
            return []
        fields = [line.split(' ', 4) for line in self.effects_path.read_text().splitlines()]
        return [Effect(int(a), int(b), int(c), int(d), what) for a, b, c, d, what in fields]

    @property
    def results(self) -> Any:
        """What the last run that came to its end has written."""
        return json.loads(self.results_path.read_text())

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """A query on what is committed."""
        if self.url.startswith('postgresql:'):
            with psycopg.connect(self.url, options='-csearch_path=treadle') as server:
                return server.execute(sql.replace('?', '%s'), parameters or None).fetchall()
        with contextlib.closing(sqlite3.connect(self.store)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def committed(self) -> dict[int, tuple[int, bool]]:
        """For each process, how many of its steps are committed, and whether it has ended."""
        if self.url.startswith('sqlite:') and not (
            self.store.exists() and self.rows("SELECT 1 FROM sqlite_master WHERE name = 'process'")
        ):
            return {}
        rows = self.rows('SELECT pid, visit, state FROM process')
        return {pid: (visit, state in TERMINAL) for pid, visit, state in rows}

    def family(self) -> Counter[Any]:
        """All processes, by what they are and whose children they are, without their pids."""
        rows = self.rows(
            'SELECT pid, parent, process_label, inputs, state, exit_status, exit_message, outputs, visit FROM process'
        )
        names = {row[0]: (row[2], row[3]) for row in rows}
        return Counter((names.get(row[1], row[1]), *row[2:]) for row in rows)

    def logs(self) -> Counter[Any]:
        """What the processes have logged, by what they are; not what was wanted of them, perhaps more than once."""
        return Counter(
            self.rows(
                'SELECT process_label, inputs, level, message FROM log JOIN process ON process.pid = log.pid '
                "WHERE logger != 'treadle.intents'"
            )
        )


class Watch:
    """Sees to it, over many kills of runs on one place, that nothing that was committed executes again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._seen = 0
        self._committed: dict[int, tuple[int, bool]] = {}
        self.kills = 0

    def after_run(self) -> None:
        """A run has ended, however it did."""
        effects = self._place.effects
        again = [
            effect
            for effect in effects[self._seen :]
            if effect.pid in self._committed
            and (self._committed[effect.pid][1] or effect.visit < self._committed[effect.pid][0])
        ]
        assert not again, f'executed although their checkpoints were committed: {again}'
        runs = Counter((effect.os_pid, effect.pid, effect.visit, effect.what) for effect in effects[self._seen :])
        twice = [run for run, count in runs.items() if count > 1]
        assert not twice, f'executed twice by one run: {twice}'
        self._seen = len(effects)
        now = self._place.committed()
        lost = self._committed.keys() - now.keys()
        assert not lost, f'committed processes are gone: {lost}'
        back = [pid for pid, (visit, ended) in self._committed.items() if (visit, ended) > now[pid]]
        assert not back, f'committed steps are gone: {back}'
        self._committed = now


def audit(place: Place, allowed_excepted: Callable[[str], bool] = lambda label: False) -> None:
    """Nothing is unfinished, owned, orphaned or left over."""
    rows = place.rows('SELECT pid, process_label, state, owner, parent, exception FROM process')
    assert [row for row in rows if row[2] not in TERMINAL] == []
    assert [row for row in rows if row[3] is not None] == [], 'processes are still claimed'
    assert [row for row in rows if row[2] == 'killed'] == []
    assert [row for row in rows if row[2] == 'excepted' and not allowed_excepted(row[1])] == []
    pids = {row[0] for row in rows}
    assert {row[4] for row in rows if row[4] is not None} <= pids, 'children without parents'
    assert place.rows('SELECT * FROM awaiting') == []
    assert {row[0] for row in place.rows('SELECT DISTINCT pid FROM log')} <= pids, 'logs without processes'
    ends = [row[0] for row in place.rows('SELECT ended FROM engine ORDER BY id')]
    assert ends[-1] == 'stopped' and set(ends) <= {'stopped', 'dead'}, ends
    assert list(locate(place.url).lock_folder().glob('*')) == [], 'lock files are left'
    if place.url.startswith('sqlite:'):
        assert place.rows('PRAGMA integrity_check') == [('ok',)]
