"""``treadle watch``: the table of ``treadle ps``, live."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Final

import click

from ..states import TERMINAL_STATES
from ..store.changes import Changes
from ..store.records import ProcessSummary
from .options import OpenStore, open_store, store_option
from .output import heading, local_time
from .ps import living_owners

__all__ = ['watch']

#: Seconds between two pictures, at least and at most; times that have passed are shown even if nothing happens.
_SOONEST, _LATEST = 0.2, 2.0
#: What has ended stays in the picture for so many seconds.
_LINGER: Final = 60.0
_CLEAR: Final = '\x1b[H\x1b[2J'


@click.command()
@click.argument('pid', type=int, required=False)
@store_option
def watch(pid: int | None, store: str | None) -> None:
    """Show what lives, or process PID with all below it, and go on showing it.

    It ends with Ctrl-C, or when process PID has ended.
    """
    if not sys.stdout.isatty():
        raise click.UsageError('watch needs a terminal; `treadle ps` lists, `treadle wait` and `treadle log -f` follow')
    # Tables need rich, which takes long to import.
    from .table import write_table  # noqa: PLC0415

    with open_store(store) as opened, Changes(opened.location) as changes:
        while True:
            ended = pid is not None and opened.reader.process(pid).state in TERMINAL_STATES
            room = max(1, shutil.get_terminal_size().lines - 3)
            rows = _rows(opened, pid)
            living = sum(row.state not in TERMINAL_STATES for row in rows)
            title = f'{opened.location.path}, {local_time(time.time())}: {living} of {len(rows)} live'
            click.echo(f'{_CLEAR}{heading(title)}')
            if rows:
                write_table(rows[:room], living_owners(opened, rows[:room]))
            sys.stdout.flush()
            if ended:
                return
            time.sleep(_SOONEST)
            changes.wait(_LATEST - _SOONEST)


def _rows(store: OpenStore, pid: int | None) -> list[ProcessSummary]:
    if pid is not None:
        return store.reader.family(pid)[::-1]
    return store.reader.summaries(since=time.time() - _LINGER)
