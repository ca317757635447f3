"""Many short OS processes of one script, each without the second that its imports cost.

A script calls :func:`serve` with its entry point. It reads orders from standard input, one JSON object a line, and
forks for each, from its only thread, before any engine exists. ``Scripts`` is the other end, for tests; it lets a
script import this module by its name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: Seconds after which a run that hangs is ended by the kernel, with its stacks on standard error.
PATIENCE = 110


def serve(run: Callable[[dict[str, Any]], object]) -> None:
    """Answer orders until standard input ends: ``start`` forks and runs, ``wait`` and ``poll`` give the exit status."""
    # What every run needs, and what an engine imports only when it starts.
    import treadle.engine.store.postgresql.database
    import treadle.engine.store.schema
    import treadle.engine.store.sqlite.database
    import treadle.engine.store.statements
    import treadle.engine.values.container  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        if order['do'] != 'start':
            ended, status = os.waitpid(order['os_pid'], os.WNOHANG if order['do'] == 'poll' else 0)
            answer: dict[str, Any] = {'status': os.waitstatus_to_exitcode(status) if ended else None}
        else:
            os_pid = os.fork()
            if os_pid == 0:
                _run_in_child(run, order)
            answer = {'os_pid': os_pid}
        sys.stdout.write(json.dumps(answer) + '\n')
        sys.stdout.flush()


def _run_in_child(run: Callable[[dict[str, Any]], object], order: dict[str, Any]) -> None:
    import faulthandler

    status = 1
    try:
        os.close(0)
        os.dup2(2, 1)
        stream = os.open(order['stderr'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(stream, 2)
        faulthandler.dump_traceback_later(order.get('patience', PATIENCE), exit=True)
        if order.get('die_after') is not None:
            # SIGALRM's default action ends a process as abruptly as SIGKILL, at a moment that the kernel keeps.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, order['die_after'])
        run(order)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Scripts:
    """Runs of one script, from any thread; but whoever waits for a run keeps the others from asking.

    :param path: the script, which calls :func:`serve`.
    :param folder: where the runs' standard error goes.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._stderr = folder / f'{path.stem}-stderr.txt'
        self._lock = threading.Lock()
        self._server = subprocess.Popen(
            [sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, 'PYTHONPATH': str(Path(__file__).parent)},
        )  # fmt: skip

    def start(self, **order: Any) -> int:
        """Start a run; returns its OS pid."""
        return int(self._ask({'do': 'start', 'stderr': str(self._stderr), **order})['os_pid'])

    def wait(self, os_pid: int) -> int:
        """The exit status of a run: negative when a signal ended it."""
        return int(self._ask({'do': 'wait', 'os_pid': os_pid})['status'])

    def poll(self, os_pid: int) -> int | None:
        """The exit status of a run, which is asked for once; ``None`` while it runs."""
        status = self._ask({'do': 'poll', 'os_pid': os_pid})['status']
        return None if status is None else int(status)

    def run(self, **order: Any) -> int:
        """Start a run and wait for it."""
        return self.wait(self.start(**order))

    @property
    def stderr(self) -> str:
        """What all runs have said so far."""
        return self._stderr.read_text() if self._stderr.exists() else ''

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._server.stdin, self._server.stdout
        if stdin is None or stdout is None:
            raise RuntimeError('the script has no pipes')
        with self._lock:
            stdin.write(json.dumps(order) + '\n')
            stdin.flush()
            answer = stdout.readline()
        if not answer:
            raise RuntimeError('the script is gone; see its standard error above')
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server.stdin is not None:
            self._server.stdin.close()
        self._server.wait()
        if self._server.stdout is not None:
            self._server.stdout.close()
