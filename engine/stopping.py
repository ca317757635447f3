"""How an engine stops, under one deadline: steps come to their checkpoints, threads end, who listens hears the last.

What is unfinished stays runnable in the store. A step that does not end keeps its process claimed while its thread
lives.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

from ..threads import Group, LoopClosed, StopTimeout, wait
from .deadlines import remaining
from .processes.visit import Visit

if TYPE_CHECKING:
    from .core import Core

__all__ = ['CLOSING_MOST', 'dismiss', 'is_over_by', 'wind_down']

LOGGER = logging.getLogger(__name__)

#: The part of a stop's time that is kept for closing, when steps take all the rest; that part at most, in seconds; and
#: what closing gets in any case, even if the stop takes so much longer than it was given.
CLOSING_SHARE, CLOSING_MOST, CLOSING_LEAST = 0.3, 5.0, 0.5
#: Seconds that the jobs of killed processes may take to be cancelled, after the steps and out of their time.
CANCELLING_MOST = 5.0


def wind_down(core: Core, threads: Group, deadline: float) -> None:
    """Stop everything but the reading.

    :param deadline: on the monotonic clock.
    :raises StopTimeout: steps still execute, or who listens does not return.
    """
    closing = min(CLOSING_SHARE * remaining(deadline), CLOSING_MOST)
    unheard: StopTimeout | None = None
    try:
        core.messaging.leave_work_to_others()  # what takes no calls would only give them back
        cancels = _end_steps(core, deadline - closing)
        _wait_for_cancels(cancels, min(deadline - closing, time.monotonic() + CANCELLING_MOST))
        threads.stop(max(remaining(deadline), closing, CLOSING_LEAST))
        _refuse_to_forget(core.name, core.dispatcher.visits())
    except KeyboardInterrupt:
        deadline = time.monotonic()
        core.membership.leave()  # whatever is left of it
        threads.request_stop()  # in the background; nobody waits for it
        raise
    finally:
        _abandon_after(core, [core.dispatcher.end_of(visit) for visit in core.dispatcher.visits()])
        unheard = dismiss(core, deadline)
        if unheard is not None and sys.exception() is not None:
            LOGGER.warning('%s', unheard)
    if unheard is not None:
        raise unheard


def _end_steps(core: Core, deadline: float) -> Sequence[Future[None]]:
    """Let what executes come to its checkpoint; what does not is told that it must end.

    :returns: what is done when the jobs of killed processes are cancelled, which goes on meanwhile.
    """
    reason = core.begin_no_step()
    cancels = core.desks.finish_kills()
    core.homes.close(deadline)
    going = [(visit, core.dispatcher.end_of(visit)) for visit in core.dispatcher.visits()]
    late = [visit for visit, over in going if not is_over_by(deadline, over)]
    for visit in late:
        core.aborts.abort(visit, reason, core.steps.post_beside)
    return cancels


def _wait_for_cancels(cancels: Sequence[Future[None]], deadline: float) -> None:
    for each in cancels:
        try:
            if not is_over_by(deadline, each):
                each.cancel()
        except (LoopClosed, CancelledError) as error:
            LOGGER.debug('a worker has stopped before its desks were done: %s', error)


def _refuse_to_forget(name: str, late: Sequence[Visit]) -> None:
    # Functions that were called from plain code, and coroutine steps on loops of the user's; other steps are named
    # by the threads they execute on.
    if late:
        pids = ', '.join(str(visit.pid) for visit in late)
        raise StopTimeout(
            f'engine {name!r} did not stop in time: process {pids} executes in the code that called it, or '
            f'has a step on the loop of a Runner, which does not come to its end there'
        )


def _abandon_after(core: Core, late: list[Future[None]]) -> None:
    """Keep the lock, and with it the claims, until the last of these steps is over.

    There may be none although some were there when the membership ended, or the stop was interrupted before.
    """
    left = set(late)

    def over(one: Future[None] | None) -> None:
        if one is not None:
            left.discard(one)
        if not left:
            core.membership.abandon()

    over(None)
    for one in late:
        one.add_done_callback(over)


def dismiss(core: Core, deadline: float) -> StopTimeout | None:
    """Let listeners and subscribers hear the last changes; what stands in the way, if they do not return."""
    core.terminations.close()  # they may wait for processes, and nobody will tell them of an end any more
    late = []
    core.messaging.hint_work()  # others may take up what is left here
    for close in (core.audience.close, core.communicator.close):  # the one speaks through the other
        try:
            close(max(remaining(deadline), CLOSING_LEAST))
        except StopTimeout as error:
            late.append(error)
    if not late:
        return None
    names = tuple(name for error in late for name in error.names)
    return StopTimeout(
        f'engine {core.name!r} has stopped, and who listens to it has not: {"; ".join(map(str, late))}', names=names
    )


def is_over_by(deadline: float, over: Future[None]) -> bool:
    """Wait for something to be over, until the deadline at most; whether it is."""
    try:
        wait(over, remaining(deadline), what='stop()')
    except TimeoutError:
        return False
    return True
