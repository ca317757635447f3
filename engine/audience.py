"""Who in this OS process hears what the engine has committed: listeners of the user's, and the broadcasts.

The store thread hands over what it has committed and goes on. Each hearer has a strand: it gets everything in order, on
a thread where user code may run, and a slow one holds up neither the engine nor the others. What nobody hears costs a
look at an empty tuple.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from ..threads import LoopClosed, StartFailed, StepThreads, Strand
from .errors import EngineStopped

if TYPE_CHECKING:
    from .store.records import StateChange

__all__ = ['Audience', 'Commit', 'Hearer']

LOGGER = logging.getLogger(__name__)


class Commit(msgspec.Struct, frozen=True):
    """What one transaction has changed.

    :ivar pauses: by pid, whether the process is paused from now on.
    """

    changes: Sequence[StateChange]
    pauses: Mapping[int, bool]


class Hearer:
    """One who hears, with the commits that wait to be heard.

    :param wanted: asked on the store thread whether it wants to hear now; must not block. ``None`` means always.
    :param pid: the only process that it hears of; ``None`` means all.
    """

    __slots__ = ('pid', 'strand', 'wanted')

    def __init__(self, strand: Strand[Commit], wanted: Callable[[], bool] | None, pid: int | None) -> None:
        self.strand = strand
        self.wanted = wanted
        self.pid = pid

    def post(self, commit: Commit) -> None:
        """Have it hear; on the store thread, which nothing may stop."""
        try:
            self.strand.post(commit)
        except LoopClosed as error:
            LOGGER.debug('%s', error)  # it was removed a moment ago, or the engine has stopped
        except StartFailed as error:
            LOGGER.warning('%s misses %d changes: %s', self.strand.name, len(commit.changes), error)


class Audience:
    """All who hear what one engine commits."""

    def __init__(self) -> None:
        self._threads = StepThreads(permits=1, name='treadle-listener', kind='listener')
        self._lock = threading.Lock()
        self._closed = False
        # Both are read by the store thread without the lock, so what is in them is replaced and never changed.
        self._of_all: tuple[Hearer, ...] = ()
        self._of_one: dict[int, tuple[Hearer, ...]] = {}
        #: Whether somebody wants to know of outputs; what is not noted in a step cannot be told.
        self.hears_outputs = False

    def add(
        self,
        hear: Callable[[Commit], object],
        *,
        name: str,
        pid: int | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> Hearer:
        """Have ``hear`` called with what is committed from now on.

        :param pid: the only process of interest.
        :param wanted: see :class:`Hearer`; who has one is not told of outputs.
        :raises EngineStopped: the engine has stopped.
        """
        hearer = Hearer(Strand(hear, self._threads, name=name), wanted, pid)
        with self._lock:
            if self._closed:
                raise EngineStopped('the engine has stopped, and tells nobody anything more')
            if pid is None:
                self._of_all = (*self._of_all, hearer)
            else:
                self._of_one[pid] = (*self._of_one.get(pid, ()), hearer)
            self.hears_outputs |= wanted is None
        return hearer

    def remove(self, hearer: Hearer) -> None:
        """Tell one no more, not even what waits to be told; removing it again does nothing."""
        with self._lock:
            if hearer.pid is None:
                self._of_all = tuple(each for each in self._of_all if each is not hearer)
            else:
                left = tuple(each for each in self._of_one.pop(hearer.pid, ()) if each is not hearer)
                if left:
                    self._of_one[hearer.pid] = left
            self.hears_outputs = bool(self._of_one) or any(each.wanted is None for each in self._of_all)
        hearer.strand.drop()

    def tell(self, changes: Sequence[StateChange], pauses: Mapping[int, bool]) -> None:
        """This was committed; on the store thread, right after the commit."""
        for hearer in self._of_all:
            if hearer.wanted is None or hearer.wanted():
                hearer.post(Commit(changes, pauses))
        if self._of_one:
            self._tell_of_one(changes, pauses)

    def _tell_of_one(self, changes: Sequence[StateChange], pauses: Mapping[int, bool]) -> None:
        changed: dict[int, list[StateChange]] = {}
        for change in changes:
            if change.pid in self._of_one:
                changed.setdefault(change.pid, []).append(change)
        for pid in {*changed, *(pid for pid in pauses if pid in self._of_one)}:
            commit = Commit(changed.get(pid, ()), {pid: pauses[pid]} if pid in pauses else {})
            for hearer in self._of_one.get(pid, ()):
                hearer.post(commit)

    def close(self, timeout: float) -> None:
        """Let everyone hear what was committed, for so many seconds; the rest is dropped.

        :raises StopTimeout: somebody does not return; says where it stands.
        """
        with self._lock:
            self._closed = True
            strands = [hearer.strand for some in (self._of_all, *self._of_one.values()) for hearer in some]
        for strand in strands:
            strand.refuse()
        try:
            self._threads.stop(timeout)
        finally:
            for strand in strands:
                dropped = len(strand.drop())
                if dropped:
                    LOGGER.warning('%s misses %d commits, since the engine stops', strand.name, dropped)
