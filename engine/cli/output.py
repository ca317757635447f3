"""Writing to the terminal, or to whatever stands in its place: text, times, JSON."""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from typing import Any, Final

import click

__all__ = ['ago', 'clean', 'duration', 'heading', 'iso', 'local_time', 'shorten', 'uses_colour', 'write_json']

_SPANS: Final = ((86_400, 'd'), (3_600, 'h'), (60, 'min'))


def write_json(data: Any) -> None:
    """Print ``data`` as JSON in ASCII, so that no terminal and no locale can spoil it."""
    click.echo(json.dumps(data, indent=2))


def uses_colour() -> bool:
    """Whether the output is a terminal whose user wants colours (see https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


def heading(text: str) -> str:
    """The text in bold where that can be had."""
    return click.style(text, bold=True) if uses_colour() else text


def clean(text: str, *, keep: str = '') -> str:
    """The text with control characters as escapes: what is stored must not steer the terminal.

    :param keep: characters that stay as they are, such as line ends.
    """
    if text.isprintable():
        return text
    return ''.join(
        character
        if character.isprintable() or character in keep
        else character.encode('unicode_escape', 'backslashreplace').decode()
        for character in text
    )


def shorten(text: str, most: int | None) -> str:
    """At most about ``most`` characters of the text, and how many there were."""
    if most is None or len(text) <= most:
        return text
    return f'{text[:most]}... ({len(text)} characters, --full shows all)'


def iso(at: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, always with microseconds."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec='microseconds')


def local_time(at: float, *, milliseconds: bool = False) -> str:
    """Seconds since the epoch as date and time where the user is."""
    moment = datetime.datetime.fromtimestamp(at)
    return moment.isoformat(' ', timespec='milliseconds' if milliseconds else 'seconds')


def duration(seconds: float) -> str:
    """A span of time in one unit, such as ``3 min``."""
    for length, unit in _SPANS:
        if seconds >= 2 * length:
            return f'{seconds / length:.0f} {unit}'
    return f'{max(seconds, 0):.0f} s' if seconds >= 10 else f'{max(seconds, 0):.2g} s'


def ago(at: float) -> str:
    """How long ago it was, such as ``3 min ago``."""
    seconds = time.time() - at
    return f'{duration(seconds)} ago' if seconds >= 1 else 'now'
