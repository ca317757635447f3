"""The table of ``treadle ps``, fitted to the terminal."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..store.records import ProcessSummary
from .output import ago, clean, uses_colour

__all__ = ['in_families', 'table_lines', 'write_table']

#: Columns of text that a pipe or a file gets at most; a terminal has a width of its own.
_UNBOUNDED: Final = 10_000
_DEEPEST: Final = 12
_LONGEST_LABEL: Final = 60
_STYLES: Final = {
    'created': 'cyan',
    'running': 'cyan',
    'waiting': 'blue',
    'finished': 'green',
    'excepted': 'red',
    'killed': 'yellow',
}
_FAILED: Final = 'yellow'
#: The length of a bar of progress, and its full and its empty parts.
_BAR: Final = 10
_BLOCKS: Final = '\N{FULL BLOCK}\N{LIGHT SHADE}'


@dataclass(frozen=True, slots=True)
class _Row:
    """A process and how deep it stands below the first of its callers that is listed."""

    process: ProcessSummary
    depth: int
    owner_alive: bool | None


@dataclass(frozen=True, slots=True)
class _Column:
    """:ivar room: a terminal with fewer columns of text goes without."""

    title: str
    cell: Callable[[_Row], Text]
    room: int = 0
    right: bool = False
    whole: bool = True


def in_families(rows: Sequence[ProcessSummary]) -> Iterator[tuple[int, ProcessSummary]]:
    """The rows, newest first, each followed by what it has called, oldest first, with the depth of each."""
    listed = {row.pid for row in rows}
    called: defaultdict[int, list[ProcessSummary]] = defaultdict(list)
    for row in rows:
        if row.parent in listed and row.parent is not None:
            called[row.parent].append(row)
    pending = [(0, row) for row in reversed(rows) if row.parent not in listed]
    while pending:
        depth, row = pending.pop()
        yield depth, row
        # The rows are newest first, and the last one is popped first.
        pending.extend((depth + 1, child) for child in called[row.pid])


def write_table(rows: Sequence[ProcessSummary], alive: Mapping[int, bool | None]) -> None:
    """Print the table.

    :param alive: for the engines that own a process, whether they live, as far as that is known.
    """
    for line in table_lines(rows, alive):
        sys.stdout.write(f'{line}\n')


def table_lines(
    rows: Sequence[ProcessSummary], alive: Mapping[int, bool | None], *, live: bool = False
) -> list[str]:
    """The lines of the table, with their colours.

    :param live: show how far those have come that have called others.
    """
    arranged = [
        _Row(row, depth, None if row.owner is None else alive.get(row.owner))
        for depth, row in in_families(rows)
    ]
    width = None if sys.stdout.isatty() else _UNBOUNDED
    console = Console(
        width=width, highlight=False, no_color=not uses_colour(), force_terminal=None if uses_colour() else False
    )
    table = Table(box=None, pad_edge=False, header_style='bold')
    choice = _LIVE_COLUMNS if live else _COLUMNS
    columns = [column for column in choice if console.width >= column.room and _has_text(column, arranged)]
    for column in columns:
        table.add_column(
            column.title,
            justify='right' if column.right else 'left',
            no_wrap=True,
            overflow='ellipsis',
            min_width=max((len(column.cell(row)) for row in arranged), default=0) if column.whole else None,
        )
    for row in arranged:
        table.add_row(*(column.cell(row) for column in columns))
    # Written in one piece, and not by rich, which ends the program when a pipe is closed.
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _has_text(column: _Column, rows: Sequence[_Row]) -> bool:
    return any(column.cell(row) for row in rows)


def _pid(row: _Row) -> Text:
    return Text(str(row.process.pid))


def _name(row: _Row) -> Text:
    return Text('  ' * min(row.depth, _DEEPEST) + clean(row.process.process_label))


def _label(row: _Row) -> Text:
    label = clean(row.process.label)
    return Text(label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 3] + '...')


def _state(row: _Row) -> Text:
    process = row.process
    style = _STYLES.get(process.state, '')
    text = process.state
    if process.exit_status is not None:
        text = f'{text} [{process.exit_status}]'
        style = style if process.exit_status == 0 else _FAILED
    if process.paused:
        text = f'{text}, paused'
    if row.owner_alive is False:
        text = f'{text}, engine dead'
        style = 'red'
    return Text(text, style=style)


def _step(row: _Row) -> Text:
    lines = (row.process.exit_message or row.process.step or '').splitlines()
    return Text(clean(lines[0]) if lines else '')


def _called(row: _Row) -> Text:
    process = row.process
    return Text(f'{process.called_ended}/{process.called}' if process.called else '')


def _progress(row: _Row) -> Text:
    process = row.process
    if not process.called:
        return Text('')
    done = _BAR * process.called_ended // process.called
    full, empty = _BLOCKS if (sys.stdout.encoding or '').lower().startswith('utf') else ('#', '.')
    bar = Text(full * done, style='green' if done == _BAR else 'cyan')
    return bar.append(empty * (_BAR - done), style='dim').append(f' {process.called_ended}/{process.called}', style='')


def _created(row: _Row) -> Text:
    return Text(ago(row.process.created_at))


def _changed(row: _Row) -> Text:
    return Text(ago(row.process.changed_at))


_COLUMNS: Final = (
    _Column('PID', _pid, right=True),
    _Column('PROCESS', _name, whole=False),
    _Column('LABEL', _label, room=100, whole=False),
    _Column('STATE', _state),
    _Column('ENDED/CALLED', _called, room=90, right=True),
    _Column('CREATED', _created, room=80),
    _Column('CHANGED', _changed, room=50),
    _Column('STEP OR MESSAGE', _step, room=70, whole=False),
)

#: Of the live table, whose pictures are drawn one over the other.
_LIVE_COLUMNS: Final = (
    _Column('PID', _pid, right=True),
    _Column('PROCESS', _name, whole=False),
    _Column('LABEL', _label, room=110, whole=False),
    _Column('STATE', _state),
    _Column('PROGRESS', _progress, room=50),
    _Column('CHANGED', _changed, room=70),
    _Column('STEP OR MESSAGE', _step, room=90, whole=False),
)
