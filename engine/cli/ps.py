"""``treadle ps``: the processes of a store."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from ..states import ProcessState
from ..store.records import ProcessSummary
from .completion import PID
from .engines import is_alive
from .options import OpenStore, json_option, open_store, store_option
from .output import iso, write_json

__all__ = ['living_owners', 'ps', 'summary_data']

#: What has ended longer ago than this, in seconds, is left out unless it is asked for.
RECENT: Final = 24 * 3600.0
#: Rows of a table, unless --limit says otherwise.
MANY: Final = 100


@click.command()
@click.option('--all', '-a', 'everything', is_flag=True, help='All processes, called ones and old ones too.')
@click.option('--called', '-c', is_flag=True, help='Also the processes that were called by others.')
@click.option('--parent', metavar='PID', type=PID, help='All that this process has called.')
@click.option(
    '--state',
    'states',
    multiple=True,
    type=click.Choice([str(state) for state in ProcessState]),
    help='All processes in this state; may be repeated.',
)
@click.option(
    '--limit',
    metavar='N',
    type=click.IntRange(min=0),
    help=f'At most the N newest; 0 for no limit. Default: {MANY} in a table, none with --json.',
)
@json_option
@store_option
def ps(
    everything: bool,
    called: bool,
    parent: int | None,
    states: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    store: str | None,
) -> None:
    """List processes, newest first.

    Without options: those that were started by a script or a user (not called by another process) and that
    have not ended, or have ended in the last 24 hours. Called processes stand below their callers.
    """
    if limit is None:
        limit = 0 if as_json else MANY
    chosen = everything or bool(states) or parent is not None
    with open_store(store) as opened:
        if parent is not None:
            opened.reader.process(parent)  # says so when there is none
        rows = opened.reader.summaries(
            states=states,
            parent=parent,
            top_level=not (chosen or called),
            since=None if chosen else time.time() - RECENT,
            limit=limit + 1 if limit else None,
        )
        alive = living_owners(opened, rows)
    more = bool(limit) and len(rows) > limit
    rows = rows[:limit] if limit else rows
    if as_json:
        write_json([summary_data(row, alive) for row in rows])
        return
    if not rows:
        click.echo('no such processes' if chosen else 'no processes now; --all shows old ones', err=True)
        return
    # Tables need rich, which programs that ask for JSON need not wait for.
    from .table import write_table  # noqa: PLC0415

    write_table(rows, alive)
    if more:
        click.echo(f'cut after the newest {limit}; --limit 0 shows all', err=True)


def living_owners(store: OpenStore, rows: list[ProcessSummary]) -> dict[int, bool | None]:
    """For the engines that run these processes, whether they live, as far as that can be told."""
    owners = {row.owner for row in rows if row.owner is not None}
    engines = [store.reader.engine(owner) for owner in sorted(owners)]
    return {engine.id: is_alive(store, engine) for engine in engines if engine is not None}


def summary_data(row: ProcessSummary, alive: dict[int, bool | None]) -> dict[str, Any]:
    """A row as plain data; ``alive`` as :func:`living_owners` has it."""
    return {
        'pid': row.pid,
        'uuid': row.uuid,
        'process_label': row.process_label,
        'process_class': row.class_name,
        'label': row.label,
        'key': row.key,
        'state': row.state,
        'paused': bool(row.paused),
        'step': row.step,
        'exit_status': row.exit_status,
        'exit_message': row.exit_message,
        'parent': row.parent,
        'called': row.called,
        'called_ended': row.called_ended,
        'owner': row.owner,
        'owner_alive': None if row.owner is None else alive.get(row.owner),
        'created_at': iso(row.created_at),
        'changed_at': iso(row.changed_at),
    }
