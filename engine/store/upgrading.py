"""Upgrading a store that an older Treadle has made: what there is to do, and whether engines stand in the way.

Imports Alembic, so commands import this only when they run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec
import sqlalchemy as sa

from ..errors import StoreError, StoreUnavailable
from .contents import Contents
from .liveness import holds_lock
from .location import StoreLocation
from .migrations import HEAD, too_new
from .migrations.run import script_directory

__all__ = ['LiveEngine', 'Plan', 'living_engines', 'plan_upgrade', 'upgrade_store']

#: Seconds between two looks at heartbeats.
_LOOK: Final = 0.2

#: What every revision has; the records of this Treadle may have more.
_ENGINES: Final = sa.text(
    'SELECT id, uuid, name, host, os_pid, heartbeat, lease FROM engine WHERE ended IS NULL ORDER BY id'
)


class LiveEngine(msgspec.Struct, frozen=True):
    """An engine that has not ended, as far as its row tells."""

    id: int
    uuid: str
    name: str
    host: str
    os_pid: int
    heartbeat: int
    lease: float

    def __str__(self) -> str:
        return f'{self.id} ({self.name!r}) on {self.host}, OS process {self.os_pid}'


class Plan(msgspec.Struct, frozen=True):
    """What an upgrade would do.

    :ivar revision: the store's.
    :ivar steps: the revisions that come after it, oldest first.
    :ivar beside_engines: whether engines that know the store as it is can go on meanwhile, and afterwards.
    """

    revision: str
    steps: tuple[str, ...]
    beside_engines: bool


def plan_upgrade(location: StoreLocation) -> Plan:
    """See what there is to do; nothing is changed.

    :raises StoreTooNew: the store's revision is none of ours.
    :raises StoreUnavailable: there is no store.
    """
    revision = location.contents().revision()
    if revision is None:
        raise StoreUnavailable(
            f'the database {location} is empty; it becomes a store when an engine first starts on it'
        )
    modules = {script.revision: script.module for script in script_directory().walk_revisions()}
    if revision not in modules:
        raise too_new(str(location), revision)
    steps = tuple(sorted(each for each in modules if each > revision))
    return Plan(
        revision=revision, steps=steps, beside_engines=all(modules[each].engines_go_on for each in steps)
    )


def upgrade_store(location: StoreLocation) -> Plan:
    """Bring a store to this Treadle's schema, in one transaction.

    :returns: what was done.
    :raises StoreError: engines live on it that would not understand what comes out; names them.
    """
    plan = plan_upgrade(location)
    if not plan.steps:
        return plan
    if not plan.beside_engines:
        alive = living_engines(location)
        if alive:
            raise StoreError(
                f'the store {location} is not upgraded from revision {plan.revision} to {HEAD} while engines of the '
                f'older Treadle work on it: {"; ".join(map(str, alive))}. Stop them, then upgrade'
            )
    location.upgrade()
    return plan


def living_engines(location: StoreLocation) -> list[LiveEngine]:
    """The engines that live, whatever the store's revision; takes up to a lease if only their heartbeats can tell."""
    store = location.contents()
    engines = _read(store)
    by_lock = {each.id: holds_lock(location, each.uuid, each.host) for each in engines}
    beating = _beating(store, [each for each in engines if by_lock[each.id] is None])
    return [each for each in engines if by_lock[each.id] or each.id in beating]


def _beating(store: Contents, unknown: Iterable[LiveEngine]) -> set[int]:
    """Those that raise their heartbeats within their leases."""
    begun, beating = time.monotonic(), set[int]()
    waited_for = {each.id: each for each in unknown}
    while waited_for:
        time.sleep(_LOOK)
        now = {each.id: each.heartbeat for each in _read(store)}
        for each in list(waited_for.values()):
            if each.id in now and now[each.id] != each.heartbeat:
                beating.add(each.id)
                del waited_for[each.id]
            elif each.id not in now or time.monotonic() - begun > each.lease:
                del waited_for[each.id]
    return beating


def _read(store: Contents) -> list[LiveEngine]:
    with store.snapshot(any_revision=True) as connection:
        return [LiveEngine(*row) for row in connection.execute(_ENGINES)]
