"""Engines on stores of their own, scripts in interpreters of their own; no test leaves a thread behind."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import pytest

from treadle.engine import Engine


def _load(name: str, path: Path) -> ModuleType:
    # By path: with import-mode=importlib neither the checkout nor tests/ is on sys.path.
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_leaks = _load('treadle_tests_leaks', Path(__file__).parents[1] / 'support' / 'leaks.py')
no_leaked_threads = _leaks.no_leaked_threads
quiet_asyncio = _leaks.quiet_asyncio

#: Seconds after which something that should have happened never will.
PATIENCE = 30.0


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    return f'sqlite:///{tmp_path}/store.db'


@pytest.fixture
def make_engine(no_leaked_threads: None, store: str) -> Iterator[Callable[..., Engine]]:
    """Makes engines that run, by default on the same store, and stops them after the test."""
    made: list[Engine] = []

    def make(url: str = store, **kwargs: Any) -> Engine:
        engine = Engine(url, **kwargs)
        made.append(engine)
        return engine.start()

    yield make
    for engine in made:
        engine.stop()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """A running engine."""
    return make_engine()


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

        def found() -> str | None:
            return next((line for line in self._lines if line.startswith(text) or not line), None)

        with self._grown:
            line = self._grown.wait_for(found, PATIENCE)
        assert line, f'the script never printed {text!r}:\n{"".join(self._lines)}\n{"".join(self._errors)}'
        return line.removeprefix(text).strip()

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
        process = subprocess.Popen(
            [sys.executable, '-X', 'dev', '-X', 'faulthandler', '-W', 'error', str(path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, 'TREADLE_STORE': self.store, 'PYTHONUNBUFFERED': '1', **environment},
            start_new_session=True,
        )
        script = Script(process)
        self._running.append(script)
        return script

    def run(self, text: str, *arguments: str, name: str = 'script.py', **environment: str) -> Ended:
        """Run a script to its end."""
        return self.begin(text, *arguments, name=name, **environment).end()

    def close(self) -> None:
        """End what still runs."""
        for script in self._running:
            script.__exit__(None, None, None)


@pytest.fixture
def scripts(no_leaked_threads: None, tmp_path: Path, store: str) -> Iterator[Scripts]:
    """Runs scripts."""
    scripts = Scripts(tmp_path, store)
    yield scripts
    scripts.close()
