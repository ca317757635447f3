"""OS processes, as /proc shows them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: Seconds between two looks at an OS process.
GLANCE = 0.02


class OsProcess(NamedTuple):
    """One OS process, told from a later one with the same pid by the time of its start."""

    pid: int
    name: str
    parent: int
    started: int

    @classmethod
    def read(cls, stat: str) -> OsProcess | None:
        """Make it of a /proc/PID/stat; None for one that has ended, though nobody has taken notice yet."""
        # the name, in parentheses, may itself have blanks and parentheses
        before, _, after = stat.rpartition(')')
        pid, _, name = before.partition(' (')
        fields = after.split()
        return None if fields[0] in 'ZX' else cls(int(pid), name, int(fields[1]), int(fields[19]))

    @classmethod
    def find(cls, pid: int | str) -> OsProcess | None:
        """The OS process that has this pid now."""
        try:
            return cls.read(Path(f'/proc/{pid}/stat').read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        now = self.find(self.pid)
        return now is not None and now.started == self.started

    def send(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.is_running:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def family(self) -> list[OsProcess]:
        """It and those below it that run the same program: a server and its sessions, but not what these run."""
        children: dict[int, list[OsProcess]] = {}
        for each in _all():
            children.setdefault(each.parent, []).append(each)

        def below(parent: OsProcess) -> Iterator[OsProcess]:
            for child in children.get(parent.pid, ()):
                if child.name == parent.name:
                    yield child
                    yield from below(child)

        return [self, *below(self)]


def _all() -> Iterator[OsProcess]:
    for entry in os.listdir('/proc'):
        if entry.isdecimal() and (found := OsProcess.find(entry)) is not None:
            yield found


def working_in(folder: Path) -> list[OsProcess]:
    """The OS processes whose working directory is ``folder``, as far as this user may know."""
    found = []
    for each in _all():
        try:
            if os.path.samefile(f'/proc/{each.pid}/cwd', folder):
                found.append(each)
        except OSError:  # ended, or another user's
            continue
    return found


def kill(processes: Iterable[OsProcess]) -> None:
    """End OS processes with SIGKILL; returns when they have ended."""
    processes = list(processes)
    for each in processes:
        each.send(signal.SIGKILL)
    for each in processes:
        while each.is_running:
            time.sleep(GLANCE)
