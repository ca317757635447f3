"""Who holds a claimed process at a moment, and who gives its claim back when its loop is gone.

A loop may be wound up or closed by its owner at any moment, while the process is in other hands. Whoever holds it then
brings it to its next checkpoint and gives it back; if nobody does, whoever has noticed gives it back. Exactly one of
them does, whatever their order.
"""

from __future__ import annotations

import enum
import threading

__all__ = ['Custody', 'Holder']


class Holder(enum.Enum):
    """Who holds a process."""

    #: The task that drives it, or a call that is on its way to the loop.
    LOOP = enum.auto()
    #: A step thread or the store, which will answer whatever becomes of the loop.
    AWAY = enum.auto()
    #: The coroutine of its step, which goes on only while the loop runs.
    COROUTINE = enum.auto()


class Custody:
    """Of one claimed process. Whoever holds it says in :attr:`holder` to whom it goes, before it goes there."""

    __slots__ = ('_given_back', '_is_abandoned', 'holder')

    def __init__(self) -> None:
        self.holder = Holder.LOOP
        self._is_abandoned = False
        self._given_back = threading.Lock()

    def answered(self) -> bool:
        """It goes back to its loop; whether it has been abandoned there, and the caller is to give its claim back."""
        self.holder = Holder.LOOP
        return self._is_abandoned and self.give_back()

    def abandon(self, *, cut: bool) -> bool:
        """Its loop drives it no more; whether the caller is to give its claim back.

        :param cut: the coroutine of its step goes on no more either.
        """
        self._is_abandoned = True
        # Whoever answers does these two the other way round, so one of both sees what the other has written.
        return (self.holder is Holder.LOOP or (cut and self.holder is Holder.COROUTINE)) and self.give_back()

    def give_back(self) -> bool:
        """Whether the caller is the first who wants to give the claim back, and so has to."""
        return self._given_back.acquire(blocking=False)
