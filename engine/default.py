"""The default engine: started on first use, stopped at interpreter exit; what module-level calls use."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from ..threads import StopTimeout, run_in_child
from .engine import Engine, running_engines
from .errors import StoreError
from .node import ProcessNode, ResultAndNode, ResultAndPid
from .process_host import ProcessHost
from .processes.functions import set_default_host
from .processes.visit import clear_current, current_visit
from .tracebacks import SHORT_TRACEBACK

__all__ = ['default_engine', 'run', 'run_get_node', 'run_get_pid', 'submit']

LOGGER = logging.getLogger(__name__)

#: Seconds that the interpreter's exit waits for steps to come to their checkpoint; for steps of killed processes, which
#: have none to come to; and when a second Ctrl-C has said that nobody wants to wait.
EXIT_PATIENCE, KILLED_PATIENCE, HASTE = 10.0, 2.0, 0.2

_lock = threading.Lock()
_engine: Engine | None = None


def default_engine() -> Engine:
    """The engine of this OS process that nobody made explicitly; started on first use.

    Its store is ``TREADLE_STORE``, else a file in the user's data directory.
    """
    global _engine
    with _lock:
        if _engine is None or not _engine.is_running:
            _engine = Engine(name='default').start()
            _stop_with_child()
        return _engine


def current_engine() -> Engine:
    """The engine that runs the present step, else the default engine."""
    visit = current_visit()
    if visit is not None and isinstance(visit.host, ProcessHost):
        return visit.host.engine
    return default_engine()


def run(process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> Any:
    """Run a process to its end and return its outputs; see :meth:`Engine.run`.

    Uses the engine that runs the present step, else the default engine.
    """
    with SHORT_TRACEBACK:
        return current_engine().run(process, inputs, **kwargs)


def run_get_node(
    process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
) -> ResultAndNode[Any]:
    """Like :func:`run`, and return the process's node too; see :meth:`Engine.run_get_node`."""
    with SHORT_TRACEBACK:
        return current_engine().run_get_node(process, inputs, **kwargs)


def run_get_pid(
    process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
) -> ResultAndPid[Any]:
    """Like :func:`run`, and return the process's number too; see :meth:`Engine.run_get_pid`."""
    return current_engine().run_get_pid(process, inputs, **kwargs)


def submit(process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> ProcessNode:
    """Start a process in the background, durable on return; see :meth:`Engine.submit`."""
    with SHORT_TRACEBACK:
        return current_engine().submit(process, inputs, **kwargs)


# The other way to say it, which users of aiida are used to: run.get_node(...).
run.get_node = run_get_node  # type: ignore[attr-defined]
run.get_pid = run_get_pid  # type: ignore[attr-defined]


def _stop_with_child() -> None:
    """Have engines stopped at the end of a child of ``multiprocessing`` too, which calls no function of ``atexit``."""
    if 'multiprocessing.util' not in sys.modules:
        return
    from multiprocessing import process, util  # noqa: PLC0415 - who does not use it need not import it

    if process.parent_process() is not None:
        util.Finalize(None, _stop_at_exit, exitpriority=0)


def _stop_at_exit() -> None:
    for engine in running_engines():
        try:
            _stop(engine)
        except KeyboardInterrupt:
            _say(f'interrupted while engine {engine.name!r} was stopping; what it ran goes on from its last checkpoint')


def _stop(engine: Engine) -> None:
    try:
        engine.stop(_patience(engine))
    except StopTimeout as error:
        _say(str(error))
    except Exception as error:
        _say(f'engine {engine.name!r} stopped with {error!r}')
    try:
        unfinished = engine.unfinished()
    except StoreError as error:
        _say(f'whether all submitted processes have ended cannot be said: {error}')
        return
    if unfinished:
        how = 'this script runs again' if engine.core.membership.script else "an engine with claims='all' runs on it"
        _say(
            f'{len(unfinished)} submitted process(es) have not ended: {_enumerate(unfinished)}. They are safe in '
            f'{engine.location.url} and go on when {how}; `treadle ps` shows them.'
        )


def _patience(engine: Engine) -> float:
    if engine.is_running and engine.core.calls.intents.in_haste:
        return HASTE
    visits = engine.core.dispatcher.visits()
    return KILLED_PATIENCE if visits and all(visit.is_dead for visit in visits) else EXIT_PATIENCE


def _say(message: str) -> None:
    sys.stderr.write(f'treadle: {message}\n')


def _enumerate(pids: list[int]) -> str:
    shown = ', '.join(map(str, pids[:10]))
    return shown if len(pids) <= 10 else f'{shown}, ...'


def _after_fork() -> None:
    """A forked child has none of the engine's threads: forget it, and start anew on first use."""
    global _engine, _lock
    _lock = threading.Lock()
    _engine = None
    clear_current()


set_default_host(lambda: current_engine().core.host)
atexit.register(_stop_at_exit)
run_in_child(_after_fork)
