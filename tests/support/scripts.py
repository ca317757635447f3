"""Programs in interpreters of their own: started, listened to, interrupted, waited for."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

#: Seconds after which something that should have happened never will; tests that run scripts have longer.
PATIENCE = 150.0

#: An interpreter that hides nothing.
STRICT_PYTHON = (sys.executable, '-X', 'dev', '-X', 'faulthandler', '-W', 'error')


@dataclasses.dataclass
class Ended:
    """What a script has left."""

    code: int
    out: str
    err: str


class Script:
    """A running script of its own OS process and process group."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._grown = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self._lines), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self._errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._grown:
                lines.append(line)
                self._grown.notify_all()
        with self._grown:
            lines.append('')  # the end
            self._grown.notify_all()

    def wait_for(self, text: str) -> str:
        """Wait until the script has printed a line that begins with ``text``; returns the rest of it."""
        return self._wait_for(text, self._lines, lambda line: line.startswith(text)).removeprefix(text).strip()

    def wait_for_log(self, text: str) -> str:
        """Wait until a line of the script's standard error has ``text`` in it; returns what follows it."""
        return self._wait_for(text, self._errors, lambda line: text in line).partition(text)[2].strip()

    def _wait_for(self, text: str, lines: list[str], fits: Callable[[str], bool]) -> str:
        def found() -> str | None:
            return next((line for line in lines if fits(line) or not line), None)

        with self._grown:
            line = self._grown.wait_for(found, PATIENCE)
        assert line, f'the script never printed {text!r}:\n{"".join(self._lines)}\n{"".join(self._errors)}'
        return line

    def interrupt(self) -> None:
        """Ctrl-C: the signal goes to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout: float = PATIENCE) -> Ended:
        """Wait for the end."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            self.process.wait(10)
            pytest.fail(f'the script hangs:\n{"".join(self._lines)}\n{"".join(self._errors)}', pytrace=False)
        for reader in self._readers:
            reader.join(PATIENCE)
        return Ended(self.process.returncode, ''.join(self._lines), ''.join(self._errors))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr, self.process.stdin):
            if stream is not None:
                stream.close()


def launch(command: Sequence[str | Path], *, folder: Path, **environment: str) -> Script:
    """Start a program in a process group of its own, in ``folder``, with these environment variables added."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, 'PYTHONUNBUFFERED': '1', **environment},
        start_new_session=True,
    )
    return Script(process)


class Scripts:
    """Runs scripts in a folder of their own, on one default store, with every warning an error."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
        self._running: list[Script] = []

    def write(self, text: str, name: str = 'script.py') -> Path:
        """Write a script."""
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def begin(self, text: str, *arguments: str, name: str = 'script.py', **environment: str) -> Script:
        """Start a script."""
        path = self.write(text, name)
        # A busy machine holds loops as well, and this is no news.
        environment = {'TREADLE_STORE': self.store, 'TREADLE_WATCHDOG': '60', **environment}
        script = launch([*STRICT_PYTHON, path, *arguments], folder=self.folder, **environment)
        self._running.append(script)
        return script

    def run(self, text: str, *arguments: str, name: str = 'script.py', **environment: str) -> Ended:
        """Run a script to its end."""
        return self.begin(text, *arguments, name=name, **environment).end()

    def close(self) -> None:
        """End what still runs."""
        for script in self._running:
            script.__exit__(None, None, None)
