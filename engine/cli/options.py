"""What the commands have in common: their options, and the store that they read."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from ..communication.address import BROKER_VARIABLE, has_password
from ..config import STORE_VARIABLE
from ..errors import StoreRefused, StoreUnavailable
from ..store.location import StoreLocation, locate
from ..store.reader import Reader
from .output import clean

__all__ = [
    'OpenStore', 'broker_option', 'json_option', 'open_store', 'patiently', 'store_option', 'wait_option',
    'without_password',
]  # fmt: skip

F = TypeVar('F', bound=Callable[..., Any])
T = TypeVar('T')

#: What else to do with a password than to write it on the command line, by the option's name.
_REMEDIES: Final = {
    'store': f'set {STORE_VARIABLE} to the URL, or write the password into ~/.pgpass, or say ?passfile=PATH of another '
    'such file',
    'broker': f'set {BROKER_VARIABLE} to the URL, or write ?password_file=PATH',
    'moved_to': 'leave it out: whoever is told where the store is has a password of his own',
}
#: Seconds between two attempts: at first, and at most.
_PAUSE_FIRST, _PAUSE_MOST = 0.25, 10.0


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store that is open for reading."""

    location: StoreLocation
    reader: Reader


@contextmanager
def open_store(url: str | None) -> Iterator[OpenStore]:
    """Open the store that ``url`` names, or the default one; it is never made.

    :raises StoreError: there is none, or it cannot be read.
    """
    location = locate(url)
    reader = location.open_reader()
    try:
        yield OpenStore(location, reader)
    finally:
        reader.close()


def store_option(command: F) -> F:
    """Add ``--store URL``."""
    return click.option(
        '--store',
        metavar='URL',
        callback=without_password,
        help='The store, as sqlite:///path or postgresql://user@host/database. '
        f"Default: {STORE_VARIABLE}, else a file in the user's data directory.",
    )(command)


def broker_option(command: F) -> F:
    """Add ``--broker URL``; the function is given what ``Engine(broker=...)`` takes."""
    return click.option(
        '--broker',
        metavar='URL',
        callback=without_password,
        help=f'The broker, as amqp://user@host/vhost?password_file=PATH. Default: {BROKER_VARIABLE}, where the '
        'password may stand in the URL. An empty text is none.',
    )(command)


def without_password(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    """The URL of an option, if no password stands in it: everybody on the machine can read a command's arguments."""
    if url and has_password(url):
        remedy = _REMEDIES[parameter.name or '']
        raise click.BadParameter(f'everybody on this machine can see a password on the command line; {remedy}')
    return url


def wait_option(command: F) -> F:
    """Add ``--wait [SECONDS]``; see :func:`patiently`."""
    return click.option(
        '--wait',
        metavar='[SECONDS]',
        is_flag=False,
        flag_value=math.inf,
        type=click.FloatRange(min=0),
        help='While the store is not there, try again; without SECONDS for ever. A worker also starts without its '
        'broker, and goes on trying until it is there.',
    )(command)


def patiently(seconds: float | None, action: Callable[[], T]) -> T:
    """What ``action`` returns, which is tried again while it finds that something is not there yet.

    What lets us not in, since a password or a name is wrong, is no reason to wait.

    :param seconds: after which its error is raised; ``None`` is at once.
    """
    give_up = time.monotonic() + (seconds or 0)
    pause, said = _PAUSE_FIRST, ''
    while True:
        try:
            return action()
        except StoreRefused:
            raise
        except StoreUnavailable as error:
            left = give_up - time.monotonic()
            if left <= 0:
                raise
            if str(error) != said:
                said = str(error)
                click.echo(f'treadle: {clean(said)}; trying again', err=True)
        # They vary, so that workers do not come all at once to a server that is just back.
        time.sleep(min(left, pause * random.uniform(0.5, 1.0)))
        pause = min(2 * pause, _PAUSE_MOST)


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option('--json', 'as_json', is_flag=True, help='Print JSON, for programs.')(command)
