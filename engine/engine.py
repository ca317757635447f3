"""``Engine``: the calls that a host makes.

What runs where is in ``docs/architecture.rst``; the parts are put together in ``core.py``. What processes ask of their
engine is in ``process_host.py``. Every public method may be called from any thread; those that block refuse Treadle's
own loops.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self, overload

from ..threads import WrongThread, refuse_on_loop_thread, wait
from .communication import Communicator
from .communication.address import address_of
from .config import Diagnostics, LogChoice, LogSettings
from .control import ProcessControl
from .core import Core
from .desk.timing import Timing
from .errors import CommunicatorClosed
from .faults import Faults, NoFaults
from .launch import resolve
from .listeners import Listeners, ProcessListener
from .messaging import Broadcasts
from .node import ProcessNode, ResultAndNode, ResultAndPid
from .processes.visit import current_visit
from .states import ProcessState
from .store.location import locate
from .tracebacks import SHORT_TRACEBACK
from .why import explain

__all__ = ['Engine']

_KILL_INSTEAD = 'await asyncio.to_thread(engine.kill, pid)'

_started: weakref.WeakSet[Engine] = weakref.WeakSet()


def running_engines() -> list[Engine]:
    """The engines of this OS process that are still to be stopped."""
    return [engine for engine in list(_started) if engine.core.state == 'running' and not engine.core.forked]


class Engine:
    """A durable process engine inside this OS process.

    :param store: URL of the store, ``sqlite:///path``; default ``TREADLE_STORE``, else a file in the user's data
        directory.
    :param broker: URL of a RabbitMQ broker, ``amqp://user:password@host:5672/vhost``, or ``amqps://...`` for TLS, with
        a virtual host of the store's own; default ``TREADLE_BROKER``, else no message leaves this OS process. It
        carries hints and messages: the engine works without it, and hears later of others. See ``docs/broker.rst``.
    :param broadcasts: which changes of state are broadcast: ``'all'``, ``'terminal'`` for the ends of processes, or
        ``'none'``.
    :param workers: how many threads with a loop of their own drive processes.
    :param steps: how many synchronous steps may execute at once; default as for ``ThreadPoolExecutor``.
    :param claims: ``'own'`` runs what this engine submitted and what ended engines of the same script have left;
        ``'all'`` runs whatever it can import.
    :param name: for people; default ``'engine'``.
    :param switch_interval: seconds for :func:`sys.setswitchinterval`, which is global to the interpreter; ``None``
        leaves it alone. Small values keep commits quick beside steps that burn CPU.
    :param lease: seconds after which other engines on the store may take over what this one runs, when they see no
        sign of life of it. Death of its OS process shows at once on the same host, so this counts where the process is
        there and does nothing: stopped, suspended, held up. Keep it well above such pauses.
    :param max_crashes: a process over which so many engines have died, one after the other and without a step of it
        having been committed in between, is paused, with the reason in its log stream; :meth:`play` lets it go on.
    :param logging: levels such as ``'INFO'`` or ``'INFO,asyncio=DEBUG'``, or a dictionary or the path of a TOML or
        JSON file with ``levels``, ``capture``, ``output`` and ``format`` (see ``docs/logging.rst``); in effect while
        the engine runs. Default ``TREADLE_LOGGING``, else nothing is configured.
    :param asyncio_debug: asyncio's debug mode on the worker loops; default ``TREADLE_ASYNCIO_DEBUG``, else as asyncio
        decides (``PYTHONASYNCIODEBUG``, ``python -X dev``).
    :param watchdog: seconds that a worker's loop may be held before a warning names the code that holds it; 0 is no
        watchdog; default ``TREADLE_WATCHDOG``, else 1.
    :param faults: for crash tests.
    :param timing: how patient it is with computers and their schedulers, for tests.
    :raises ConfigurationError: ``broker``, ``logging``, ``asyncio_debug`` or ``watchdog`` makes no sense.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. An engine starts once.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        broker: str | None = None,
        *,
        broadcasts: Broadcasts = 'all',
        workers: int = 2,
        steps: int | None = None,
        claims: Literal['own', 'all'] = 'own',
        name: str = 'engine',
        switch_interval: float | None = None,
        lease: float = 10.0,
        max_crashes: int = 5,
        logging: LogChoice | LogSettings | None = None,
        asyncio_debug: bool | None = None,
        watchdog: float | None = None,
        faults: Faults | None = None,
        timing: Timing | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f'workers must be at least 1, not {workers!r}')
        if claims not in ('own', 'all'):
            raise ValueError(f"claims must be 'own' or 'all', not {claims!r}")
        if broadcasts not in ('all', 'terminal', 'none'):
            raise ValueError(f"broadcasts must be 'all', 'terminal' or 'none', not {broadcasts!r}")
        if lease <= 0:
            raise ValueError(f'lease must be more than 0 seconds, not {lease!r}')
        if max_crashes < 1:
            raise ValueError(f'max_crashes must be at least 1, not {max_crashes!r}')
        self.name = name
        self.location = locate(store)
        self.core = Core(
            name=name,
            location=self.location,
            broker=address_of(broker),
            broadcasts=broadcasts,
            workers=workers,
            steps=min(32, (os.cpu_count() or 1) + 4) if steps is None else steps,
            claims_all=claims == 'all',
            switch_interval=switch_interval,
            lease=lease,
            max_crashes=max_crashes,
            diagnostics=Diagnostics.choose(logging=logging, asyncio_debug=asyncio_debug, watchdog=watchdog),
            faults=NoFaults() if faults is None else faults,
            timing=Timing() if timing is None else timing,
            engine=self,
        )
        self._listeners = Listeners(self.core.audience, lambda: self.core.source)

    # -- starting and stopping -----------------------------------------------------------------------------

    def start(self, timeout: float = 30.0, *, needs_broker: bool = True) -> Self:
        """Open the store, connect to the broker if there is one, start the threads, and take up what is to be run.

        :param timeout: seconds for all of it.
        :param needs_broker: ``False`` starts also when the broker is not there, and goes on trying until it is; one
            that refuses us is an error all the same.
        :raises StoreError: the store cannot be used; says why and what to do.
        :raises BrokerError: the broker cannot be reached, or does not let us in; says why and what to do.
        """
        core = self.core
        core.start(timeout, needs_broker=needs_broker)
        _started.add(self)
        core.begin()
        # Only now, since what is asked before could not be answered. Another thread may have stopped it already.
        with contextlib.suppress(CommunicatorClosed):
            core.communicator.add_process_subscriber(ProcessControl(self))
        return self

    def stop(self, timeout: float = 30.0) -> None:
        """Take nothing new, let each step that executes come to its checkpoint, and close everything.

        What is unfinished stays runnable in the store: stopping is no failure of a process. A step that is blocked in
        a call of Treadle's is unwound, and taken again by the next engine; one that is not over when most of the time
        has passed has its ``on_kill`` callbacks called. Jobs of killed processes are cancelled before this returns, as
        far as their computers answer within a few seconds; the next engine cancels the others. Safe to call again and
        from several threads: each call returns when the engine has stopped.

        :param timeout: seconds for all of it.
        :raises StopTimeout: steps still execute; names them. Their processes stay claimed while they do.
        :raises WrongThread: called by a step of this engine, which it would have to wait for, or on a Treadle loop.
        """
        if self.core.forked:
            return
        refuse_on_loop_thread('stop()', 'await asyncio.to_thread(engine.stop)')
        visit = current_visit()
        if visit is not None and visit.host is self.core.host:
            raise WrongThread(
                f'stop() of engine {self.name!r} was called by a step of its own (process {visit.pid}), for which it '
                f'would have to wait; stop it from the code that started it'
            )
        self.core.stop(time.monotonic() + timeout)

    def __repr__(self) -> str:
        return f'<Engine {self.name!r}, {self.core.state}, on {self.location.url}>'

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether calls are taken, in this OS process."""
        return self.core.is_running

    @property
    def communicator(self) -> Communicator:
        """Carries this engine's messages; closed with the engine.

        Broadcasts ``state_changed.<from>.<to>`` come from it after each commit, with the pid as sender, and RPCs to
        every pid of the store are answered while the engine runs. Tasks want a
        :class:`~treadle.engine.ProcessLauncher` as subscriber.
        """
        return self.core.communicator

    # -- running processes -----------------------------------------------------------------------------------

    def run(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> Any:
        """Run a process to its end and return its outputs.

        :param process: a process class, a process function or a builder of one; for a function, what calling it
            would return is returned.
        :param inputs: inputs as a mapping, also by the keyword ``inputs`` unless the process has an input of that
            name; keyword arguments add to them. ``metadata={'key': ...}`` makes the
            call idempotent: the same key, class and inputs attach to the process that is there.
        :raises ValidationError: the inputs do not fit.
        :raises KilledError: the process was killed.
        :raises WrongThread: called on one of Treadle's loops.
        :raises Exception: what the process raised.

        Ctrl-C kills the process and its children durably, gives what their steps have started some seconds to end (see
        :func:`~treadle.engine.on_kill`), then raises :class:`KeyboardInterrupt`. A second Ctrl-C raises it at once.
        """
        with SHORT_TRACEBACK:
            return self.run_get_node(process, inputs, **kwargs)[0]

    def run_get_node(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> ResultAndNode[Any]:
        """Like :meth:`run`, and return the process's node too."""
        refuse_on_loop_thread('run()', 'await engine.run_async()')
        with SHORT_TRACEBACK:
            return ResultAndNode(*self.core.take_call().run(*resolve(process, inputs, kwargs)))

    def run_get_pid(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> ResultAndPid[Any]:
        """Like :meth:`run`, and return the process's number too."""
        outputs, node = self.run_get_node(process, inputs, **kwargs)
        return ResultAndPid(outputs, node.pid)

    def submit(self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any) -> ProcessNode:
        """Start a process in the background; it is durable when this returns.

        Arguments and errors as for :meth:`run`.
        """
        refuse_on_loop_thread('submit()', 'await engine.run_async(), or self.submit() inside a step')
        with SHORT_TRACEBACK:
            return self.core.take_call().starts.submit(*resolve(process, inputs, kwargs))

    async def run_async(
        self, process: Any, inputs: Mapping[str, Any] | None = None, /, **kwargs: Any
    ) -> Any:
        """:meth:`run` for a host with a running loop: validates at once, then awaits the end.

        Cancelling the call leaves the process running; kill it if that is what you want.
        """
        with SHORT_TRACEBACK:
            return await self.core.take_call().run_async(*resolve(process, inputs, kwargs))

    # -- looking and waiting -----------------------------------------------------------------------------------

    @overload
    def wait(self, process: int | ProcessNode, timeout: float | None = None) -> ProcessNode: ...
    @overload
    def wait(
        self, process: Iterable[int | ProcessNode], timeout: float | None = None
    ) -> list[ProcessNode]: ...
    def wait(self, process: Any, timeout: float | None = None) -> ProcessNode | list[ProcessNode]:
        """Block until the process, or all of several, have ended.

        :param process: a pid, a node, or an iterable of them.
        :param timeout: seconds; ``None`` waits for ever.
        :returns: the final node, or the list of them.
        :raises ProcessNotFound: there is no such process.
        :raises TimeoutError: not all have ended in time; they go on.
        """
        refuse_on_loop_thread('wait()', 'await engine.wait_async()')
        nodes = self.core.take_call().waits.wait(process, timeout)
        return nodes[0] if isinstance(process, (int, ProcessNode)) else nodes

    async def wait_async(self, process: Any) -> ProcessNode | list[ProcessNode]:
        """:meth:`wait` for a host with a running loop; bound it with :func:`asyncio.timeout`."""
        nodes = await self.core.take_call().waits.wait_async(process)
        return nodes[0] if isinstance(process, (int, ProcessNode)) else nodes

    def future(self, pid: int | ProcessNode) -> Future[ProcessNode]:
        """A future of the final node; cancelling it leaves the process alone.

        Its callbacks may block: they are called on a thread of their own.

        :raises ProcessNotFound: there is no such process.
        """
        waits = self.core.take_call().waits
        (node,) = waits.nodes_of(pid)
        return waits.future_of(node)

    def load(self, pid: int) -> ProcessNode:
        """The node of a process.

        :raises ProcessNotFound: there is none.
        """
        self.core.take_call()
        return self.core.source.node(pid)

    def query(
        self,
        *,
        states: Collection[str | ProcessState] = (),
        process_label: str | None = None,
        key: str | None = None,
        top_level: bool = False,
        limit: int | None = None,
    ) -> list[ProcessNode]:
        """Processes by what they are, newest first.

        :param states: any of these states; none means all.
        :param process_label: the name of the class or function.
        :param key: the idempotency key.
        :param top_level: leave out what other processes have called.
        :param limit: at most so many.
        """
        self.core.take_call()
        records = self.core.source.reader.query(
            states=[ProcessState(state).value for state in states],
            process_label=process_label,
            key=key,
            top_level=top_level,
            limit=limit,
        )
        return [ProcessNode(record.pid, self.core.source, record) for record in records]

    def unfinished(self) -> list[int]:
        """The pids that this engine has submitted, not their children, and that have not ended; also after a stop."""
        if self.core.state != 'stopped':
            self.core.take_call()
        reader = self.core.source.reader
        return sorted(pid for life in self.core.membership.lives for pid in reader.unfinished_of(life))

    def why(self, pid: int | ProcessNode) -> dict[str, Any]:
        """Why a process is where it is, as plain data; ``because`` says it in sentences.

        Beside what ``treadle why PID --json`` prints, which ``docs/command.rst`` describes: ``executing``, whether a
        step of it executes in this engine now.

        :raises ProcessNotFound: there is no such process.
        """
        core = self.core
        core.take_call()
        number = pid.pid if isinstance(pid, ProcessNode) else pid
        parked = core.claims.parked.get(number)
        reasons = explain(core.source.reader, core.location, number, parked=parked)
        executing = any(visit.pid == number for visit in core.dispatcher.visits())
        if executing and reasons['state'] == ProcessState.KILLED:
            reasons['because'] += ' One does so now.'
        if (home := core.homes.get(number)) is not None:
            reasons['because'] += f' It is at home on {home!r}.'
        return {**reasons, 'executing': executing}

    # -- control -----------------------------------------------------------------------------------------------

    def kill(self, pid: int | ProcessNode, message: str | None = None) -> bool:
        """Kill a process and its descendants; durable when this returns, whatever runs.

        A step that executes is not interrupted: its results are dropped when it returns.

        :returns: whether it was killed by this call; ``False`` when it had ended before.
        :raises ProcessNotFound: there is no such process.
        :raises WrongThread: called on one of Treadle's loops.
        """
        refuse_on_loop_thread('kill()', _KILL_INSTEAD)
        calls = self.core.take_call()
        (node,) = calls.waits.nodes_of(pid)
        written = calls.intents.kill([node.pid], message or 'killed')
        killed = wait(written, what='kill()', instead=_KILL_INSTEAD)
        return node.pid in killed

    def pause(self, pid: int | ProcessNode, message: str | None = None) -> bool:
        """Pause a process and its descendants; durable when this returns, whatever runs.

        A step that executes is not interrupted; no other is taken after it. What waits goes on waiting, and stays put
        when it is woken. Whoever waits for a paused process waits on.

        :param message: the reason, for the process's log stream.
        :returns: whether it was paused by this call; ``False`` when it has ended or was paused by itself before.
        :raises ProcessNotFound: there is no such process.
        """
        calls = self.core.take_call()
        (node,) = calls.waits.nodes_of(pid)
        return node.pid in calls.intents.pause([node.pid], message).result()

    def play(self, pid: int | ProcessNode) -> bool:
        """Let a paused process go on, and its descendants except those that were paused by themselves.

        :returns: whether anything goes on by this call; ``False`` when nothing was paused.
        :raises ProcessNotFound: there is no such process.
        """
        calls = self.core.take_call()
        (node,) = calls.waits.nodes_of(pid)
        return bool(calls.intents.play([node.pid]).result())

    # -- listeners ---------------------------------------------------------------------------------------------

    def add_process_listener(self, listener: ProcessListener, process: int | ProcessNode | None = None) -> None:
        """Tell ``listener`` of what this engine commits: of processes that it makes, runs, pauses, plays or kills.

        A listener belongs to the engine and this OS process, not to the process that it hears of. :meth:`stop` tells
        what was committed before, as long as its time lasts.

        :param process: the only one to tell of, to its end, also if it has ended before; ``None`` means all, from now
            on. Adding the same listener again changes nothing.
        :raises TypeError: it is not derived from ``ProcessListener``.
        :raises ProcessNotFound: there is no such process.
        """
        waits = self.core.take_call().waits
        self._listeners.add(listener, None if process is None else waits.nodes_of(process)[0])

    def remove_process_listener(
        self, listener: ProcessListener, process: int | ProcessNode | None = None
    ) -> None:
        """Tell ``listener`` no more of that process, or of all if it was added for all; also inside of it.

        What it is being told at this moment goes on. A listener that is not there is no error.
        """
        self.core.check_fork()
        self._listeners.remove(listener, process.pid if isinstance(process, ProcessNode) else process)
