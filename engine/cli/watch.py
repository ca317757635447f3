"""``treadle watch``: the table of ``treadle ps``, live."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click

from ..states import TERMINAL_STATES
from ..store.changes import Changes
from ..store.records import ProcessSummary
from .completion import PID
from .options import OpenStore, json_option, open_store, store_option
from .output import heading, local_time
from .ps import living_owners, summary_data

__all__ = ['watch']

#: Seconds between two pictures, at least and at most; times that have passed are shown even if nothing happens.
_SOONEST, _LATEST = 0.2, 2.0
#: What has ended stays in the picture for so many seconds.
_LINGER: Final = 60.0

# What terminals take: their other screen, without a cursor, and back; the upper left corner; to the ends of line and
# screen.
_ENTER, _LEAVE = '\x1b[?1049h\x1b[?25l', '\x1b[?25h\x1b[?1049l'
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = '\x1b[H', '\x1b[K', '\x1b[J'


@click.command(short_help='Show what lives, and go on showing it.')
@click.argument('pid', type=PID, required=False)
@json_option
@store_option
def watch(pid: int | None, as_json: bool, store: str | None) -> None:
    """Show what lives, or process PID with all below it, and go on showing it.

    It ends with Ctrl-C, or when process PID has ended. With --json it prints a line for each picture.
    """
    if not as_json and (not sys.stdout.isatty() or os.environ.get('TERM') == 'dumb'):
        raise click.UsageError('watch needs a terminal; `treadle ps` lists, `treadle wait` and `treadle log -f` follow')
    with open_store(store) as opened, opened.location.changes() as changes:
        if as_json:
            for rows in _pictures(opened, changes, pid):
                click.echo(json.dumps([summary_data(row, living_owners(opened, rows)) for row in rows]))
                sys.stdout.flush()
            return
        last: list[str] = []
        with _other_screen():
            for rows in _pictures(opened, changes, pid):
                last = _draw(opened, rows)
        click.echo('\n'.join(last))  # how it ended stays on the screen of the shell


def _pictures(store: OpenStore, changes: Changes, pid: int | None) -> Iterator[list[ProcessSummary]]:
    """What there is to be seen, at once and whenever it has changed, until process ``pid`` has ended."""
    while True:
        # The state first: what is read after the end is final.
        ended = pid is not None and store.reader.process(pid).state in TERMINAL_STATES
        if pid is not None:
            yield store.reader.family(pid)[::-1]
        else:
            yield store.reader.summaries(since=time.time() - _LINGER)
        if ended:
            return
        time.sleep(_SOONEST)
        changes.wait(_LATEST - _SOONEST)


def _draw(store: OpenStore, rows: Sequence[ProcessSummary]) -> list[str]:
    """Draw a picture over the last one; returns its lines."""
    # Tables need rich, which takes long to import.
    from .table import table_lines  # noqa: PLC0415

    width, height = shutil.get_terminal_size()
    living = sum(row.state not in TERMINAL_STATES for row in rows)
    title = f'{living} of {len(rows)} live, {local_time(time.time())}, {store.location}'
    shown = list(rows[: max(1, height - 3)])
    lines = [heading(title[:width]), *(table_lines(shown, living_owners(store, shown), live=True) if shown else ())]
    if len(shown) < len(rows):
        lines.append(f'... and {len(rows) - len(shown)} older ones'[:width])
    picture = '\n'.join(f'{line}{_REST_OF_LINE}' for line in lines[:height])
    sys.stdout.write(f'{_HOME}{picture}{_REST_OF_SCREEN}')
    sys.stdout.flush()
    return lines


@contextmanager
def _other_screen() -> Iterator[None]:
    """Draw where nothing of the shell's is, and leave no trace, however it ends."""
    before = signal.signal(signal.SIGTERM, _terminated)
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: Any) -> NoReturn:
    sys.exit(128 + number)
