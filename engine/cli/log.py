"""``treadle log``: the log stream of a process."""

from __future__ import annotations

import logging
from typing import Any

import click

from ..store.records import LogEntry
from .options import json_option, open_store, store_option
from .output import clean, iso, local_time, write_json

__all__ = ['log']


@click.command()
@click.argument('pid', type=int)
@json_option
@store_option
def log(pid: int, as_json: bool, store: str | None) -> None:
    """Print what process PID has logged and reported, oldest first.

    What a step has logged is there once the step is committed.
    """
    with open_store(store) as opened:
        opened.reader.process(pid)  # says so when there is none
        entries = opened.reader.log(pid)
    if as_json:
        write_json([_as_data(entry) for entry in entries])
        return
    for entry in entries:
        click.echo(_as_text(entry))
    if not entries:
        click.echo(f'process {pid} has logged nothing', err=True)


def _as_data(entry: LogEntry) -> dict[str, Any]:
    return {
        'pid': entry.pid,
        'at': iso(entry.at),
        'level': entry.level,
        'level_name': logging.getLevelName(entry.level),
        'logger': entry.logger,
        'message': entry.message,
    }


def _as_text(entry: LogEntry) -> str:
    message = clean(entry.message, keep='\n\t').replace('\n', '\n    ')
    return (
        f'{local_time(entry.at, milliseconds=True)} {logging.getLevelName(entry.level):8} '
        f'{clean(entry.logger)}: {message}'
    )
