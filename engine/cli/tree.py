"""``treadle tree``: a process and all that was called below it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click

from ..store.records import ProcessSummary
from .completion import PID
from .options import json_option, open_store, store_option
from .output import clean, write_json

__all__ = ['tree']


@click.command(short_help='Print a process with all that was called below it.')
@click.argument('pid', type=PID)
@json_option
@store_option
def tree(pid: int, as_json: bool, store: str | None) -> None:
    """Print process PID and all that was called below it, each below its caller."""
    with open_store(store) as opened:
        opened.reader.process(pid)  # says so when there is none
        family = opened.reader.family(pid)
    called: defaultdict[int, list[ProcessSummary]] = defaultdict(list)
    for row in family:
        if row.parent is not None and row.pid != pid:
            called[row.parent].append(row)
    root = next(row for row in family if row.pid == pid)
    # Neither recurses: processes may be nested deeper than Python's stack.
    if as_json:
        write_json([_as_data(row) for row in family])
        return
    pending = [(0, root)]
    while pending:
        depth, row = pending.pop()
        click.echo(f'{"  " * depth}{_line(row)}')
        pending.extend((depth + 1, child) for child in reversed(called[row.pid]))


def _line(row: ProcessSummary) -> str:
    name = clean(' '.join((row.process_label, row.label)).strip())
    status = '' if row.exit_status is None else f' [{row.exit_status}]'
    step = f' at {clean(row.step)}' if row.step else ''
    return f'{row.pid} {name}: {row.state}{status}{", paused" if row.paused else ""}{step}'


def _as_data(row: ProcessSummary) -> dict[str, Any]:
    return {
        'pid': row.pid,
        'parent': row.parent,
        'process_label': row.process_label,
        'label': row.label,
        'state': row.state,
        'paused': bool(row.paused),
        'step': row.step,
        'exit_status': row.exit_status,
        'exit_message': row.exit_message,
    }
