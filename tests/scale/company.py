"""Workers and submitters in OS processes of their own, on one store, while something disturbs them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scale.ledger import Ledger
from scale.orders import PARTS, Gate, Patient, effects_of, kind_of

#: Seconds after which what should have happened never will; and between two looks at other OS processes.
PATIENCE, LOOK = 60.0, 0.02
SUBMITTERS = 3
#: One task is sent for so many orders that are submitted otherwise.
SENT = 8


class Disturbance:
    """Something that goes wrong again and again; as it stands here, nothing does."""

    #: Seconds between two times, at least and at most.
    pause = (0.2, 0.6)
    #: Whether engines fail in it, so that steps may have to be taken again.
    fails_engines = False
    #: Whether messages may be lost in it, though nobody is told.
    loses_messages = False

    def begin(self, company: Company) -> None:
        """The members are there, and about to be told what to do."""

    def once(self, company: Company, rng: random.Random) -> None:
        """Let it go wrong, and bring it to order again."""

    def end(self, company: Company) -> None:
        """It goes wrong no more."""


@dataclasses.dataclass
class Member:
    """A running OS process.

    :ivar status: how it has ended.
    """

    name: str
    os_pid: int
    status: int | None = None


class Company:
    """The members, and what they were told.

    :param server: forks the members.
    :param store: URL of the store.
    :param engine: further arguments of the members' engines.
    :param slowness: seconds that slow processes take.
    :param patience: seconds that one round of orders may take.
    """

    def __init__(
        self,
        folder: Path,
        server: Any,
        *,
        store: str,
        engine: dict[str, Any],
        slowness: float = 0.5,
        patience: float = PATIENCE,
    ) -> None:
        self.folder = folder
        self.store = store
        self.ledger = Ledger(store, folder / 'book')
        self.workers: dict[str, Member] = {}
        #: The OS pids of those that were killed, stopped or cut off.
        self.failed: set[int] = set()
        self._server = server
        self._said_before = len(server.stderr)
        self._engine = engine
        self._slowness = slowness
        self._patience = patience
        self._gave_up = False
        self._next = 0
        self._names = itertools.count(1)
        self._gates: list[int] = []

    @property
    def said(self) -> str:
        """What the members have written to their standard errors."""
        said: str = self._server.stderr[self._said_before :]
        return said

    # -- members -------------------------------------------------------------------------------------------

    def start(self, role: str, name: str, *, engine: dict[str, Any] | None = None, **order: Any) -> Member:
        """Start a member; it need not be ready when this returns.

        :param engine: further arguments of its engine.
        """
        os_pid = self._server.start(
            role=role,
            name=name,
            store=order.pop('store', self.store),
            book=str(self.folder / 'book'),
            slowness=self._slowness,
            patience=3 * self._patience,
            engine={**self._engine, **(engine or {})},
            **order,
        )
        return Member(name, os_pid)

    def hire(self, name: str, *, engine: dict[str, Any] | None = None, **order: Any) -> Member:
        """Start a worker, and wait until it works; it takes the place of one of that name."""
        ready = self.folder / f'ready-{next(self._names)}'
        member = self.start(
            'work', name, ready=str(ready), engine={'claims': 'all', **(engine or {})}, **order
        )
        self.wait_until(lambda: ready.exists() or self.has_ended(member), f'{name} is there')
        self.workers[name] = member
        return member

    def has_ended(self, member: Member) -> bool:
        """Whether it is over; a member that failed by itself fails the test."""
        if member.status is None:
            member.status = self._server.poll(member.os_pid)
            assert member.status in (None, 0) or member.os_pid in self.failed, (
                f'{member.name} ended with {member.status}:\n{self.said}'
            )
        return member.status is not None

    def kill(self, member: Member) -> None:
        """SIGKILL, and wait for it."""
        self.failed.add(member.os_pid)
        os.kill(member.os_pid, signal.SIGKILL)
        self.wait_until(lambda: self.has_ended(member), f'{member.name} is dead')

    def dismiss(self) -> None:
        """Have the workers leave in good order."""
        for member in self.workers.values():
            os.kill(member.os_pid, signal.SIGTERM)
        for member in self.workers.values():
            self.wait_until(lambda member=member: self.has_ended(member), f'{member.name} has left')

    def close(self) -> None:
        """End whoever is left."""
        for member in self.workers.values():
            if member.status is None and self._server.poll(member.os_pid) is None:
                os.kill(member.os_pid, signal.SIGKILL)
                self._server.wait(member.os_pid)

    def wait_until(self, has_happened: Callable[[], Any], what: str) -> None:
        """Look until it has."""
        deadline = time.monotonic() + self._patience
        while not has_happened():
            assert time.monotonic() < deadline, f'it never came to it that {what}:\n{self.said[-8000:]}'
            assert not self._gave_up, f'the test gave up before {what}'
            time.sleep(LOOK)

    # -- orders --------------------------------------------------------------------------------------------

    def order(self, count: int, *, pace: float, loses_messages: bool = False) -> None:
        """Have so many orders submitted, by several engines at once, and wait until all have ended.

        One of the engines runs what there is room for, until it leaves; the others only submit. With a broker, another
        one sends some tasks to the workers.

        :param pace: seconds between two submissions of one submitter.
        :param loses_messages: whether a task that is sent may be lost.
        """
        share = -(-count // SUBMITTERS)
        told = {'count': share, 'pace': pace, 'submitted': str(self.folder / 'submitted')}
        submitters = [
            self.start('submit', f'submitter {number}', first=self._take(share), idle=number > 0, **told)
            for number in range(SUBMITTERS)
        ]
        if 'broker' in self._engine:
            told['count'] = count // SENT
            first = self._take(told['count'])
            submitters.append(self.start('send', 'sender', first=first, all_keys=loses_messages, **told))
        self.wait_for(submitters)

    def order_waits(self, count: int, gates: int) -> None:
        """Have so many processes started by messages that wait for a few slow ones, and wait until all have ended."""
        first = self._take(count + gates)
        self._gates.extend(range(first + count, first + count + gates))
        member = self.start(
            'wait at gates', 'gatekeeper', first=first, count=count, gates=gates,
            submitted=str(self.folder / 'submitted'),
        )  # fmt: skip
        self.wait_for([member])

    def wait_for(self, members: list[Member]) -> None:
        """Wait until they have done what they were told."""
        try:
            self.wait_until(
                lambda: not self._unfinished(members), f'{[member.name for member in members]} are done'
            )
        except AssertionError as error:
            late = self._unfinished(members)
            for member in late:
                self.failed.add(member.os_pid)
                os.kill(member.os_pid, signal.SIGABRT)  # with the stacks on standard error
                self._server.wait(member.os_pid)
            raise AssertionError(f'{[member.name for member in late]} still wait:\n{self.said[-30000:]}') from error

    def _unfinished(self, members: list[Member]) -> list[Member]:
        return [member for member in members if not self.has_ended(member)]

    def _take(self, count: int) -> int:
        first, self._next = self._next, self._next + count
        return first

    @contextlib.contextmanager
    def disturbed(
        self, disturbance: Disturbance, rng: random.Random, most: int, is_enough: Callable[[], bool]
    ) -> Iterator[Callable[[], int]]:
        """Let it happen again and again while the body runs, at most so often unless that is not enough.

        Gives what says how often it has happened.
        """
        over, errors, happened = threading.Event(), list[BaseException](), 0

        def disturb() -> None:
            nonlocal happened
            try:
                while not over.wait(rng.uniform(*disturbance.pause)) and (happened < most or not is_enough()):
                    disturbance.once(self, rng)
                    happened += 1
            except BaseException as error:
                errors.append(error)

        def count() -> int:
            if errors:
                raise errors[0]
            return happened

        thread = threading.Thread(target=disturb, name='disturbance')
        disturbance.begin(self)
        thread.start()
        try:
            yield count
        except BaseException:
            self._gave_up = True
            raise
        finally:
            over.set()
            thread.join(self._patience)
            disturbance.end(self)
        count()

    # -- the end -------------------------------------------------------------------------------------------

    def audit(self, *, fails_engines: bool) -> int:
        """Nothing is lost, doubled or excepted.

        :param fails_engines: whether steps may have been taken again, of engines that failed.
        :returns: how many steps were.
        """
        lines = [line.split() for line in (self.folder / 'submitted').read_text().splitlines()]
        certain = {int(number) for number, pid in lines if pid != '?'}
        uncertain = {int(number) for number, pid in lines if pid == '?'}
        found = self.ledger.numbers()
        assert not certain - found.keys(), f'lost: {sorted(certain - found.keys())}'
        assert found.keys() <= certain | uncertain, f'never ordered: {found.keys() - certain - uncertain}'
        assert found.total() == len(found), (
            f'doubled: {[number for number, count in found.items() if count > 1]}'
        )
        kinds = {number: Patient if self._gates else kind_of(number) for number in found}
        kinds.update(dict.fromkeys(self._gates, Gate))
        expected = Counter(kind.__name__ for kind in kinds.values())
        expected['Part'] = sum(PARTS[kind] for kind in kinds.values())
        self.ledger.check_rows(+expected)
        effects = [what for number, kind in kinds.items() for what in effects_of(number, kind)]
        if fails_engines:
            return self.ledger.check_at_least_once(effects, self.failed | self.ledger.dead())
        self.ledger.check_once(effects)
        return 0
