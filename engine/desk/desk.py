"""A desk: looks after this engine's jobs on one computer, as one task on a worker's loop.

It begins each round at the store, where all that counts is written: which jobs are there, how far each has come, which
of their processes were killed or paused meanwhile. It sends errands for those about which something is to be done, and
asks the scheduler once for all that it has. What it keeps in memory only saves work, or slows it down.

A computer that cannot be reached gets one probe at a time, with growing pauses; nothing else is begun meanwhile, and
everything goes on by itself when a probe comes through.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ...threads import LoopClosed, wait_on_loop
from ..errors import (
    CommandTimeout,
    EngineStopped,
    FileTooLarge,
    StoreError,
    TransportClosed,
    TransportError,
    UnsafeArchive,
)
from ..faults import FaultPoint
from ..jobs.computer import Computer
from ..jobs.options import LOCALHOST
from ..jobs.protocol import JobState
from ..jobs.schedulers import Listing, Phase, SchedulerReplyError
from ..states import TERMINAL_STATES
from ..store.job_records import JobView
from ..store.jobs import note_computer, note_job, select_computer, take_slots, views_of
from ..store.transaction import Transaction
from ..transports import AsyncTransport
from .endings import is_active, judge_end, wants_detail
from .errands import Errands, fence_of
from .exits import Exits
from .site import Site
from .timing import Timing

if TYPE_CHECKING:
    from ..parts import EngineParts

__all__ = ['Desk']

LOGGER = logging.getLogger(__name__)

#: What is done about one job; returns ``False`` to be done again after a pause.
Errand: TypeAlias = Callable[[JobView], Coroutine[Any, Any, bool | None]]

#: So many errands go on at once, at most.
MOST_ERRANDS: Final = 32
#: For so many jobs monitors look at once, at most.
MOST_WATCHES: Final = 32
#: After so many intervals without an answer, a silence before it counts no more.
SILENCE_GAPS: Final = 10
#: Seconds after which a round is made though nothing has asked for one.
ROUND: Final = 5.0
#: Errors of a transport that say something of one errand, not of the computer.
_OF_ONE: Final = (CommandTimeout, FileTooLarge, UnsafeArchive)


class Desk:
    """Looks after the jobs on one computer.

    :param name: of the computer.
    :param borrow: gives a transport to it, by its definition.
    """

    def __init__(
        self,
        name: str,
        *,
        parts: EngineParts,
        borrow: Callable[[Computer], AbstractAsyncContextManager[AsyncTransport]],
        timing: Timing,
    ) -> None:
        self.name = name
        self._parts = parts
        self._borrow = borrow
        self._timing = timing
        self._errands: Errands | None = None
        self._asked = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        # Those of the tasks in which monitors look, which may take as long as they like.
        self._watches: set[int] = set()
        # The pids of the jobs that live here.
        self._present: set[int] = set()
        self._poll: asyncio.Task[None] | None = None
        self._poll_due = 0.0
        self._is_news = False
        self._exits = Exits(self._poll_soon)
        # By pid and errand: when it may be tried again, and after what pause.
        self._pauses: dict[tuple[int, str], tuple[float, float]] = {}
        self._absent_since: dict[int, float] = {}
        # When the scheduler last answered.
        self._answered_at = 0.0
        self._failures = 0
        # What stands in the store of why the computer is away: perhaps a text of an engine before.
        self._noted: str | None = ''
        self._reachable_from = 0.0
        self._probe: asyncio.Task[None] | None = None
        self._finishing = False
        self._finished = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        """Whether a round was asked for that was not begun."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Make a round soon; on the loop."""
        self._asked.set()

    async def finish_kills(self) -> None:
        """Begin nothing any more but to end the jobs of killed processes, and return when none of them may run on.

        Returns as well when the computer cannot be reached, or the store; the next engine cancels them then.
        """
        self._finishing = True
        self.ask()
        await self._finished.wait()

    async def serve(self) -> None:
        """Look after the jobs until none lives here any more; cancelling ends it at once."""
        try:
            while True:
                self._asked.clear()
                began = time.monotonic()
                wait = await self._try_round()
                if wait is None:
                    return
                # The more jobs, the longer a round takes, and the more errands end meanwhile: one round is for all.
                await asyncio.sleep(time.monotonic() - began)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._asked.wait()
        finally:
            self._finished.set()
            self._exits.close()
            await self._wind_up()

    async def _wind_up(self) -> None:
        tasks = [*self._tasks.values(), *filter(None, (self._poll, self._probe))]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _try_round(self) -> float | None:
        """One round; seconds until the next one, or ``None`` when nothing is left to look after."""
        try:
            return await self._round()
        except (EngineStopped, LoopClosed):
            raise
        except StoreError as error:
            LOGGER.error('the jobs on %s wait for the store: %s', self.name, error)
            if self._finishing:
                self._finished.set()
        except TransportError as error:
            self._is_away(error)
        except Exception as error:  # whatever it is, the jobs are still there
            LOGGER.critical('the desk of %s failed, and tries again', self.name, exc_info=error)
            self._note_computer(f'{type(error).__name__}: {error}')
            return self._timing.retry_most / 10
        return self._timing.retry_first

    # -- a round -------------------------------------------------------------------------------------------

    async def _round(self) -> float | None:
        finishing = self._finishing
        errands = await self._at_work()
        now = time.monotonic()
        room = MOST_ERRANDS + len(self._watches) - len(self._tasks) if self._is_reachable and not finishing else 0
        folder_of = await errands.folder_giver() if room > 0 else None
        computer = errands.site.computer

        def look(transaction: Transaction) -> tuple[list[int], list[JobView], int, Computer]:
            taken = []
            defined = _defined(transaction, computer.name)
            if folder_of is not None and defined == computer:
                taken = take_slots(
                    transaction,
                    computer.name,
                    max_jobs=computer.max_jobs,
                    max_queued=computer.max_queued,
                    max_of_host=computer.max_jobs_of_host,
                    most=room,
                    folder_of=folder_of,
                )
            return taken, *views_of(transaction, computer.name), defined

        taken, views, live, defined = await wait_on_loop(self._parts.store.call(look))
        self._forget_all_but(errands, {view.pid for view in views})
        begun = set(taken)
        for view in views:
            if view.pid in begun:
                errands.began(fence_of(view))
                self._parts.faults.hit(FaultPoint.JOB_BEGUN)
        if defined != computer:
            self._errands = None  # with the next round
            self.ask()
        if not live and not self._tasks:
            return None
        for pid in self._watches - {view.pid for view in views}:  # another engine looks after it now
            self._tasks[pid].cancel()
        killed = [view for view in views if view.process_state in TERMINAL_STATES]
        for view in killed if finishing else views:
            self._send(errands, view, now)
        if finishing and not (self._answers(computer) and any(map(errands.may_run_on, killed))):
            self._finished.set()
        return self._next_round([] if finishing else views, now)

    def _forget_all_but(self, errands: Errands, present: set[int]) -> None:
        present |= self._tasks.keys()
        gone = self._present - present
        if gone:
            errands.forget(gone)
            self._exits.forget(gone)
            for key in [key for key in self._pauses if key[0] in gone]:
                del self._pauses[key]
            for pid in gone:
                self._absent_since.pop(pid, None)
        self._present = present

    async def _at_work(self) -> Errands:
        if self._errands is None:

            def read(transaction: Transaction) -> Computer:
                return _defined(transaction, self.name)

            computer = await wait_on_loop(self._parts.store.call(read))
            site = Site(computer, partial(self._borrow, computer), patience=self._timing.command)
            self._errands = Errands(parts=self._parts, site=site, timing=self._timing)
        return self._errands

    def _send(self, errands: Errands, view: JobView, now: float) -> None:
        """Send an errand for a job if one is due."""
        if view.pid in self._watches and not _may_be_watched(view):
            self._tasks[view.pid].cancel()  # a round comes when it has ended
        if view.pid in self._tasks:
            return
        errand = self._errand(errands, view, now)
        if errand is None or self._paused_until(view.pid, errand) > now:
            return
        if errand == errands.watch:
            self._watches.add(view.pid)
        task = asyncio.create_task(self._run(view, errand), name=f'job of process {view.pid}')
        self._tasks[view.pid] = task
        task.add_done_callback(lambda _: self._is_done(view.pid))

    def _errand(self, errands: Errands, view: JobView, now: float) -> Errand | None:
        """What is to be done about a job, if the scheduler need not be asked first."""
        killed = view.process_state in TERMINAL_STATES
        if killed and view.state in (JobState.PREPARED, JobState.UPLOADING, JobState.ENDED):
            return errands.drop
        if not self._is_reachable:
            return None
        if view.state == JobState.SUBMITTING:
            return errands.find_out
        if view.state == JobState.SUBMITTED:
            if killed:
                return errands.cancel
            if view.outcome is not None:
                return errands.end
            return errands.watch if self._watch_due(errands, view) <= now else None
        if view.paused:
            return None
        if view.state == JobState.UPLOADING:
            return errands.bring
        return errands.fetch if view.state == JobState.ENDED else None

    def _paused_until(self, pid: int, errand: Errand) -> float:
        return self._pauses.get((pid, errand.__name__), (0.0, 0.0))[0]

    def _watch_due(self, errands: Errands, view: JobView) -> float:
        """When monitors are to look at a job."""
        if not _may_be_watched(view) or len(self._watches) >= MOST_WATCHES:  # or when one of them has come back
            return math.inf
        return errands.watching.next_due(view.pid)

    def _is_done(self, pid: int) -> None:
        del self._tasks[pid]
        self._watches.discard(pid)
        self.ask()

    def _next_round(self, views: list[JobView], now: float) -> float:
        """Begin what concerns all jobs, if it is due; seconds until something else is."""
        due = [now + ROUND]
        due += [when for when, _ in self._pauses.values() if when > now]
        if self._errands is not None and self._is_reachable:
            due += [
                max(self._watch_due(self._errands, view), self._paused_until(view.pid, self._errands.watch))
                for view in views
                if view.pid not in self._tasks
            ]
        if not self._is_reachable:
            if self._probe is None and now >= self._reachable_from:
                self._probe = asyncio.create_task(self._ask_for_life(), name=f'probe of {self.name}')
                self._probe.add_done_callback(self._is_probed)
            due.append(self._reachable_from)
        else:
            watched = [
                view
                for view in views
                if view.state == JobState.SUBMITTED and view.process_state not in TERMINAL_STATES
            ]
            self._watch_exits(watched)
            if watched and self._poll is None:
                if now >= self._poll_due:
                    self._poll = asyncio.create_task(self._look_at(watched), name=f'poll of {self.name}')
                    self._poll.add_done_callback(self._is_polled)
                else:
                    due.append(self._poll_due)
        return max(0.01, min(due) - now) if min(due) > now else ROUND

    def _watch_exits(self, views: list[JobView]) -> None:
        if self._errands is not None and self._errands.site.computer.has_plain_processes_here:
            for view in views:
                if view.job_id is not None:
                    self._exits.watch(view.pid, int(view.job_id))

    # -- the outcome of errands ----------------------------------------------------------------------------

    async def _run(self, view: JobView, errand: Errand) -> None:
        """Carry an errand out; what goes wrong is no verdict on the job."""
        again = True
        try:
            again = await errand(view) is False
        except (EngineStopped, LoopClosed, TransportClosed) as error:
            LOGGER.debug('process %d: the engine stops in the middle of its job: %s', view.pid, error)
        except _OF_ONE as error:
            await self._note(view, f'{error}')
        except TransportError as error:
            self._is_away(error)
        except (StoreError, SchedulerReplyError, OSError) as error:
            LOGGER.warning('process %d: its job on %s is tried again: %s', view.pid, self.name, error)
            await self._note(view, f'{error}')
        except Exception as error:
            LOGGER.critical('process %d: what is done about its job failed', view.pid, exc_info=error)
            await self._note(view, f'{type(error).__name__}: {error}')
        key = (view.pid, errand.__name__)
        if not again:
            self._pauses.pop(key, None)
            return
        before = self._pauses.get(key, (0.0, self._timing.retry_first / 2))[1]
        pause = min(2 * before, self._timing.retry_most)
        self._pauses[key] = time.monotonic() + pause * random.uniform(0.5, 1.0), pause

    async def _note(self, view: JobView, note: str) -> None:
        with contextlib.suppress(StoreError, EngineStopped):
            await wait_on_loop(
                self._parts.store.call(lambda transaction: note_job(transaction, fence_of(view), note[-2000:]))
            )

    # -- asking the scheduler ------------------------------------------------------------------------------

    def _poll_soon(self) -> None:
        # What is being asked for just now may have been said before.
        self._is_news = True
        self._poll_due = 0.0
        self.ask()

    def _is_polled(self, task: asyncio.Task[None]) -> None:
        self._poll = None
        self.ask()

    async def _look_at(self, views: list[JobView]) -> None:
        """Ask the scheduler once for all jobs, and look where it does not show them as waiting or running."""
        self._is_news = False
        interval = ROUND
        try:
            errands = await self._at_work()
            interval = errands.site.computer.seconds_between_polls
            listing = await errands.site.listing([view.job_id for view in views if view.job_id])
            self._answered(interval)
            if await self._take_note(errands, views, listing):
                if self._is_reachable:  # or something has found out meanwhile that it is not, and said so
                    self._note_computer(None)
            elif self._note_computer(f'{errands.site.away()}'):
                LOGGER.warning('%s', errands.site.away())
        except SchedulerReplyError as error:
            LOGGER.warning('%s: %s', self.name, error)
            self._absent_since.clear()
        except (EngineStopped, LoopClosed, TransportClosed) as error:
            LOGGER.debug('the engine stops in the middle of a poll: %s', error)
        except _OF_ONE as error:
            LOGGER.warning('%s: its queue did not answer: %s', self.name, error)
            self._absent_since.clear()
        except TransportError as error:
            self._is_away(error)
        except StoreError as error:
            LOGGER.error('the jobs on %s wait for the store: %s', self.name, error)
        except Exception as error:
            LOGGER.critical('the queue of %s cannot be asked for', self.name, exc_info=error)
            self._note_computer(f'{type(error).__name__}: {error}')
        finally:
            self._poll_due = time.monotonic() + (0.0 if self._is_news else interval)

    def _answered(self, interval: float) -> None:
        """The scheduler has answered: only while it does so again and again, what it does not say means something."""
        now = time.monotonic()
        if now - self._answered_at > SILENCE_GAPS * interval + self._timing.command:
            self._absent_since.clear()
        self._answered_at = now

    async def _take_note(self, errands: Errands, views: list[JobView], listing: Listing) -> bool:
        """Write what follows from an answer.

        :returns: whether all folders could be looked into.
        """
        missed, writes = [], list[Callable[[], Coroutine[Any, Any, None]]]()
        for view in views:
            entry = listing.by_id.get(view.job_id or '')
            if entry is None or not is_active(entry):
                missed.append((view, entry))
            else:
                self._absent_since.pop(view.pid, None)
                if entry.phase.value != view.phase:
                    writes.append(partial(self._write_phase, view, entry.phase.value))
        found = await errands.site.look([view.folder or '' for view, _ in missed]) if missed else {}
        for view, entry in missed:
            findings = found[view.folder or '']
            if findings.is_away:
                self._absent_since.pop(view.pid, None)
                continue
            if wants_detail(findings, entry):
                try:
                    entry = await errands.site.detail(view.job_id or '')
                except (SchedulerReplyError, *_OF_ONE) as error:
                    LOGGER.warning('%s: %s', self.name, error)
                    self._absent_since.pop(view.pid, None)
                    continue
                if is_active(entry):
                    self._absent_since.pop(view.pid, None)
                    continue
            now = time.monotonic()
            outcome = judge_end(
                findings,
                entry,
                is_direct=errands.site.scheduler.is_direct,
                silent_for=now - self._absent_since.setdefault(view.pid, now),
                vanish_after=self._timing.vanish_after,
                settle_after=self._timing.settle_after,
            )
            if outcome is not None:
                self._absent_since.pop(view.pid, None)
                writes.append(partial(errands.ended, view, outcome))
        # Together, so that they may share a commit.
        failures = await asyncio.gather(*(write() for write in writes), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure
        return not any(findings.is_away for findings in found.values())

    async def _write_phase(self, view: JobView, phase: str) -> None:
        await wait_on_loop(
            self._parts.store.call(lambda transaction: note_job(transaction, fence_of(view), view.note, phase))
        )

    # -- a computer that cannot be reached -------------------------------------------------------------------

    @property
    def _is_reachable(self) -> bool:
        return self._failures == 0

    def _answers(self, computer: Computer) -> bool:
        """Whether it is worth while to wait for what was begun there."""
        connection = self._parts.connections.state(computer.connection)
        return self._is_reachable and (connection is None or connection.phase != 'waiting')

    def _is_away(self, error: TransportError) -> None:
        """Begin nothing more there until a probe has come through."""
        now = time.monotonic()
        if self._failures and now < self._reachable_from:
            return  # told already
        self._failures += 1
        pause = min(self._timing.probe_first * 2 ** min(self._failures - 1, 20), self._timing.probe_most)
        pause *= random.uniform(0.75, 1.0)
        self._reachable_from = now + pause
        level = logging.WARNING if self._failures == 1 else logging.INFO
        LOGGER.log(level, 'computer %s: %s; it is asked again in %.1f s', self.name, error, pause)
        when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=pause)
        self._note_computer(f'{error}; the next probe is at {when.isoformat(timespec="seconds")}')
        self.ask()

    def _note_computer(self, note: str | None) -> bool:
        """Write down why the computer is of no use just now; whether that is news."""
        if note == self._noted:
            return False
        self._noted = note
        with contextlib.suppress(EngineStopped):
            self._parts.store.post(lambda transaction: note_computer(transaction, self.name, note), _nobody)
        return True

    def _is_probed(self, task: asyncio.Task[None]) -> None:
        self._probe = None
        self.ask()

    async def _ask_for_life(self) -> None:
        try:
            await (await self._at_work()).site.probe()
        except TransportError as error:
            self._reachable_from = 0.0
            self._is_away(error)
        except (EngineStopped, LoopClosed, StoreError) as error:
            LOGGER.debug('the probe of %s was given up: %s', self.name, error)
            self._reachable_from = time.monotonic() + self._timing.probe_first
        except Exception as error:
            LOGGER.critical('the probe of %s failed', self.name, exc_info=error)
            self._reachable_from = time.monotonic() + self._timing.probe_most
        else:
            LOGGER.info('computer %s answers again', self.name)
            self._failures = 0
            self._pauses.clear()
            # Only answers count as silence.
            self._absent_since.clear()
            if self._errands is not None:
                self._errands.heard_nothing()
            self._note_computer(None)


def _may_be_watched(view: JobView) -> bool:
    """Whether it is for monitors to look at a job: it runs, and nobody wants it to end."""
    return (
        bool(view.monitored)
        and view.state == JobState.SUBMITTED
        and view.phase == Phase.RUNNING
        and view.outcome is None
        and view.process_state not in TERMINAL_STATES
    )


def _defined(transaction: Transaction, name: str) -> Computer:
    """The present definition of a computer."""
    text = select_computer(transaction, name)
    if text is None:
        if name == LOCALHOST.name:
            return LOCALHOST
        raise StoreError(f'the computer {name!r} is not defined any more; define it again with `treadle computer add`')
    return Computer.from_text(text)


def _nobody(answer: object) -> None:
    if isinstance(answer, Exception):
        LOGGER.debug('what is known of a computer was not written: %s', answer)
