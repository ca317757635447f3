"""Calling the monitors of jobs that run, beside the loop."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import TransportError
from ..exit_code import ExitCode
from ..jobs.monitors import RunningJob, find_monitor
from ..jobs.protocol import Outcome, Verdict
from ..store.job_records import JobView
from .beside import run_beside

if TYPE_CHECKING:
    from ..parts import EngineParts
    from .site import Site

__all__ = ['Watching']

LOGGER = logging.getLogger(__name__)


class Watching:
    """Knows when which monitor is due; forgets it with the desk, so that a monitor may be called sooner after that.

    :param parts: of the engine.
    """

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        # By pid and name of the monitor.
        self._due: dict[int, dict[str, float]] = {}

    def forget(self, pids: Iterable[int]) -> None:
        """These jobs run no more."""
        for pid in pids:
            self._due.pop(pid, None)

    def next_due(self, pid: int) -> float:
        """When a monitor of the job is due, on the monotonic clock."""
        return min(self._due.get(pid, {}).values(), default=0.0)

    async def look(self, site: Site, view: JobView, monitors: list[Mapping[str, Any]]) -> Outcome | None:
        """Call the monitors that are due; what the first one says that wants the job to end.

        One that fails says nothing.

        :raises TransportError: the computer cannot be reached.
        """
        now = time.monotonic()
        due = self._due.setdefault(view.pid, {})
        for monitor in monitors:
            if due.get(monitor['name'], 0.0) > now:
                continue
            due[monitor['name']] = now + monitor['every']
            outcome = await self._call(site, view, monitor)
            if outcome is not None:
                return outcome
        return None

    async def _call(self, site: Site, view: JobView, monitor: Mapping[str, Any]) -> Outcome | None:
        async with site.transport() as transport:
            job = RunningJob(
                pid=view.pid, job_id=view.job_id or '', folder=view.folder or '', transport=transport.blocking
            )
            call = functools.partial(_ask, monitor, job)
            said = await run_beside(self._parts.steps, call)
        return None if said is None else _outcome(monitor, said)


def _ask(monitor: Mapping[str, Any], job: RunningJob) -> Any:
    try:
        return find_monitor(monitor['function'])(job, **monitor['kwargs'])
    except TransportError:
        raise
    except (Exception, SystemExit):
        LOGGER.exception('process %d: its monitor %r failed; it is called again', job.pid, monitor['name'])
        return None


def _outcome(monitor: Mapping[str, Any], said: Any) -> Outcome | None:
    name = monitor['name']
    if isinstance(said, ExitCode):
        if said.status == 0:
            return None
        return Outcome(Verdict.MONITOR, detail=said.message or f'ended by the monitor {name!r}', code=said.status)
    if isinstance(said, str):
        return Outcome(Verdict.MONITOR, detail=said or f'ended by the monitor {name!r}')
    LOGGER.warning('the monitor %r has returned %r; it returns None, a text or an ExitCode', name, said)
    return None
