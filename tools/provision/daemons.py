"""Programs that outlive the one that starts them, and are found again by what is written in a file."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .processes import GLANCE, OsProcess, kill

# The pid is on record before the program runs, so that no program runs unrecorded. It is the same after `exec`.
_RECORD_AND_RUN = 'cat /proc/$$/stat >"$0.new" && mv "$0.new" "$0" && exec "$@"'


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
    def process(self) -> OsProcess | None:
        """Its OS process while it runs, else None."""
        try:
            recorded = OsProcess.read(self._pid_file.read_text())
        except FileNotFoundError:
            return None
        if recorded is None or not recorded.is_running:
            return None
        # by now it may have another name than the shell that wrote the record
        return OsProcess.find(recorded.pid)

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self.process is not None

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        user: str | None = None,
    ) -> None:
        """Start it, in its folder; returns when its pid is on record.

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
                cwd=self._pid_file.parent,
                check=True,
            )
        deadline = time.monotonic() + 10.0
        while not self.is_recorded:
            if time.monotonic() > deadline:
                raise OSError(f'{command[0]} did not start; {self.log} may say why')
            time.sleep(GLANCE)

    def family(self) -> list[OsProcess]:
        """Its OS process, and those below it that run the same program."""
        process = self.process
        return [] if process is None else process.family()

    def send(self, number: int) -> None:
        """Send its family a signal."""
        for each in self.family():
            each.send(number)

    def stop(self, *, number: int = signal.SIGTERM, patience: float = 20.0) -> None:
        """Ask it to end with a signal, and end it after ``patience`` seconds; forget it then."""
        process = self.process
        if process is not None:
            process.send(number)
            deadline = time.monotonic() + patience
            while process.is_running and time.monotonic() < deadline:
                time.sleep(GLANCE)
            self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End its family with SIGKILL; it stays on record as one that has died."""
        kill(self.family())

    def end_of_log(self, lines: int = 5) -> str:
        """The last lines of its log, on one."""
        if not self.log.exists():
            return f'{self.log} is not there'
        last = self.log.read_text(errors='replace').splitlines()[-lines:]
        return f'the end of {self.log}: {" / ".join(last) or "(it is empty)"}'


def as_user(user: str, command: Sequence[str | Path]) -> list[str | Path]:
    """The command that makes root run ``command`` as another user; the pid stays the same."""
    return ['setpriv', f'--reuid={user}', f'--regid={user}', '--clear-groups', '--', *command]
