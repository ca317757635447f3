"""``treadle why``: what keeps a process where it is."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import click

from ..why import explain
from .completion import PID
from .options import json_option, open_store, store_option
from .output import ago, clean, heading, write_json

__all__ = ['why']


@click.command(short_help='Say why a process is where it is.')
@click.argument('pid', type=PID)
@json_option
@store_option
def why(pid: int, as_json: bool, store: str | None) -> None:
    """Say why process PID is where it is: who runs it, what it awaits, who paused it, what it said last."""
    with open_store(store) as opened:
        data = explain(opened.reader, opened.location, pid)
    if as_json:
        write_json(data)
        return
    for line in _lines(data):
        click.echo(line)


def _lines(data: dict[str, Any]) -> Iterator[str]:
    state = f'{data["state"]}{", paused" if data["paused"] else ""}'
    since = ago(datetime.datetime.fromisoformat(data['since']).timestamp())
    yield heading(f'Process {data["pid"]}: {clean(data["process_label"])}, {state}; last written {since}')
    yield f'  {clean(data["because"])}'
    parked = (data['parked'] or '').splitlines()
    yield from (f'    {clean(line)}' for line in parked[1:])
    for title, name in (('Last log', 'last_log'), ('Last problem', 'last_problem')):
        entry = data[name]
        if entry is not None and (name == 'last_log' or entry != data['last_log']):
            at = ago(datetime.datetime.fromisoformat(entry['at']).timestamp())
            yield f'  {title}, {at}: {clean(entry["message"])}'
