"""``treadle log``: the log stream of a process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Final

import click

from ..states import TERMINAL_STATES
from ..store.records import LogEntry
from .completion import PID
from .display import ending
from .logging import read_level
from .options import OpenStore, json_option, open_store, store_option
from .output import clean, iso, local_time, uses_colour, write_json

__all__ = ['log']

#: From which level on the level's name has which colour, where there are colours.
_COLOURS: Final = ((logging.ERROR, 'red'), (logging.WARNING, 'yellow'))


@click.command(short_help='Print what a process has logged and reported.')
@click.argument('pid', type=PID)
@click.option('--follow', '-f', is_flag=True, help='Go on until the process has ended.')
@click.option('--level', metavar='LEVEL', callback=read_level, help='Leave out what is below it, such as WARNING.')
@json_option
@store_option
def log(pid: int, follow: bool, level: int, as_json: bool, store: str | None) -> None:
    """Print what process PID has logged and reported, oldest first.

    What a step has logged is there once the step is committed.
    """
    with open_store(store) as opened:
        opened.reader.process(pid)  # says so when there is none
        if follow:
            _follow(opened, pid, level, _as_line if as_json else _as_text)
            return
        entries = [entry for entry in opened.reader.log(pid) if entry.level >= level]
    if as_json:
        write_json([_as_data(entry) for entry in entries])
        return
    for entry in entries:
        click.echo(_as_text(entry))
    if not entries:
        least = f' from level {logging.getLevelName(level)} on' if level else ''
        click.echo(f'process {pid} has logged nothing{least}', err=True)


def _follow(store: OpenStore, pid: int, level: int, form: Callable[[LogEntry], str]) -> None:
    last = None
    with store.location.changes() as changes:
        while True:
            # The state first: what was logged by the end of the process is there when it has ended.
            record = store.reader.process(pid)
            entries = store.reader.log_after(pid, last or 0)
            for _, entry in entries:
                if entry.level >= level:
                    click.echo(form(entry))
            if record.state in TERMINAL_STATES:
                click.echo(f'process {pid} ({clean(record.process_label)}) {ending(record)}', err=True)
                return
            if last is None and not entries:
                click.echo(f'process {pid} has logged nothing yet; `treadle why {pid}` says where it is', err=True)
            last = entries[-1][0] if entries else last or 0
            changes.wait()


def _as_data(entry: LogEntry) -> dict[str, Any]:
    return {
        'pid': entry.pid,
        'at': iso(entry.at),
        'level': entry.level,
        'level_name': logging.getLevelName(entry.level),
        'logger': entry.logger,
        'message': entry.message,
    }


def _as_line(entry: LogEntry) -> str:
    return json.dumps(_as_data(entry))


def _as_text(entry: LogEntry) -> str:
    message = clean(entry.message, keep='\n\t').replace('\n', '\n    ')
    level = f'{logging.getLevelName(entry.level):8}'
    colour = next((colour for least, colour in _COLOURS if entry.level >= least), None)
    if colour is not None and uses_colour():
        level = click.style(level, fg=colour)
    return f'{local_time(entry.at, milliseconds=True)} {level} {clean(entry.logger)}: {message}'
