"""``treadle kill``, ``pause``, ``play`` and ``wait``: whether an engine runs or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from ..deadlines import remaining
from ..states import TERMINAL_STATES
from ..store import intents
from ..store.control import write_once
from ..store.records import ProcessRecord
from ..store.transaction import Transaction
from .completion import PAUSED_PID, PLAYING_PID, RUNNING_PID, PidType
from .options import OpenStore, json_option, open_store, store_option
from .output import clean, write_json

__all__ = ['kill', 'pause', 'play', 'wait']

F = TypeVar('F', bound=Callable[..., Any])

FAILED: Final = 1
#: As timeout(1) has it.
TIMED_OUT: Final = 124


def _pids(kind: PidType) -> Callable[[F], F]:
    """One or more pids."""
    return click.argument('pids', metavar='PID...', type=kind, nargs=-1, required=True)


@click.command(short_help='Kill processes with all that they have called.')
@_pids(RUNNING_PID)
@click.option('--message', '-m', default='killed from the command line', help='The reason, which is kept.')
@store_option
@click.pass_context
def kill(context: click.Context, pids: tuple[int, ...], message: str, store: str | None) -> None:
    """Kill processes with all that they have called.

    They are killed when this returns. A step that executes is not interrupted, but its results are dropped.
    """
    with open_store(store) as opened:
        records = _require(opened, pids)
        killed = set(write_once(opened.location, lambda transaction: intents.kill(transaction, pids, message)))
        for pid in records:
            if pid in killed:
                _say(records[pid], f'is killed{_and_below(killed, pids)}')
        _end(context, [_has_ended(opened, pid) for pid in records if pid not in killed])


@click.command(short_help='Pause processes with all that they have called.')
@_pids(PLAYING_PID)
@click.option('--message', '-m', help="The reason, for the processes' log streams.")
@store_option
@click.pass_context
def pause(context: click.Context, pids: tuple[int, ...], message: str | None, store: str | None) -> None:
    """Pause processes with all that they have called.

    A step that executes goes on to its end; no other is taken before `treadle play`.
    """
    with open_store(store) as opened:
        records = _require(opened, pids)
        paused = write_once(opened.location, lambda transaction: intents.pause(transaction, pids, message))
        for pid in paused:
            record = opened.reader.process(pid)
            step = '' if record.owner is None else '; the step that it is in goes on to its end'
            _say(record, f'is paused{step}')
        problems = []
        for pid in records:
            if pid not in paused:
                ended = opened.reader.process(pid).state in TERMINAL_STATES
                problems.append(_has_ended(opened, pid) if ended else f'{_name(records[pid])} was paused before')
        _end(context, problems)


@click.command(short_help='Let paused processes go on.')
@_pids(PAUSED_PID)
@store_option
@click.pass_context
def play(context: click.Context, pids: tuple[int, ...], store: str | None) -> None:
    """Let paused processes go on, with all that they have called except what was paused by itself."""
    with open_store(store) as opened:
        records = _require(opened, pids)
        played = {pid: write_once(opened.location, _playing(pid)) for pid in dict.fromkeys(pids)}
        problems = []
        for pid, gone_on in played.items():
            if gone_on:
                _say(records[pid], f'goes on{_and_below(set(gone_on), [pid])}')
            elif opened.reader.process(pid).state in TERMINAL_STATES:
                problems.append(_has_ended(opened, pid))
            elif not any(pid in others for others in played.values()):
                problems.append(f'{_name(records[pid])} is not paused')
        _end(context, problems)


def _playing(pid: int) -> Callable[[Transaction], list[int]]:
    return lambda transaction: intents.play(transaction, [pid])


@click.command(short_help='Wait until processes have ended, and say how.')
@_pids(RUNNING_PID)
@click.option('--timeout', metavar='SECONDS', type=click.FloatRange(min=0), help='Wait no longer than this.')
@json_option
@store_option
@click.pass_context
def wait(
    context: click.Context, pids: tuple[int, ...], timeout: float | None, as_json: bool, store: str | None
) -> None:
    """Wait until processes have ended, and say how.

    Exit codes: 0 when all have finished with exit status 0, 1 when one has not, 124 when the time was over first.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with open_store(store) as opened:
        records = _require(opened, pids)
        with opened.location.changes() as changes:
            left = list(dict.fromkeys(pids))
            while True:
                states = opened.reader.states(left)
                ended = [pid for pid in left if states[pid] in TERMINAL_STATES]
                for pid in ended:
                    records[pid] = opened.reader.process(pid)
                    if not as_json:
                        _say(records[pid], _ending(records[pid]))
                left = [pid for pid in left if pid not in ended]
                patience = remaining(deadline)
                if not left or (not changes.wait(patience) and patience is not None):
                    break
        records.update((pid, opened.reader.process(pid)) for pid in left)
    if as_json:
        write_json([_as_data(records[pid]) for pid in pids])
    if left:
        for pid in left:
            click.echo(f'treadle: {_name(records[pid])} is still {records[pid].state}', err=True)
        context.exit(TIMED_OUT)
    if any(records[pid].exit_status != 0 for pid in pids):
        context.exit(FAILED)


def _require(store: OpenStore, pids: Sequence[int]) -> dict[int, ProcessRecord]:
    """The rows of all; says so when there is none for one of them, before anything is done."""
    return {pid: store.reader.process(pid) for pid in pids}


def _name(record: ProcessRecord) -> str:
    return f'process {record.pid} ({clean(record.process_label)})'


def _say(record: ProcessRecord, what: str) -> None:
    click.echo(f'{_name(record)} {what}')


def _and_below(done: set[int], named: Sequence[int]) -> str:
    below = len(done.difference(named))
    if len(named) > 1 or not below:
        return ''
    return f', with {below} {"process" if below == 1 else "processes"} that it has called'


def _ending(record: ProcessRecord) -> str:
    status = '' if record.exit_status is None else f' [{record.exit_status}]'
    message = f': {clean(record.exit_message)}' if record.exit_message else ''
    return f'{record.state}{status}{message}'


def _has_ended(store: OpenStore, pid: int) -> str:
    record = store.reader.process(pid)
    return f'{_name(record)} has ended already: {_ending(record)}'


def _as_data(record: ProcessRecord) -> dict[str, Any]:
    return {
        'pid': record.pid,
        'process_label': record.process_label,
        'state': record.state,
        'paused': bool(record.paused),
        'exit_status': record.exit_status,
        'exit_message': record.exit_message,
    }


def _end(context: click.Context, problems: Sequence[str]) -> None:
    for problem in problems:
        click.echo(f'treadle: {problem}', err=True)
    if problems:
        context.exit(FAILED)
