"""Listeners: user code that hears how processes fare, with the methods of ``plumpy``'s."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from .audience import Audience, Commit, Hearer
from .errors import TreadleError
from .node import ProcessNode, Source
from .processes.attributes import FrozenAttributes
from .states import TERMINAL_STATES, ProcessState
from .store.records import StateChange

__all__ = ['Listeners', 'ProcessListener']

LOGGER = logging.getLogger(__name__)


class ProcessListener:
    """Derive from it and override what you want to hear; hand it to :meth:`Engine.add_process_listener`.

    It is told after the commit only, of each process in order, one call at a time and on a thread where it may block.
    What it raises is logged. A slow listener holds up nothing, but hears late: a node that it is given tells how the
    process stands now, which may be further on. Nothing is told twice, and what is on its way when the OS process dies
    is not told: what must not be missed belongs into a step.
    """

    def on_process_created(self, process: ProcessNode) -> None:
        """The process is in the store."""

    def on_process_running(self, process: ProcessNode) -> None:
        """The process is ``running``: it was claimed, or what it waited for has ended."""

    def on_process_waiting(self, process: ProcessNode) -> None:
        """The process waits for others."""

    def on_process_paused(self, process: ProcessNode) -> None:
        """The process was paused, by itself or with one above it; a step that executes comes to its end."""

    def on_process_played(self, process: ProcessNode) -> None:
        """The process is no longer paused."""

    def on_output_emitted(self, process: ProcessNode, output_port: str, value: Any, dynamic: bool) -> None:
        """A step that has set an output is committed.

        :param output_port: its name, with dots for namespaces.
        :param dynamic: whether no port of that name was declared.
        """

    def on_process_finished(self, process: ProcessNode, outputs: FrozenAttributes) -> None:
        """The process has ended by itself, with any exit status."""

    def on_process_excepted(self, process: ProcessNode, reason: str) -> None:
        """The process has raised.

        :param reason: ``Type: message``; ``process.traceback`` has the rest.
        """

    def on_process_killed(self, process: ProcessNode, msg: str) -> None:
        """The process was killed.

        :param msg: why.
        """


class Listeners:
    """The listeners of one engine."""

    def __init__(self, audience: Audience, source: Callable[[], Source]) -> None:
        self._audience = audience
        self._source = source
        self._lock = threading.Lock()
        # By what they are and not by what they equal; the ears keep them alive.
        self._ears: dict[tuple[int, int | None], tuple[_Ear, Hearer]] = {}

    def add(self, listener: ProcessListener, node: ProcessNode | None) -> None:
        """Tell a listener of all processes, or of one; once, however often it is added.

        One process is told of to its end, also if it has ended before; then the listener is forgotten.
        """
        if not isinstance(listener, ProcessListener):
            raise TypeError(f'a listener is an instance of a class derived from ProcessListener, not {listener!r}')
        key = id(listener), None if node is None else node.pid
        with self._lock:
            if key in self._ears:
                return
            ear = _Ear(listener, key[1], self._source(), functools.partial(self._forget, key))
            hearer = self._audience.add(ear.hear, name=f'listener {type(listener).__name__}', pid=key[1])
            self._ears[key] = ear, hearer
        if node is None:
            return
        try:
            has_ended = node.is_terminated
        except BaseException:
            self._forget(key)
            raise
        if has_ended:
            hearer.post(Commit([StateChange(node.pid, ProcessState.RUNNING, node.state)], {}))

    def remove(self, listener: ProcessListener, pid: int | None) -> None:
        """Tell a listener no more, also if it is in the middle of being told; one that is not there is fine."""
        self._forget((id(listener), pid))

    def _forget(self, key: tuple[int, int | None]) -> None:
        with self._lock:
            found = self._ears.pop(key, None)
        if found is not None:
            ear, hearer = found
            ear.is_closed = True
            self._audience.remove(hearer)


class _Ear:
    """Tells one listener what was committed, on its strand.

    :param pid: the one process that it is about, if it is about one.
    :param forget: called when that has ended.
    """

    def __init__(
        self, listener: ProcessListener, pid: int | None, source: Source, forget: Callable[[], None]
    ) -> None:
        self.is_closed = False
        self._listener = listener
        self._pid = pid
        self._source = source
        self._forget = forget
        self._paused: set[int] = set()

    def hear(self, commit: Commit) -> None:
        """Tell of one commit: what begins in it before what is paused in it, and what ends in it last."""
        for change in commit.changes:
            self._tell_of_outputs(change)
            if change.after not in TERMINAL_STATES:
                self._tell_of_state(change)
        for pid, paused in commit.pauses.items():
            self._tell_of_pause(pid, paused)
        for change in commit.changes:
            if change.after in TERMINAL_STATES:
                self._paused.discard(change.pid)
                self._tell(change.pid, functools.partial(_tell_end, self._listener))
                if change.pid == self._pid:
                    self._forget()

    def _tell_of_state(self, change: StateChange) -> None:
        if not change.before:
            self._tell(change.pid, self._listener.on_process_created)
        if change.after == change.before:
            return
        if change.after == ProcessState.RUNNING:
            self._tell(change.pid, self._listener.on_process_running)
        elif change.after == ProcessState.WAITING:
            self._tell(change.pid, self._listener.on_process_waiting)

    def _tell_of_pause(self, pid: int, paused: bool) -> None:
        if not paused:
            self._paused.discard(pid)
            self._tell(pid, self._listener.on_process_played)
        elif pid not in self._paused:  # with one above it, and by itself, is one pause
            self._paused.add(pid)
            self._tell(pid, self._listener.on_process_paused)

    def _tell_of_outputs(self, change: StateChange) -> None:
        if not change.emitted or change.outputs is None:
            return
        try:
            outputs = self._source.codec.decode(change.outputs)
        except TreadleError:
            LOGGER.exception('process %d: its outputs cannot be told', change.pid)
            return
        for name, dynamic in dict.fromkeys(change.emitted):
            try:
                value = functools.reduce(lambda inner, part: inner[part], name.split('.'), outputs)
            except (LookupError, TypeError):
                continue  # the step has put something else in the place of its namespace
            self._tell(change.pid, functools.partial(_tell_output, self._listener, name, value, dynamic))

    def _tell(self, pid: int, call: Callable[[ProcessNode], object]) -> None:
        if self.is_closed:
            return
        try:
            call(ProcessNode(pid, self._source))
        except BaseException:  # such as SystemExit, which would keep the others of the commit from being told
            LOGGER.exception('process %d: a %s raised', pid, type(self._listener).__qualname__)


def _tell_output(listener: ProcessListener, name: str, value: Any, dynamic: bool, node: ProcessNode) -> None:
    listener.on_output_emitted(node, name, value, dynamic)


def _tell_end(listener: ProcessListener, node: ProcessNode) -> None:
    if node.is_finished:
        listener.on_process_finished(node, node.outputs)
    elif node.is_excepted:
        listener.on_process_excepted(node, node.exception or '')
    else:
        listener.on_process_killed(node, node.exit_message or '')
