"""``treadle show``: everything about one process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from ..errors import CorruptValue
from ..states import TERMINAL_STATES
from ..store.records import ProcessRecord, ProcessSummary
from ..values import describe_exception
from .completion import PID
from .display import as_data, describe_values
from .engines import describe_engine, engine_data
from .options import OpenStore, json_option, open_store, store_option
from .output import ago, clean, duration, heading, iso, local_time, write_json

__all__ = ['show']

#: Called processes that are listed one by one.
MANY: Final = 20
#: Characters of one value, unless --full is given.
LONG: Final = 300


@click.command(short_help='Show one process: state, inputs, outputs, calls, traceback.')
@click.argument('pid', type=PID)
@click.option('--full', is_flag=True, help='Do not shorten values and lists.')
@json_option
@store_option
def show(pid: int, full: bool, as_json: bool, store: str | None) -> None:
    """Show process PID: state, inputs, outputs, calls, and the traceback if it excepted.

    Values are shown as they are stored: no class of yours is imported.
    """
    with open_store(store) as opened:
        record = opened.reader.process(pid)
        called = opened.reader.summaries(parent=pid)[::-1]
        data = _as_data(opened, record, called)
    if as_json:
        write_json(data)
        return
    for line in _as_lines(record, data, called, full):
        click.echo(line.rstrip())


def _as_data(store: OpenStore, record: ProcessRecord, called: Sequence[ProcessSummary]) -> dict[str, Any]:
    return {
        'pid': record.pid,
        'uuid': record.uuid,
        'process_label': record.process_label,
        'process_class': record.class_name,
        'label': record.label,
        'description': record.description,
        'key': record.key,
        'state': record.state,
        'paused': bool(record.paused),
        'step': record.step,
        'steps_committed': record.visit,
        'exit_status': record.exit_status,
        'exit_message': record.exit_message,
        'exception': _exception(record.exception),
        'inputs': as_data(record.inputs),
        'outputs': as_data(record.outputs),
        'parent': record.parent,
        'called': [
            {
                'pid': child.pid,
                'process_label': child.process_label,
                'label': child.label,
                'state': child.state,
                'exit_status': child.exit_status,
            }
            for child in called
        ],
        'owner': engine_data(store, record.owner),
        'origin': engine_data(store, record.origin),
        'created_at': iso(record.created_at),
        'changed_at': iso(record.changed_at),
        'store': store.location.url,
    }


def _exception(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    try:
        name, message, traceback = describe_exception(text)
    except CorruptValue:
        return {'type': '', 'message': text, 'traceback': ''}
    return {'type': name, 'message': message, 'traceback': traceback}


def _as_lines(
    record: ProcessRecord, data: dict[str, Any], called: Sequence[ProcessSummary], full: bool
) -> Iterator[str]:
    yield heading(f'Process {record.pid}: {clean(record.process_label)}, {_state(record)}')
    for name, text in _facts(record, data):
        if text:
            yield f'  {name:<12} {clean(text)}'
    if called:
        ended = sum(child.state in TERMINAL_STATES for child in called)
        yield heading(f'Called ({ended} of {len(called)} ended)')
        shown = called if full else called[:MANY]
        for child in shown:
            yield f'  {child.pid} {clean(" ".join((child.process_label, child.label)).strip())}, {_state(child)}'
        if len(called) > len(shown):
            yield f'  ... and {len(called) - len(shown)} more; `treadle ps --parent {record.pid}` lists them'
    most = None if full else LONG
    for title, encoded in (('Inputs', record.inputs), ('Outputs', record.outputs)):
        lines = describe_values(encoded, most)
        if lines:
            yield heading(title)
            yield from (f'  {line}' for line in lines)
    raised = data['exception']
    if raised is not None:
        yield heading('Exception')
        trace = raised['traceback'] or f'{raised["type"]}: {raised["message"]}'
        yield from (f'  {clean(line)}' for line in trace.splitlines())


def _state(process: ProcessRecord | ProcessSummary) -> str:
    status = '' if process.exit_status is None else f' [{process.exit_status}]'
    return f'{process.state}{status}{", paused" if process.paused else ""}'


def _facts(record: ProcessRecord, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    ended = record.state in TERMINAL_STATES
    yield 'label', record.label
    yield 'description', record.description
    yield 'message', record.exit_message or ''
    yield 'class', record.class_name
    yield 'key', record.key or ''
    yield 'uuid', record.uuid
    yield 'step', '' if ended or record.step is None else f'{record.step} ({record.visit} committed before)'
    yield 'created', f'{local_time(record.created_at)} ({ago(record.created_at)})'
    yield 'ended' if ended else 'changed', f'{local_time(record.changed_at)} ({ago(record.changed_at)})'
    until = record.changed_at if ended else time.time()
    yield 'lasted' if ended else 'lasts', duration(until - record.created_at)
    yield 'called by', '' if record.parent is None else str(record.parent)
    if data['owner'] is not None:
        dead = '' if data['owner']['alive'] is not False else '; the process goes on when its script runs again'
        yield 'run by', f'engine {describe_engine(data["owner"])}{dead}'
    elif data['origin'] is not None:
        yield 'belongs to', f'engine {describe_engine(data["origin"])}'
