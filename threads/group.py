"""Members that start in order and stop in stages, under one deadline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from .errors import StartFailed, StopTimeout
from .fork import run_in_child

logger = logging.getLogger(__name__)

#: The part of the whole time that is kept for each stage after the one that is stopping.
LATER_SHARE = 0.1


class Member(Protocol):
    """What a `Group` starts and stops; `LoopThread` and `Group` are such."""

    @property
    def name(self) -> str:
        """How errors name it; unique within its group."""

    def start(self, timeout: float | None) -> None:
        """Come up within `timeout` seconds or raise; called once."""

    def request_stop(self) -> None:
        """Begin to stop and return at once; from any thread, any number of times."""

    def stop(self, timeout: float | None) -> None:
        """Stop within `timeout` seconds or raise `StopTimeout`; raise what crashed it meanwhile."""


class Group:
    """Starts its members one after the other and stops them in stages; the first failure stops all.

    A stage is a set of members that are asked to stop together; the next stage is asked when they have
    stopped, or when their share of the time is over: a member that hangs does not take from those after it
    the time to flush and to say goodbye.

    :param members: in the order in which they start.
    :param stop_order: the stages, each a sequence of names; together they name each member once. Without it:
        one after the other, the last started first.
    """

    def __init__(
        self, name: str, members: Iterable[Member], *, stop_order: Sequence[Sequence[str]] | None = None
    ) -> None:
        self.name = name
        self._members = tuple(members)
        by_name = {member.name: member for member in self._members}
        if len(by_name) != len(self._members):
            raise ValueError(f'the members of {name!r} need names of their own: {[m.name for m in self._members]}')
        if stop_order is None:
            self._stages: tuple[tuple[Member, ...], ...] = tuple((one,) for one in reversed(self._members))
        else:
            given = [one for stage in stop_order for one in stage]
            if sorted(given) != sorted(by_name):
                raise ValueError(
                    f'stop_order of {name!r} must name each of {sorted(by_name)} once; it names {given}'
                )
            self._stages = tuple(tuple(by_name[one] for one in stage) for stage in stop_order)
        # Reentrant: request_stop() may come from a signal handler.
        self._lock = threading.RLock()
        self._started: set[str] = set()
        self._start_called = False
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._stopper: threading.Thread | None = None
        run_in_child(self._after_fork)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r} of {", ".join(member.name for member in self._members)}>'

    @property
    def failure(self) -> BaseException | None:
        """The first failure that was reported to `failed`."""
        return self._failure

    def start(self, timeout: float | None = 30.0) -> None:
        """Start each member in order, all of them within `timeout` seconds.

        When one does not come up, those before it are stopped and its error is raised; errors of that
        stopping are added to it as notes.

        :raises StartFailed: the group was started before, asked to stop meanwhile, or the time is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._start_called:
                raise StartFailed(f'{self.name!r} was started before; a group starts once, create another')
            self._start_called = True
        try:
            for member in self._members:
                if self._stopping.is_set():
                    raise StartFailed(f'{self.name!r} was asked to stop before {member.name!r} was started')
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise StartFailed(f'{self.name!r} had no time left to start {member.name!r} ({timeout:g} s)')
                # Noted before: a member that fails half-way, or is interrupted, is stopped as well.
                self._started.add(member.name)
                member.start(remaining)
            if self._stopping.is_set():
                raise StartFailed(f'{self.name!r} was asked to stop while it started')
        except BaseException as error:
            try:
                self.stop(timeout)
            except BaseException as second:
                if second is not error:
                    error.add_note(f'Stopping {self.name!r} after this failed too: {second!r}')
            raise

    def stop(self, timeout: float | None = 30.0) -> None:
        """Stop the members in their stages, all within `timeout` seconds; again and from several threads at
        will.

        Every member is asked, whatever happens to the others. Then the first failure is raised; other errors
        come with it in an exception group.

        :raises StopTimeout: some members still run; names them all, and where they are.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._stopping.set()
        errors = self._run_stages(timeout)
        stopper = self._stopper
        if stopper is not None and stopper is not threading.current_thread():
            stopper.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if self._failure is not None and self._failure not in errors:
            errors.insert(0, self._failure)
        self._raise(errors)

    def request_stop(self) -> None:
        """Stop in the background, in the same stages; from any thread. `stop()` tells how it went."""
        with self._lock:
            self._stopping.set()
            if self._stopper is not None or not self._started:
                return
            self._stopper = threading.Thread(
                target=self._run_stages, args=(None,), name=f'{self.name}-stop', daemon=True
            )
            try:
                self._stopper.start()
            except RuntimeError as error:  # no more threads, or the interpreter is exiting: no stages, then
                self._stopper = None
                logger.warning('%r asks all of its members to stop at once: %s', self.name, error)
                for member in self._running():
                    member.request_stop()

    def failed(self, member: Member, error: BaseException) -> None:
        """Report that `member` crashed: the first failure stops all, in the background; `stop()` raises it.

        Fits as the `on_crash` of a `LoopThread`.
        """
        logger.error('%r stops, because %r failed: %r', self.name, member.name, error)
        with self._lock:
            if self._failure is None:
                self._failure = error
        self.request_stop()

    def _running(self) -> list[Member]:
        return [member for stage in self._stages for member in stage if member.name in self._started]

    def _run_stages(self, timeout: float | None) -> list[BaseException]:
        """Stop what was started; the errors, one at most for each member. May run in two threads at once."""
        begin = time.monotonic()
        share = 0.0 if timeout is None else timeout * min(LATER_SHARE, 0.5 / max(1, len(self._stages)))
        errors: list[BaseException] = []
        for number, stage in enumerate(self._stages, start=1):
            members = [member for member in stage if member.name in self._started]
            end = None if timeout is None else begin + timeout - share * (len(self._stages) - number)
            for ask in (True, False):
                for member in members:
                    try:
                        if ask:
                            member.request_stop()
                        else:
                            member.stop(None if end is None else max(0.0, end - time.monotonic()))
                    except KeyboardInterrupt:
                        raise  # a Ctrl-C of this wait; a thread that crashed with one raises it here as well
                    except BaseException as error:
                        errors.append(error)
        return errors

    def _raise(self, errors: list[BaseException]) -> None:
        if not errors:
            return
        late = [error for error in errors if isinstance(error, StopTimeout)]
        others = [error for error in errors if not isinstance(error, StopTimeout)]
        if late:
            timeout = StopTimeout(
                f'{self.name} did not stop in time: ' + '; '.join(str(error) for error in late),
                names=tuple(name for error in late for name in error.names),
            )
            if not others:
                raise timeout
            others.append(timeout)
        if len(others) == 1:
            raise others[0]
        raise BaseExceptionGroup(f'{self.name!r} stopped with failures', others)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._started.clear()
