"""A computer as its desk sees it: what is done there, by which commands. Nothing is remembered, nothing is decided.

Every operation may raise a ``TransportError``, and then may have happened or not; what to make of that is the desk's
business, see :mod:`~treadle.engine.jobs.protocol`.
"""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeAlias

from ..errors import ConnectionLost, FileTooLarge
from ..jobs import scripts
from ..jobs.computer import Computer
from ..jobs.protocol import Findings
from ..jobs.request import JobRequest
from ..jobs.schedulers import Entry, Listing, Reply, Scheduler, SchedulerReplyError, scheduler_of
from ..transports import AsyncTransport, CommandResult

__all__ = ['Site', 'WorkDirectoryAway', 'stage']

#: Gives a transport to the computer for a while.
Borrow: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncTransport]]

#: So many folders are looked into by one command.
LOOK_AT_ONCE = 500

_PLACE = r"""
cd "$1" || exit 1
shift
while [ $# -ge 3 ]; do
    case $3 in */*) mkdir -p "${3%/*}" || exit 1 ;; esac
    case $1 in
    copy) cp -R "$2" "$3" || exit 1 ;;
    link) rm -f "$3"; ln -s "$2" "$3" || exit 1 ;;
    esac
    shift 3
done
"""


class WorkDirectoryAway(OSError):
    """A work directory does not show what is in it, which may pass."""

    def __init__(self, computer: str, folder: str) -> None:
        super().__init__(
            errno.ESTALE,
            f'the work directory {folder} is not there on {computer}, or cannot be written; see whether it is mounted',
        )

    def __str__(self) -> str:
        return str(self.strerror)


class Site:
    """What can be done on one computer.

    :param computer: its definition.
    :param borrow: gives a transport.
    :param patience: seconds that a command may take.
    """

    def __init__(self, computer: Computer, borrow: Borrow, *, patience: float) -> None:
        self.computer = computer
        self.scheduler: Scheduler = scheduler_of(computer.scheduler)
        self._borrow = borrow
        self._patience = patience
        self._base: str | None = None

    def transport(self) -> AbstractAsyncContextManager[AsyncTransport]:
        """A transport, for a while."""
        return self._borrow()

    async def base(self) -> str:
        """The absolute path of the work directory; asked once."""
        if self._base is None:
            async with self._borrow() as transport:
                account = await transport.account()
            self._base = self.computer.base_folder(account.home)
        return self._base

    def away(self) -> WorkDirectoryAway:
        """The error that says so."""
        return WorkDirectoryAway(self.computer.name, self._base or self.computer.work_directory)

    async def probe(self) -> None:
        """Ask for the least."""
        await self._run(['true'])

    async def upload(self, staged: Path, request: JobRequest, folder: str) -> None:
        """Put there what :func:`stage` has made, and what is to be copied from elsewhere on the computer.

        :raises OSError: the computer does not take it, and says why.
        """
        async with self._borrow() as transport:
            await transport.put_tree(staged, folder)
            acts = [('copy', *pair) for pair in request.copies] + [('link', *pair) for pair in request.links]
            if acts:
                words = [word for act in acts for word in (act[0], act[1], f'./{act[2]}')]
                result = await transport.run(['sh', '-c', _PLACE, 'treadle-place', folder, *words], timeout=None)
                if result.exit_code != 0:
                    raise OSError(f'{self.computer.name}: {result.message or "a copy there failed"}')

    async def submit(self, folder: str, name: str, request: JobRequest) -> Findings:
        """Submit an attempt, if its ticket can be had; what its folder holds afterwards."""
        text = self.scheduler.submit_text(
            scripts.JOB_SCRIPT, name, request.resources, shebang=request.shebang
        )
        result = await self._run(scripts.submit_argv(folder, text))
        return self._looked(result)[folder]

    async def look(
        self, folders: Sequence[str], *, revoke: str | None = None, void: str | None = None
    ) -> dict[str, Findings]:
        """What folders hold; see :func:`~treadle.engine.jobs.scripts.look_argv`."""
        argv = scripts.look_argv(revoke=revoke, void=void)
        found: dict[str, Findings] = {}
        for start in range(0, len(folders), LOOK_AT_ONCE):
            some = folders[start : start + LOOK_AT_ONCE]
            lines = ''.join(f'{folder}\n' for folder in some).encode(errors='surrogateescape')
            found.update(self._looked(await self._run(argv, stdin=lines)))
        return {folder: found.get(folder, Findings()) for folder in folders}

    def _looked(self, result: CommandResult) -> dict[str, Findings]:
        found = scripts.parse_look(result.stdout)
        if found is None:
            raise ConnectionLost(
                f'{self.computer.name} did not say what is in the folders of jobs (exit code {result.exit_code}): '
                f'{result.message}'
            )
        return found

    async def listing(self, job_ids: Sequence[str]) -> Listing:
        """The scheduler's queue.

        :raises SchedulerReplyError: it did not answer, or not whole.
        """
        reply = await self._ask(self.scheduler.list_argv(job_ids))
        return self.scheduler.read_listing(reply)

    async def find(self, name: str) -> Entry | None:
        """A job by its name.

        :raises SchedulerReplyError: the scheduler did not answer, or not whole.
        """
        argv = self.scheduler.find_argv(name) or self.scheduler.list_argv(())
        return self.scheduler.read_listing(await self._ask(argv)).by_name.get(name)

    async def detail(self, job_id: str) -> Entry | None:
        """What the scheduler knows of a job that is not in its queue; ``None`` if nothing.

        :raises SchedulerReplyError: it did not answer.
        """
        argv = self.scheduler.detail_argv(job_id)
        return None if argv is None else self.scheduler.read_detail(await self._ask(argv), job_id)

    async def cancel(self, job_id: str, name: str) -> None:
        """Cancel a job.

        :raises SchedulerReplyError: the scheduler did not do it.
        """
        self.scheduler.read_cancel(await self._ask(self.scheduler.cancel_argv(job_id, name)))

    async def retrieve(self, folder: str, patterns: Iterable[str], target: Path) -> tuple[str, ...]:
        """Copy the files that patterns stand for into a local folder; returns the patterns that stand for nothing.

        :raises OSError: the computer does not give them, and says why.
        :raises FileTooLarge: there is no room for them here.
        """
        # They are here twice for a while: in the folder, and as contents of the store.
        room = shutil.disk_usage(target).free // 2
        try:
            async with self._borrow() as transport:
                return tuple(await transport.get_matching(folder, target, patterns=patterns, max_bytes=room))
        except FileTooLarge as error:
            raise FileTooLarge(f'there is no room here for what is to be retrieved: {error}') from error
        except FileNotFoundError:
            if (await self.look([folder]))[folder].is_away:
                raise self.away() from None
            raise

    async def _ask(self, argv: Sequence[str]) -> Reply:
        result = await self._run(argv)
        if result.truncated:
            raise SchedulerReplyError(f'{self.computer.name}: the reply of {shlex.join(argv)[:80]} is too long')
        return Reply(
            result.exit_code, result.stdout.decode(errors='replace'), result.stderr.decode(errors='replace')
        )

    async def _run(self, argv: Sequence[str], *, stdin: bytes = b'') -> CommandResult:
        async with self._borrow() as transport:
            return await transport.run(argv, stdin=stdin, timeout=self._patience, quick=True)


def stage(request: JobRequest, script: str, target: Path) -> None:
    """Lay out locally what the folder of an attempt is to hold; blocks."""
    request.files.copy_to(target)
    control = target / scripts.CONTROL
    control.mkdir()
    (target / scripts.JOB_SCRIPT).write_text(script, encoding='utf-8')
    (control / 'commands.sh').write_text(request.commands, encoding='utf-8')
