"""What crosses between the engine's threads and the store: plain, immutable records.

All user data in them is encoded text; a record never holds an object of the user's.
"""

from __future__ import annotations

import msgspec

from .job_records import JobRecord


def storable(text: str) -> str:
    """The text with what some database does not take written as escapes.

    That is the character NUL, and lone surrogates, as names of files may hold them.
    """
    if '\0' in text:
        text = text.replace('\0', '\\x00')
    return text if text.isascii() else text.encode('utf-8', 'backslashreplace').decode('utf-8')


class ProcessRecord(msgspec.Struct, frozen=True, gc=False):
    """One row of the table ``process``, field for column.

    Times are seconds since the epoch, for information only. ``paused`` is 0, or the bits :data:`PAUSED_ITSELF` and
    :data:`PAUSED_FROM_ABOVE`. ``inputs``, ``checkpoint``, ``outputs`` and
    ``exception`` are encoded values (see :mod:`treadle.engine.values`). ``code`` is the digest of what the class
    declared when the process began, ``None`` where that was not yet kept.
    """

    pid: int
    uuid: str
    parent: int | None
    call_visit: int | None
    call_number: int | None
    nesting: int
    driven: int
    class_name: str
    class_hash: str | None
    process_label: str
    label: str
    description: str
    key: str | None
    fingerprint: str | None
    state: str
    paused: int
    visit: int
    step: str | None
    exit_status: int | None
    exit_message: str | None
    exception: str | None
    inputs: str
    checkpoint: str | None
    outputs: str | None
    origin: int
    owner: int | None
    epoch: int
    version: int
    wake_at: float | None
    created_at: float
    changed_at: float
    crashes: int = 0
    code: str | None = None


class ProcessSummary(msgspec.Struct, frozen=True, gc=False):
    """What a listing shows of a process: columns of its row without its values, and how many it has called.

    :ivar called: how many processes it has called.
    :ivar called_ended: how many of these have ended.
    """

    pid: int
    uuid: str
    parent: int | None
    class_name: str
    process_label: str
    label: str
    key: str | None
    state: str
    paused: int
    step: str | None
    exit_status: int | None
    exit_message: str | None
    owner: int | None
    created_at: float
    changed_at: float
    called: int
    called_ended: int


#: The logger under which a pause and a play stand in the log stream of the process that they name.
INTENTS = 'treadle.intents'

#: The logger under which an engine says in the log stream of a process why it leaves the process alone.
PARKS = 'treadle.parks'

#: Bits of ``ProcessRecord.paused``: by an intent of its own, and because a process above it was.
PAUSED_ITSELF, PAUSED_FROM_ABOVE = 1, 2
#: Both of them.
ANY_PAUSE = PAUSED_ITSELF | PAUSED_FROM_ABOVE


class Fence(msgspec.Struct, frozen=True, gc=False):
    """What a writer believes about a row; a write counts only while it is true."""

    pid: int
    epoch: int
    version: int


class Advance(msgspec.Struct, frozen=True, gc=False):
    """One process moves on: the new contents of its row.

    :ivar state: the new state.
    :ivar checkpoint: the encoded checkpoint, or ``None`` when the process keeps none (it has ended).
    :ivar outputs: all outputs so far, encoded, or ``None`` to leave the column as it is.
    :ivar awaiting: the pids that a ``waiting`` process waits for.
    """

    state: str
    visit: int
    step: str | None = None
    checkpoint: str | None = None
    outputs: str | None = None
    exit_status: int | None = None
    exit_message: str | None = None
    exception: str | None = None
    awaiting: tuple[int, ...] = ()


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """One record of a process's log stream; ``at`` is in seconds since the epoch."""

    pid: int
    at: float
    level: int
    logger: str
    message: str


class Unit(msgspec.Struct, frozen=True, gc=False):
    """What commits together or not at all.

    :ivar fence: the row that must still be as the writer believes; nothing of the unit counts otherwise.
    :ivar advance: what becomes of that row; without it the row is only checked.
    :ivar create: processes that come into being.
    :ivar log: log records.
    :ivar kept_calls: on a replayed step, the numbers of the recorded calls that were asked for again; the
        other recorded calls of that visit are killed. ``None`` when the step was not a replay.
    :ivar pauses: the process pauses itself, and its descendants with it, unless it has ended.
    :ivar emitted: outputs that were set, as names and whether the port is dynamic; only noted while somebody listens.
    :ivar job: a job that comes into being, for which the process goes to wait.
    """

    fence: Fence | None = None
    advance: Advance | None = None
    create: tuple[ProcessRecord, ...] = ()
    log: tuple[LogEntry, ...] = ()
    kept_calls: frozenset[int] | None = None
    pauses: bool = False
    emitted: tuple[tuple[str, bool], ...] = ()
    job: JobRecord | None = None


class Held(msgspec.Struct, frozen=True, gc=False):
    """The verdict on a unit that was committed.

    :ivar version: the fenced row's version from now on.
    :ivar at: when the row was changed, in seconds since the epoch.
    :ivar satisfied: the unit went to wait, but all that it awaits had ended: the row is ``running`` and still ours.
    :ivar paused: the fenced process is paused: if it runs on, the unit has released it.
    :ivar attached: for each created process with a key that was there already, the process that holds the key.
    """

    version: int
    at: float = 0.0
    satisfied: bool = False
    paused: bool = False
    attached: ProcessRecord | None = None


class Lost(msgspec.Struct, frozen=True, gc=False):
    """The verdict on a unit whose fence no longer held: nothing of it was written.

    :ivar state: the state of the row now, or ``None`` when there is no such row.
    :ivar message: what the row says about its end, such as the reason of a kill.
    """

    state: str | None
    message: str | None = None


Verdict = Held | Lost


class StateChange(msgspec.Struct, frozen=True, gc=False):
    """A committed change of state, for whoever listens.

    :ivar emitted: outputs that were set, as in :class:`Unit`; with them, ``before`` and ``after`` may be the same.
    :ivar outputs: all outputs so far, encoded, if some were set.
    """

    pid: int
    before: str
    after: str
    emitted: tuple[tuple[str, bool], ...] = ()
    outputs: str | None = None


class EngineRecord(msgspec.Struct, frozen=True, gc=False):
    """One row of the table ``engine``.

    ``beat_at``, the time of the last heartbeat, is for people: clocks jump, so only the counter decides anything.
    """

    id: int
    uuid: str
    name: str
    host: str
    boot_id: str
    os_pid: int
    script: str | None
    started_at: float
    heartbeat: int
    lease: float
    ended: str | None
    beat_at: float | None = None


class Retirement(msgspec.Struct, frozen=True, gc=False):
    """The store was closed for good.

    :ivar at: when, in seconds since the epoch.
    :ivar moved_to: where its contents went, as whoever closed it has put it; may be empty.
    """

    at: float
    moved_to: str


class OwedReply(msgspec.Struct, frozen=True, gc=False):
    """An answer that is still to be sent."""

    correlation_id: str
    reply_to: str
    pid: int
