"""What the commands have in common: their options, and the store that they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ..config import STORE_VARIABLE
from ..store.location import StoreLocation, locate
from ..store.reader import Reader

__all__ = ['OpenStore', 'json_option', 'open_store', 'store_option']

F = TypeVar('F', bound=Callable[..., Any])


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
        help='The store, as sqlite:///path or postgresql://user@host/database. '
        f"Default: {STORE_VARIABLE}, else a file in the user's data directory.",
    )(command)


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option('--json', 'as_json', is_flag=True, help='Print JSON, for programs.')(command)
