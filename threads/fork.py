"""What happens to threads and loops in a forked child.

`os.fork()` copies the memory of the process and one thread. Every other thread is gone, the locks that it
held stay held for ever, and the file descriptors (the epoll instance of a loop among them) are shared with
the parent. So nothing that rests on a thread can go on in the child. `ForkGuard` says so at once where a
call would hang; `run_in_child` lets an object put itself right before any other code runs in the child.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable

from .errors import Forked

logger = logging.getLogger(__name__)


class ForkGuard:
    """Remembers the OS process that made it, and refuses any other.

    :param remedy: what to do in the child, the end of the error's message.
    """

    __slots__ = ('pid', 'remedy')

    def __init__(self, *, remedy: str = 'create a new one in the child') -> None:
        self.pid = os.getpid()
        self.remedy = remedy

    @property
    def forked(self) -> bool:
        """Whether this is another OS process than the guard's."""
        return os.getpid() != self.pid

    def check(self, what: str) -> None:
        """Raise `Forked` in any OS process but the guard's own.

        :param what: the thing that was used, such as `"engine 'default'"`; the message begins with it.
        """
        pid = os.getpid()
        if pid != self.pid:
            raise Forked(
                f'{what} belongs to OS process {self.pid} and does not work in its forked child {pid}, '
                f'which has none of its threads; {self.remedy}'
            )


#: Seconds that a fork waits for sections that it must not cut.
FORK_PATIENCE = 2.0


class Uncut:
    """Sections of code that no fork cuts: `os.fork()` waits until no thread is inside one, for a while.

    A library that keeps locks of its own, in C and known to nobody, would leave them locked for ever in a child that
    is forked while another thread holds them; and what it believes about shared files would be half true there. Use
    the object as a context manager around such calls, briefly and without nesting.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forks = 0
        self._local = threading.local()
        #: In a forked child: whether the fork has cut no section.
        self.clean = True
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(
                before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
            )

    def __enter__(self) -> None:
        with self._changed:
            while self._forks:
                self._changed.wait()
            self._inside += 1
        self._local.inside = getattr(self._local, 'inside', 0) + 1

    def __exit__(self, *_: object) -> None:
        self._local.inside -= 1
        with self._changed:
            self._inside -= 1
            if self._forks:
                self._changed.notify_all()

    def _before(self) -> None:
        own = getattr(self._local, 'inside', 0)
        with self._changed:
            self._forks += 1
            self.clean = self._changed.wait_for(lambda: self._inside <= own, FORK_PATIENCE) and not own

    def _in_parent(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def _in_child(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._forks = 0
        self._local = threading.local()


_callbacks: list[Callable[[], Callable[[], object] | None]] = []
# Reentrant: the collector may run a finalizer that comes in again.
_lock = threading.RLock()


def run_in_child(callback: Callable[[], object]) -> None:
    """Run `callback()` first thing in each forked child, in the order of registration.

    A bound method is kept by a weak reference, so registering does not keep its object alive; a plain
    function is kept for good. The callback runs while no other thread exists: it must not take a lock that
    another thread may have held at the fork (make a new lock instead), must not wait, and must not touch
    what it shares with the parent. An error in it is logged and does not keep the others from running.
    """
    reference: Callable[[], Callable[[], object] | None]
    if hasattr(callback, '__self__') and hasattr(callback, '__func__'):
        reference = weakref.WeakMethod(callback)
    else:

        def reference() -> Callable[[], object]:
            return callback

    with _lock:
        # Dead references are few; sweeping them here keeps the list short without callbacks from the
        # collector.
        for dead in [known for known in _callbacks if known() is None]:
            _callbacks.remove(dead)
        _callbacks.append(reference)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for reference in list(_callbacks):
        callback = reference()
        if callback is None:
            continue
        try:
            callback()
        except Exception:
            logger.exception('%r failed in the forked child %d', callback, os.getpid())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork_in_child)
