"""Why a process is where it is, as plain data, read from the store alone.

The keys are part of the command's interface; ``docs/command.rst`` says what each means.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from .errors import CorruptValue
from .jobs.explain import job_data, job_sentences
from .states import TERMINAL_STATES, ProcessState
from .store.liveness import lives
from .store.location import StoreLocation
from .store.reader import Reader
from .store.records import PAUSED_FROM_ABOVE, PAUSED_ITSELF, EngineRecord, LogEntry, ProcessRecord
from .values import describe_exception

__all__ = ['explain']


def explain(reader: Reader, location: StoreLocation, pid: int, *, parked: str | None = None) -> dict[str, Any]:
    """What keeps process ``pid`` where it is.

    :param parked: why the engine that asks leaves it alone, if it does.
    :raises ProcessNotFound: there is none.
    """
    record = reader.process(pid)
    parked = parked or _parked(reader, record)
    ended = record.state in TERMINAL_STATES
    owner = None if record.owner is None else reader.engine(record.owner)
    return {
        'pid': record.pid,
        'process_label': record.process_label,
        'process_class': record.class_name,
        'state': record.state,
        'paused': bool(record.paused),
        'paused_by': None if not record.paused else _paused_by(reader, record),
        'step': None if ended else record.step,
        'steps_committed': record.visit,
        'crashes': record.crashes,
        'since': _iso(record.changed_at),
        'exit_status': record.exit_status,
        'exit_message': record.exit_message,
        'exception': _exception(record),
        'owner': None if owner is None else _engine(location, owner),
        'awaits': [_process(each) for each in _awaited(reader, record)],
        'claimable_by': None if ended or owner is not None else _claimable_by(reader, location, record),
        'job': job_data(reader, pid),
        'parked': parked,
        'missing_file': None if ended else _missing_file(record.class_name),
        'last_log': _log(reader.last_log(pid)),
        'last_problem': _log(reader.last_log(pid, level=logging.WARNING)),
        'because': ' '.join(_because(reader, location, record, owner, parked)),
    }


def _awaited(reader: Reader, record: ProcessRecord) -> list[ProcessRecord]:
    """What must end before it goes on: what it waits for, or what its present step has called and blocks on."""
    if record.state == ProcessState.WAITING:
        return sorted(reader.processes(reader.awaited_by(record.pid)), key=lambda each: each.pid)
    if record.state != ProcessState.RUNNING:
        return []
    return [
        child
        for child in reader.children(record.pid)
        if child.call_visit == record.visit and child.state not in TERMINAL_STATES
    ]


def _because(
    reader: Reader, location: StoreLocation, record: ProcessRecord, owner: EngineRecord | None, parked: str | None
) -> Iterator[str]:
    """The same in sentences."""
    if record.state in TERMINAL_STATES:
        yield from _ending(record)
        yield from job_sentences(reader, location, record.pid, record.state)
        return
    alive = None if owner is None else lives(location, owner)
    if record.paused:
        yield _paused_sentence(reader, record)
    if owner is not None:
        name = 'its first step' if record.visit == 0 else 'its next step'
        step = name if record.step is None else f'step {record.step!r}'
        whose = f'engine {owner.id} ({owner.name!r}, OS process {owner.os_pid} on {owner.host})'
        if alive is False:
            yield (
                f'{whose} ran {step} and is dead; that is run again by the next engine of that script, or '
                f'by `treadle worker`.'
            )
        else:
            yield f'{whose}{" runs" if alive else ", of which it cannot be told whether it lives, runs"} {step}.'
            yield from _lease(owner)
    if record.crashes:
        yield f'{record.crashes} engine(s) have died while they ran it, since its last checkpoint.'
    if parked is not None:
        yield f'It is parked: {parked.splitlines()[0]}. An engine that starts later looks at it again.'
    awaited = _awaited(reader, record)
    if awaited:
        listed = ', '.join(f'{each.pid} ({each.process_label}, {_state(each)})' for each in awaited[:10])
        more = f' and {len(awaited) - 10} more' if len(awaited) > 10 else ''
        doing = 'It waits for' if record.state == ProcessState.WAITING else 'This step has called'
        yield f'{doing} {listed}{more}.'
    if record.state == ProcessState.WAITING:
        yield from job_sentences(reader, location, record.pid, record.state)
    if owner is None and not record.paused and record.state != ProcessState.WAITING and parked is None:
        yield _unclaimed_sentence(reader, location, record)


def _ending(record: ProcessRecord) -> Iterator[str]:
    if record.state == ProcessState.KILLED:
        yield f'It was killed: {record.exit_message}.'
        yield 'A step that still executes has its results dropped when it returns.'
    elif record.state == ProcessState.EXCEPTED:
        raised = _exception(record) or {'type': 'an exception', 'message': ''}
        yield f'It raised {raised["type"]}: {raised["message"]}.'
    else:
        message = f' ({record.exit_message})' if record.exit_message else ''
        yield f'It finished with exit status {record.exit_status}{message}.'


def _paused_sentence(reader: Reader, record: ProcessRecord) -> str:
    by = _paused_by(reader, record)
    if by is None:
        return f'It is paused; `treadle play {record.pid}` lets it go on.'
    who = 'It is paused' if by['pid'] == record.pid else f'It is paused since process {by["pid"]} above it is'
    said = f' ({by["message"]}, at {by["at"]})' if by['message'] else ''
    return f'{who}{said}; `treadle play {by["pid"]}` lets it go on.'


def _unclaimed_sentence(reader: Reader, location: StoreLocation, record: ProcessRecord) -> str:
    if record.driven:
        return 'It is a function that its caller runs; it goes on when the step of its caller is run again.'
    missing = _missing_file(record.class_name)
    if missing is not None:
        return f'Nobody runs it, and the script of its class, {missing}, is not there.'
    engines = _claimable_by(reader, location, record)
    if engines:
        listed = ', '.join(f'{each["id"]} ({each["name"]!r})' for each in engines)
        return (
            f'It could run now, and nobody has claimed it: engine {listed} may be busy, or cannot import its class '
            f'{record.class_name}.'
        )
    origin = reader.engine(record.origin)
    script = f'run its script {origin.script} again' if origin and origin.script else 'start an engine that submits it'
    return f'It could run, and no engine is there for it: {script}, or start `treadle worker`.'


def _claimable_by(reader: Reader, location: StoreLocation, record: ProcessRecord) -> list[dict[str, Any]]:
    """The engines that live and run what this process's origin has left, and the workers."""
    origin = reader.engine(record.origin)
    found = []
    for engine in reader.live_engines():
        same_script = origin is not None and origin.ended is not None and engine.script == origin.script is not None
        fits = engine.id == record.origin or same_script or engine.name == WORKER
        if fits and lives(location, engine) is not False:
            found.append(_engine(location, engine))
    return found


#: The name that `treadle worker` gives its engine, which runs whatever it can import.
WORKER = 'worker'


def _missing_file(class_name: str) -> str | None:
    """The path of a script that a class belongs to, when it is gone."""
    place = class_name.rpartition(':')[0]
    return place if os.path.isabs(place) and not os.path.exists(place) else None


def _paused_by(reader: Reader, record: ProcessRecord) -> dict[str, Any] | None:
    """The nearest process upwards that was paused by itself, and what was said then."""
    above = record
    while not above.paused & PAUSED_ITSELF:
        if above.parent is None or not (above.paused & PAUSED_FROM_ABOVE or above.state in TERMINAL_STATES):
            return None
        above = reader.process(above.parent)
    said = reader.last_intent(above.pid)
    return {
        'pid': above.pid,
        'message': None if said is None else said.message,
        'at': None if said is None else _iso(said.at),
    }


def _parked(reader: Reader, record: ProcessRecord) -> str | None:
    """What the last engine that had it said why it leaves it alone, if it has not gone on since."""
    if record.state in TERMINAL_STATES or record.owner is not None:
        return None
    said = reader.last_park(record.pid)
    return None if said is None or said.at < record.changed_at else said.message


def _state(record: ProcessRecord) -> str:
    return f'{record.state}, paused' if record.paused else record.state


def _process(record: ProcessRecord) -> dict[str, Any]:
    return {
        'pid': record.pid,
        'process_label': record.process_label,
        'state': record.state,
        'paused': bool(record.paused),
    }


def _lease(owner: EngineRecord) -> Iterator[str]:
    # By the wall clocks of two hosts perhaps, hence for people only.
    age = None if owner.beat_at is None else time.time() - owner.beat_at
    if age is not None and age > owner.lease > 0:
        yield (
            f'Its last heartbeat is {age:.0f} s old, its lease is {owner.lease:g} s: any other engine that has seen no '
            f'heartbeat for so long takes over.'
        )
    elif age is not None and owner.lease > 0:
        yield f'Its last heartbeat is {max(age, 0.0):.1f} s old, its lease is {owner.lease:g} s.'


def _engine(location: StoreLocation, engine: EngineRecord) -> dict[str, Any]:
    return {
        'id': engine.id,
        'name': engine.name,
        'host': engine.host,
        'os_pid': engine.os_pid,
        'alive': lives(location, engine),
        'lease': engine.lease,
        'heartbeat_at': None if engine.beat_at is None else _iso(engine.beat_at),
    }


def _exception(record: ProcessRecord) -> dict[str, str] | None:
    if record.exception is None:
        return None
    try:
        name, message, _ = describe_exception(record.exception)
    except CorruptValue:
        return {'type': '', 'message': record.exception}
    return {'type': name, 'message': message}


def _log(entry: LogEntry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {'at': _iso(entry.at), 'level': entry.level, 'logger': entry.logger, 'message': entry.message}


def _iso(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec='microseconds')
