"""OS processes that outlive the one that starts them, and are found again by what is written in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Seconds between two looks at an OS process.
GLANCE = 0.02

# The pid is on record before the program runs, so that no program runs unrecorded. It is the same after `exec`.
_RECORD_AND_RUN = 'cat /proc/$$/stat >"$0.new" && mv "$0.new" "$0" && exec "$@"'


def _stat(pid: int | str) -> tuple[int, int, str, int] | None:
    """Pid, parent, state and start time of an OS process; None when there is none."""
    try:
        return _parse(Path(f'/proc/{pid}/stat').read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def _parse(stat: str) -> tuple[int, int, str, int]:
    # the name, in parentheses, may itself have blanks and parentheses
    pid = stat.partition(' ')[0]
    rest = stat.rpartition(')')[2].split()
    return int(pid), int(rest[1]), rest[0], int(rest[19])


def descendants(pid: int) -> list[int]:
    """The children of an OS process, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir('/proc'):
        if entry.isdecimal() and (stat := _stat(entry)) is not None:
            children.setdefault(stat[1], []).append(stat[0])

    def below(parent: int) -> Iterator[int]:
        for child in children.get(parent, ()):
            yield child
            yield from below(child)

    return list(below(pid))


def working_in(folder: Path) -> list[int]:
    """The OS processes whose working directory is ``folder``, as far as this user may know."""
    found = []
    for entry in os.listdir('/proc'):
        try:
            if entry.isdecimal() and os.path.samefile(f'/proc/{entry}/cwd', folder):
                found.append(int(entry))
        except OSError:  # ended, or another user's
            continue
    return found


class Daemon:
    """A program in the background, in a session of its own.

    ``FOLDER/NAME.pid`` tells which OS process it is, by pid and start time, so that a later process which has got
    the same pid is never taken for it. What it prints goes to ``FOLDER/NAME.log``.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f'{name}.log'
        self._pid_file = folder / f'{name}.pid'

    @property
    def is_recorded(self) -> bool:
        """Whether it was started and not stopped since; it may have died."""
        return self._pid_file.exists()

    @property
    def pid(self) -> int | None:
        """Its pid while it runs, else None."""
        try:
            pid, _, _, started = _parse(self._pid_file.read_text())
        except FileNotFoundError:
            return None
        now = _stat(pid)
        # a zombie has ended; that its parent takes no notice does not matter here
        return pid if now is not None and now[3] == started and now[2] not in 'ZX' else None

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        user: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it; returns when its pid is on record.

        :param user: the user that it runs as, when that is another.
        """
        self._pid_file.unlink(missing_ok=True)
        if user is not None:
            command = as_user(user, command)
        with open(self.log, 'ab') as log:
            subprocess.run(
                ['setsid', '--fork', 'sh', '-c', _RECORD_AND_RUN, self._pid_file, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                cwd=cwd,
                check=True,
            )
        deadline = time.monotonic() + 10.0
        while not self.is_recorded:
            if time.monotonic() > deadline:
                raise OSError(f'{command[0]} did not start; {self.log} may say why')
            time.sleep(GLANCE)

    def send(self, number: int) -> list[int]:
        """Send a signal to it and to all OS processes below it; returns their pids."""
        pid = self.pid
        if pid is None:
            return []
        reached = [pid, *descendants(pid)]
        for each in reached:
            _send(each, number)
        return reached

    def stop(self, *, number: int = signal.SIGTERM, patience: float = 20.0) -> None:
        """Ask it to end with a signal, and end it after ``patience`` seconds; forget it then."""
        pid = self.pid
        if pid is not None:
            _send(pid, number)
            if not self._ends_within(patience):
                self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it, and what is below it, at once; it stays on record as one that has died."""
        killed = self.send(signal.SIGKILL)
        self._ends_within(20.0)
        for each in killed:
            while (stat := _stat(each)) is not None and stat[2] not in 'ZX':
                time.sleep(GLANCE)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(GLANCE)
        return True


def _send(pid: int, number: int) -> None:
    """Send a signal to an OS process, which may just have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def as_user(user: str, command: Sequence[str | Path]) -> list[str | Path]:
    """The command that makes root run ``command`` as another user; the pid stays the same."""
    return ['setpriv', f'--reuid={user}', f'--regid={user}', '--clear-groups', '--', *command]
