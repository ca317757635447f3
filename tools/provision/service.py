"""What all services have in common: a folder, ports, daemons, and the states that these can be in."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self

from . import packages, ports
from .daemons import Daemon
from .processes import GLANCE

State = Literal['up', 'down', 'crashed', 'silent']


class ServiceError(Exception):
    """What a service cannot do here, such as to start; says why, and what to do about it."""


class Service:
    """A private instance of a service in a folder of its own; a context manager that starts it, stops it and cleans up.

    The folder holds all there is to know of it: made a second time on the same folder, in whatever OS process, it is
    the same instance. It keeps its ports and its data over `stop` and `start`.

    :param folder: made when it is not there.
    """

    name: ClassVar[str]
    #: The Debian packages that it comes from.
    packages: ClassVar[tuple[str, ...]]
    #: The programs that it runs, by name or by a pattern of the path.
    programs: ClassVar[tuple[str, ...]]
    #: What its ports are for.
    port_names: ClassVar[tuple[str, ...]]
    #: Its daemons in the order of their start; `kill` and `send` mean the last one.
    daemon_names: ClassVar[tuple[str, ...]]
    #: Seconds that it gets to come up; a busy machine needs a multiple of what an idle one does.
    patience: ClassVar[float] = 60.0
    #: What asks its daemons to end.
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.daemons = [Daemon(name, self.folder) for name in self.daemon_names]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({str(self.folder)!r})'

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self.remove()

    # -- what each service says for itself ------------------------------------------------------------------------

    def answers(self) -> bool:
        """Whether it does what a client would ask of it first."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The variables that tell tests, or people, where it is."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Write what it needs before it starts; called before every start."""
        raise NotImplementedError

    def _launch(self) -> None:
        """Start the daemons that do not run."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Set up what takes a service that answers; called after every start."""

    # -- what holds for all ---------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """``up``, ``down``, ``crashed`` (started, and then gone without being stopped), or ``silent`` (no answer)."""
        if not any(daemon.is_recorded for daemon in self.daemons):
            return 'down'
        if not all(daemon.is_running for daemon in self.daemons):
            return 'crashed'
        return 'up' if self.answers() else 'silent'

    @property
    def ports(self) -> dict[str, int]:
        """Its ports by what they are for; empty before its first start."""
        try:
            recorded: dict[str, int] = json.loads(self._ports_file.read_text())
        except FileNotFoundError:
            return {}
        return recorded

    @property
    def pids(self) -> dict[str, int]:
        """Its daemons that run, and their pids."""
        running = {daemon.name: daemon.process for daemon in self.daemons}
        return {name: process.pid for name, process in running.items() if process is not None}

    @property
    def user(self) -> str:
        """The user who calls, and whom most services run as."""
        return pwd.getpwuid(os.geteuid()).pw_name

    def install(self) -> None:
        """Install its Debian packages when programs are missing.

        :raises ServiceError: this user may not, or it did not work.
        """
        missing = self._missing()
        if not missing:
            return
        remedy = f'apt-get install {" ".join(self.packages)}'
        what = f'{", ".join(missing)} not found'
        if not packages.may_install():
            raise ServiceError(f'{what}; on Debian: sudo {remedy}')
        failure = packages.install(self.packages)
        if failure is not None:
            raise ServiceError(f'{what}, and `{remedy}` failed: {failure}')
        if missing := self._missing():
            raise ServiceError(f'{", ".join(missing)} not found, even after `{remedy}`')

    def start(self) -> None:
        """Start what does not run, and wait until it answers; does nothing when it is up.

        :raises ServiceError: it cannot be had, or does not come up.
        """
        if self.state == 'up':
            return
        if missing := self._missing():
            raise ServiceError(
                f'{", ".join(missing)} not found; on Debian: sudo apt-get install {" ".join(self.packages)}'
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.ports:
            chosen = ports.choose(len(self.port_names))
            self._ports_file.write_text(json.dumps(dict(zip(self.port_names, chosen, strict=True))))
        if not self.pids:
            self._require_ports()
        if not all(daemon.is_running for daemon in self.daemons):
            self._prepare()
            self._launch()
        self._wait_until_it_answers()
        self._settle()

    def stop(self) -> None:
        """End its daemons in good order, the last one first; its data and its ports stay."""
        for daemon in reversed(self.daemons):
            daemon.stop(number=self.stop_signal)

    def end(self) -> None:
        """Stop it for good, and what it has set going."""
        self.stop()

    def kill(self) -> None:
        """End its main daemon, with its sessions, by SIGKILL; `start` brings it back on the same ports."""
        self.daemons[-1].kill()

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def send(self, number: int) -> None:
        """Send its main daemon, with its sessions, a signal: SIGSTOP makes it silent, SIGCONT ends that."""
        self.daemons[-1].send(number)

    def forget_ports(self) -> None:
        """Let the next start choose ports anew."""
        self._ports_file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder of a service that is stopped, with all its data."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- for the services -----------------------------------------------------------------------------------------

    @property
    def _ports_file(self) -> Path:
        return self.folder / 'ports.json'

    def _missing(self) -> list[str]:
        return [Path(program).name for program in self.programs if packages.find(program) is None]

    def _program(self, name: str) -> Path:
        """The path of one of its programs."""
        pattern = next(program for program in self.programs if Path(program).name == name)
        found = packages.find(pattern)
        if found is None:
            raise ServiceError(f'{name} not found; on Debian: sudo apt-get install {" ".join(self.packages)}')
        return found

    def _environment(self, **more: str) -> dict[str, str]:
        """The environment of its daemons: nothing of the user's own gets in."""
        return {'PATH': packages.PATH, 'HOME': str(self.folder), 'LANG': 'C.UTF-8', 'TZ': 'UTC', **more}

    def _call(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, given: str | None = None
    ) -> str:
        """Run a program of the service to its end; returns what it prints.

        :param given: what it reads.
        :raises ServiceError: it failed; its own words are in the message.
        """
        try:
            done = subprocess.run(
                command,
                env=dict(environment or self._environment()),
                input=given or '',
                capture_output=True,
                text=True,
                timeout=self.patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f'{Path(command[0]).name} did not end within {self.patience:g} s') from None
        if done.returncode != 0:
            said = ' '.join((done.stderr or done.stdout).split())
            raise ServiceError(f'{Path(command[0]).name} ended with {done.returncode}: {said}')
        return done.stdout

    def _require_ports(self) -> None:
        taken = [f'{port} ({name})' for name, port in self.ports.items() if not ports.is_free(port)]
        if taken:
            raise ServiceError(
                f'another program has taken port {", ".join(taken)}; remove {self._ports_file} to have others chosen'
            )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            dead = [daemon for daemon in self.daemons if not daemon.is_running]
            if dead:
                raise ServiceError(f'{dead[0].name} ended; {dead[0].end_of_log()}')
            if self.answers():
                return
            if time.monotonic() > deadline:
                raise ServiceError(f'no answer within {self.patience:g} s; {self.daemons[-1].end_of_log()}')
            time.sleep(GLANCE)


def is_root() -> bool:
    """Whether this is the user who may be any other."""
    return os.geteuid() == 0
