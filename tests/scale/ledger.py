"""Compares the book of effects with the store as an auditor would: with plain SQL, and trusting no engine."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TERMINAL = ('finished', 'excepted', 'killed')


@dataclasses.dataclass(frozen=True)
class Effect:
    """One step that has begun to act.

    :ivar at: nanoseconds since boot.
    """

    at: int
    os_pid: int
    pid: int
    visit: int
    epoch: int
    what: str


class Ledger:
    """The store at ``url`` and the file of effects."""

    def __init__(self, url: str, book: Path) -> None:
        self.url = url
        self._book = book

    @property
    def effects(self) -> list[Effect]:
        """What was done, in the order in which it began."""
        lines = self._book.read_text().splitlines() if self._book.exists() else []
        fields = [line.split(' ', 5) for line in lines]
        return [Effect(int(a), int(b), int(c), int(d), int(e), what) for a, b, c, d, e, what in fields]

    def rows(self, sql: str) -> list[Any]:
        """A query on what is committed."""
        with self._connect() as connection:
            return list(connection.execute(sql).fetchall())

    @contextlib.contextmanager
    def _connect(self) -> Iterator[Any]:
        if urlsplit(self.url).scheme == 'sqlite':
            connection: Any = sqlite3.connect(self.url.removeprefix('sqlite:///'))
        else:
            import psycopg

            connection = psycopg.connect(
                self.url, autocommit=True, connect_timeout=10, options='-c search_path=treadle'
            )
        try:
            yield connection
        finally:
            connection.close()

    # -- what has to be true at the end ----------------------------------------------------------------------

    def dead(self) -> set[int]:
        """The OS pids of the engines that were declared dead."""
        return {row[0] for row in self.rows("SELECT os_pid FROM engine WHERE ended = 'dead'")}

    def numbers(self) -> Counter[int]:
        """The numbers of the orders that are there, each as often as it was taken."""
        rows = self.rows('SELECT process_label, inputs FROM process WHERE parent IS NULL')
        return Counter(json.loads(inputs)['n'] for label, inputs in rows if label != 'Gate')

    def check_rows(self, expected: Counter[str]) -> None:
        """Everything that was ordered is there once and finished well, and nothing is left over.

        :param expected: how many processes of which class there are.
        """
        rows = self.rows(
            'SELECT pid, process_label, state, owner, exit_status, exception FROM process ORDER BY pid'
        )
        wrong = [row for row in rows if row[2] != 'finished' or row[4] != 0 or row[3] is not None]
        assert wrong == [], f'not finished, or still owned: {wrong[:10]}'
        assert Counter(row[1] for row in rows) == expected
        calls = self.rows('SELECT parent, call_visit, call_number FROM process WHERE parent IS NOT NULL')
        assert max(Counter(calls).values(), default=1) == 1, 'a child is there twice'
        assert self.rows('SELECT * FROM awaiting') == []
        ends = Counter(row[0] for row in self.rows('SELECT ended FROM engine'))
        assert set(ends) <= {'stopped', 'dead'}, ends

    def check_once(self, expected: Collection[str]) -> None:
        """Each effect is there exactly once."""
        found = Counter(effect.what for effect in self.effects)
        missing = [what for what in expected if not found[what]]
        assert not missing, f'never done: {missing[:10]}'
        doubled = [effect for effect in self.effects if found[effect.what] > 1]
        assert not doubled, f'done more than once: {doubled[:10]}'
        assert found.total() == len(expected)

    def check_at_least_once(self, expected: Collection[str], failed: Collection[int]) -> int:
        """Each effect is there; more than once only where the engine that had begun it failed before its commit.

        A step is taken again under a later claim only, never after the next one of its process has begun: what is
        committed is not done again.

        :param failed: the OS pids of the members that were killed, stopped or cut off.
        :returns: how many steps were taken again.
        """
        effects = self.effects
        missing = set(expected) - {effect.what for effect in effects}
        assert not missing, f'never done: {sorted(missing)[:10]}'
        surplus = {effect.what for effect in effects} - set(expected)
        assert not surplus, f'never ordered: {sorted(surplus)[:10]}'
        by_pid: defaultdict[int, list[Effect]] = defaultdict(list)
        for effect in effects:
            by_pid[effect.pid].append(effect)
        whats = Counter((effect.what, effect.pid) for effect in effects)
        pids = Counter(what for what, _ in whats)
        assert set(pids.values()) == {1}, (
            f'done by several processes: {[w for w, n in pids.items() if n > 1][:10]}'
        )
        again = 0
        for history in by_pid.values():
            for before, after in itertools.pairwise(history):
                if after.visit > before.visit:
                    continue
                again += 1
                assert after.visit == before.visit, f'done again although committed: {before} {after}'
                assert after.epoch != before.epoch, f'done twice under one claim: {before} {after}'
                assert {before.os_pid, after.os_pid} & set(failed), (
                    f'done twice for no reason: {before} {after}'
                )
        return again

    def has_repetitions(self) -> bool:
        """Whether any step has begun more than once so far."""
        effects = self.effects
        return len({(effect.pid, effect.visit) for effect in effects}) < len(effects)

    def stale(self) -> list[tuple[Effect, Effect]]:
        """Effects that began under a claim that had been taken over by then: each with the one before it."""
        newest: dict[int, Effect] = {}
        found = []
        for effect in self.effects:
            before = newest.get(effect.pid)
            if before is not None and effect.epoch < before.epoch:
                found.append((before, effect))
            else:
                newest[effect.pid] = effect
        return found
