"""An engine, as its processes see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..threads import refuse_on_loop_thread
from .errors import CorruptValue
from .jobs.computer import Computer
from .jobs.known import define_computer, find_computer
from .jobs.options import LOCALHOST
from .node import ProcessNode
from .processes.visit import Visit

if TYPE_CHECKING:
    from .core import Core
    from .engine import Engine
    from .store.job_records import JobRecord
    from .values import Codec

T = TypeVar('T')

__all__ = ['ProcessHost']


class ProcessHost:
    """What steps ask of the engine that runs them: see :class:`~.processes.visit.Host`.

    :ivar engine: its public face, which the module-level calls of a step use.
    """

    __slots__ = ('_core', 'engine')

    def __init__(self, *, engine: Engine, core: Core) -> None:
        self.engine = engine
        self._core = core

    @property
    def codec(self) -> Codec:
        """Turns this store's values into text and back."""
        return self._core.source.codec

    @property
    def hears_outputs(self) -> bool:
        """Whether a listener wants to know which outputs steps set."""
        return self._core.audience.hears_outputs

    def submit_child(
        self, visit: Visit, target: Any, inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
    ) -> ProcessNode:
        """Make a child part of a step's unit; what ``Process.submit`` does."""
        return self._core.take_call().starts.submit_child(visit, target, inputs, kwargs)

    def nodes(self, pids: Sequence[int]) -> list[ProcessNode]:
        """The nodes of these processes, read in one go."""
        source = self._core.source
        return [ProcessNode(record.pid, source, record) for record in source.reader.processes(pids)]

    def computer(self, visit: Visit, computer: str | Computer) -> Computer:
        """The computer of that name; one that is given as it is becomes known by that.

        :raises ComputerNotFound: the store knows none of that name.
        :raises ConfigurationError: another one of that name has jobs.
        """
        core = self._core
        if isinstance(computer, str):
            return self.insist(visit, lambda: find_computer(core.source.reader, computer))
        if computer != LOCALHOST:
            self.insist(visit, lambda: core.store.call(lambda each: define_computer(each, computer)).result())
        return computer

    def job(self, pid: int) -> JobRecord:
        """The job of a process that has one."""
        job = self._core.source.reader.job(pid)
        if job is None:
            raise CorruptValue(f'process {pid} has waited for a job, and the store holds none of it')
        return job

    def insist(self, visit: Visit, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns, which is called until the store takes it."""
        return self._core.take_call().patience.insist(visit, attempt)

    def call_function(
        self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ProcessNode]:
        """Run a process function in the calling thread; what calling it does."""
        refuse_on_loop_thread(f'{target.__name__}()', f'await asyncio.to_thread({target.__name__}, ...)')
        return self._core.take_call().functions.call(target, args, kwargs)
