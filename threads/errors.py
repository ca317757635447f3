"""The errors of `treadle.threads`.

A small tree: everything that this package raises of its own accord is a `ThreadsError`. The messages name
the loop, thread or object concerned and say what to do instead.
"""

from __future__ import annotations


class ThreadsError(Exception):
    """Base of all errors of `treadle.threads`."""


class LoopClosed(ThreadsError):
    """A loop (or a mailbox) takes nothing more, or ended before it could answer.

    Raised at once by whatever would have handed something over; set on a future that had been accepted when
    its loop ended first. When the loop crashed, `__cause__` is what crashed it.
    """


class WrongThread(ThreadsError):
    """A blocking call was made on a thread that must not block, usually because it would wait for itself."""


class StartFailed(ThreadsError):
    """A thread or a group did not come up; `__cause__` says why where it is known."""


class StopTimeout(ThreadsError):
    """Something did not stop within its deadline.

    :ivar names: the names of the threads or members that still run.
    """

    def __init__(self, message: str, *, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class Forked(ThreadsError):
    """An object was used in a forked child, where the threads that it depends on do not exist."""
