"""What an engine does for callers, in their own threads: plain code's, and those of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .function_calls import FunctionCalls
from .intents import Intents
from .node import ProcessNode
from .parts import EngineParts
from .patience import RUN_INSTEAD, Patience
from .pids import PidBlocks
from .processes.visit import Host
from .starts import Starts
from .waits import Waits

__all__ = ['Calls']


class Calls:
    """The calls of one engine.

    :ivar intents: kill, pause and play.
    :ivar waits: waiting for ends, and what a process has ended with.
    :ivar starts: starting processes.
    :ivar functions: running process functions that are called.
    :ivar patience: waiting for a store that is away, for steps.
    """

    __slots__ = ('functions', 'intents', 'patience', 'starts', 'waits')

    def __init__(self, *, parts: EngineParts, host: Host) -> None:
        patience = self.patience = Patience(store=parts.store, steps=parts.steps)
        self.intents = Intents(parts=parts)
        self.waits = Waits(parts=parts, host=host, patience=patience)
        self.starts = Starts(
            parts=parts,
            host=host,
            pids=PidBlocks(parts.store),
            patience=patience,
            waits=self.waits,
            intents=self.intents,
        )
        self.functions = FunctionCalls(
            parts=parts, host=host, patience=patience, starts=self.starts, waits=self.waits, intents=self.intents
        )

    def run(self, target: Any, given: Mapping[str, Any]) -> tuple[Any, ProcessNode]:
        """Run a process to its end; returns its result, see :meth:`Waits.result`, and its node.

        Ctrl-C kills it.
        """
        node, ended = self.starts.start(target, given)
        try:
            self.waits.wait_for(node, ended, None, 'run()', RUN_INSTEAD)
            return self.waits.result(target, node), node
        except KeyboardInterrupt:
            self.intents.interrupted(node.pid)
            raise
        finally:
            self.waits.forget(node, ended)

    async def run_async(self, target: Any, given: Mapping[str, Any]) -> Any:
        """Run a process to its end for a caller on a loop; returns its result."""
        node, ended = await self.starts.start_async(target, given)
        try:
            await self.waits.wait_for_async(node, ended)
            return await self.waits.result_async(target, node)
        finally:
            self.waits.forget(node, ended)
