"""What an engine does for callers, in their own threads: plain code's, and those of its steps."""

from __future__ import annotations

from .function_calls import FunctionCalls
from .intents import Intents
from .parts import EngineParts
from .patience import Patience
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
    """

    __slots__ = ('functions', 'intents', 'starts', 'waits')

    def __init__(self, *, parts: EngineParts, host: Host) -> None:
        patience = Patience(store=parts.store, steps=parts.steps)
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
