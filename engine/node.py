"""``ProcessNode``: the light handle of a process, for callers and for parents.

It reads the store when asked, from the calling thread and without waiting for the writer, so a loop such as
``while not node.is_terminated`` ends. Once the process has ended nothing changes any more and the row is kept.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from .errors import ProcessNotFound
from .exit_code import ExitCode
from .processes.attributes import AttributeDict, FrozenAttributes
from .states import TERMINAL_STATES, ProcessState
from .store.records import LogEntry, ProcessRecord
from .values import describe_exception

if TYPE_CHECKING:
    from .store.reader import Reader
    from .values import Codec

__all__ = ['ProcessNode', 'ResultAndNode', 'ResultAndPid', 'Source']

R = TypeVar('R')


class Source:
    """Where nodes get their contents: a store's reader and the codec of its values."""

    __slots__ = ('codec', 'reader')

    def __init__(self, reader: Reader, codec: Codec) -> None:
        self.reader = reader
        self.codec = codec

    def node(self, pid: int) -> ProcessNode:
        """The node of a process.

        :raises ProcessNotFound: there is none.
        """
        return ProcessNode(pid, self, self.reader.process(pid))


class ProcessNode:
    """A handle of one process; its properties read the store.

    Two nodes are equal when they stand for the same process. A node can be an input, stay in ``ctx`` and be waited
    for; it is stored as the pid.
    """

    __slots__ = ('_outputs', '_record', '_source', 'pid')

    def __init__(self, pid: int, source: Source, record: ProcessRecord | None = None) -> None:
        self.pid = pid
        self._source = source
        self._record = record
        self._outputs: FrozenAttributes | None = None

    def _row(self) -> ProcessRecord:
        record = self._record
        if record is not None and record.state in TERMINAL_STATES:
            return record
        try:
            self._record = self._source.reader.process(self.pid)
        except ProcessNotFound:
            if record is None:
                raise
            return record  # submitted by the step that is running: it exists once the step is committed
        return self._record

    def _use(self, final: ProcessRecord | None) -> None:
        """Take the final row, if whoever told of the end had it at hand."""
        if final is not None:
            self._record = final

    def _fixed(self) -> ProcessRecord:
        """The row as it was when last read, for what never changes."""
        return self._record if self._record is not None else self._row()

    # -- what it is --------------------------------------------------------------------------------------

    @property
    def uuid(self) -> str:
        """The universally unique id."""
        return self._fixed().uuid

    @property
    def process_label(self) -> str:
        """The name of the process's class or function."""
        return self._fixed().process_label

    @property
    def process_class(self) -> str:
        """Where the class is found, such as ``module:QualName``."""
        return self._fixed().class_name

    @property
    def label(self) -> str:
        """The label given as ``metadata={'label': ...}``."""
        return self._fixed().label

    @property
    def description(self) -> str:
        """The description given as ``metadata={'description': ...}``."""
        return self._fixed().description

    @property
    def key(self) -> str | None:
        """The idempotency key given as ``metadata={'key': ...}``."""
        return self._fixed().key

    @property
    def inputs(self) -> FrozenAttributes:
        """The inputs, defaults included; decoded afresh at each access."""
        return _attributes(self._source.codec.decode(self._fixed().inputs), f'inputs of process {self.pid}')

    @property
    def created_at(self) -> datetime.datetime:
        """When it was submitted (UTC)."""
        return datetime.datetime.fromtimestamp(self._fixed().created_at, datetime.UTC)

    # -- how it stands -----------------------------------------------------------------------------------

    @property
    def state(self) -> ProcessState:
        """The state now."""
        return ProcessState(self._row().state)

    @property
    def paused(self) -> bool:
        """Whether it is paused, by itself or with a process above it."""
        return bool(self._row().paused)

    @property
    def step(self) -> str | None:
        """The name of the present or next step, if it is known."""
        return self._row().step

    @property
    def changed_at(self) -> datetime.datetime:
        """When its row last changed (UTC)."""
        return datetime.datetime.fromtimestamp(self._row().changed_at, datetime.UTC)

    @property
    def exit_status(self) -> int | None:
        """0 for success, non-zero for a declared failure, ``None`` unless finished."""
        return self._row().exit_status

    @property
    def exit_message(self) -> str | None:
        """The message of the exit code, or why it was killed."""
        return self._row().exit_message

    @property
    def exit_code(self) -> ExitCode | None:
        """Status and message together, ``None`` unless finished."""
        row = self._row()
        return None if row.exit_status is None else ExitCode(row.exit_status, row.exit_message)

    @property
    def exception(self) -> str | None:
        """``Type: message`` of what an excepted process raised."""
        described = self._exception_parts()
        return None if described is None else f'{described[0]}: {described[1]}'

    @property
    def traceback(self) -> str | None:
        """The traceback of an excepted process, as text."""
        described = self._exception_parts()
        return None if described is None else described[2]

    def _exception_parts(self) -> tuple[str, str, str] | None:
        text = self._row().exception
        return None if text is None else describe_exception(text)

    @property
    def outputs(self) -> FrozenAttributes:
        """The outputs committed so far; those of an ended process are decoded once."""
        if self._outputs is not None:
            return self._outputs
        row = self._row()
        values = {} if row.outputs is None else self._source.codec.decode(row.outputs)
        state = '' if row.state == ProcessState.FINISHED else f' ({row.state})'
        outputs = _attributes(values, f'outputs of process {self.pid}{state}')
        if row.state in TERMINAL_STATES:
            self._outputs = outputs
        return outputs

    @property
    def is_terminated(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._row().state in TERMINAL_STATES

    @property
    def is_finished(self) -> bool:
        """Whether it ended by itself, with any exit status."""
        return self._row().state == ProcessState.FINISHED

    @property
    def is_finished_ok(self) -> bool:
        """Whether it ended with exit status 0."""
        row = self._row()
        return row.state == ProcessState.FINISHED and row.exit_status == 0

    @property
    def is_failed(self) -> bool:
        """Whether it ended with a non-zero exit status."""
        row = self._row()
        return row.state == ProcessState.FINISHED and row.exit_status != 0

    @property
    def is_excepted(self) -> bool:
        """Whether it ended with an exception."""
        return self._row().state == ProcessState.EXCEPTED

    @property
    def is_killed(self) -> bool:
        """Whether it was killed."""
        return self._row().state == ProcessState.KILLED

    # -- its family and its log ----------------------------------------------------------------------------

    @property
    def parent(self) -> ProcessNode | None:
        """The process that called it."""
        parent = self._fixed().parent
        return None if parent is None else ProcessNode(parent, self._source)

    @property
    def called(self) -> list[ProcessNode]:
        """The processes that it has called, oldest first."""
        return [
            ProcessNode(record.pid, self._source, record) for record in self._source.reader.children(self.pid)
        ]

    @property
    def log(self) -> list[LogEntry]:
        """Its log stream, oldest first."""
        return self._source.reader.log(self.pid)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessNode) and other.pid == self.pid and other.uuid == self.uuid

    def __hash__(self) -> int:
        return hash(self.pid)

    def __repr__(self) -> str:
        return f'<ProcessNode {self.pid} {self._fixed().process_label}>'


class ResultAndNode(NamedTuple, Generic[R]):
    """What ``run_get_node`` returns; it unpacks as ``outputs, node``."""

    result: R
    node: ProcessNode


class ResultAndPid(NamedTuple, Generic[R]):
    """What ``run_get_pid`` returns; it unpacks as ``outputs, pid``."""

    result: R
    pid: int


def _attributes(values: Mapping[str, Any], owner: str) -> FrozenAttributes:
    return FrozenAttributes({name: _inner(value) for name, value in values.items()}, owner)


def _inner(value: Any) -> Any:
    """A dictionary with plain names can be read like a namespace, and is still a dictionary."""
    if type(value) is dict and value and all(isinstance(key, str) for key in value):
        return AttributeDict({key: _inner(inner) for key, inner in value.items()})
    return value
