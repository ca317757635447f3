"""``treadle log``: the log stream of a process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import click

from ..states import TERMINAL_STATES
from ..store.changes import Changes
from ..store.records import LogEntry
from .completion import PID
from .options import OpenStore, json_option, open_store, store_option
from .output import clean, iso, local_time, write_json

__all__ = ['log']


@click.command(short_help='Print what a process has logged and reported.')
@click.argument('pid', type=PID)
@click.option('--follow', '-f', is_flag=True, help='Go on until the process has ended.')
@json_option
@store_option
def log(pid: int, follow: bool, as_json: bool, store: str | None) -> None:
    """Print what process PID has logged and reported, oldest first.

    What a step has logged is there once the step is committed.
    """
    with open_store(store) as opened:
        opened.reader.process(pid)  # says so when there is none
        if follow:
            _follow(opened, pid, _as_line if as_json else _as_text)
            return
        entries = opened.reader.log(pid)
    if as_json:
        write_json([_as_data(entry) for entry in entries])
        return
    for entry in entries:
        click.echo(_as_text(entry))
    if not entries:
        click.echo(f'process {pid} has logged nothing', err=True)


def _follow(store: OpenStore, pid: int, form: Callable[[LogEntry], str]) -> None:
    last = 0
    with Changes(store.location) as changes:
        while True:
            # The state first: what was logged by the end of the process is there when it has ended.
            ended = store.reader.process(pid).state in TERMINAL_STATES
            for number, entry in store.reader.log_after(pid, last):
                click.echo(form(entry))
                last = number
            if ended:
                return
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
    return (
        f'{local_time(entry.at, milliseconds=True)} {logging.getLevelName(entry.level):8} '
        f'{clean(entry.logger)}: {message}'
    )
