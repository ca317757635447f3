"""What the options of the commands say of logging; those that run processes log warnings to stderr, unless told."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..config import ROOT, LogSettings, level_of, levels_of_text, logging_of_environment
from ..errors import ConfigurationError

__all__ = ['log_options', 'logging_of_command', 'read_level']

F = TypeVar('F', bound=Callable[..., Any])


def log_options(command: F) -> F:
    """Add ``--log-level`` and ``--log-file``."""
    for add in (
        click.option('--log-file', metavar='PATH', help='Log into this file and not to stderr.'),
        click.option(
            '--log-level',
            'log_levels',
            metavar='[LOGGER=]LEVEL',
            multiple=True,
            callback=_read_levels,
            help="From which level on to log: DEBUG, INFO, REPORT, WARNING, ... Without a logger, Treadle's own. "
            'May be repeated.',
        ),
    ):
        command = add(command)
    return command


def _read_levels(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, int]:
    try:
        return {name: level for text in given for name, level in levels_of_text(text, '--log-level').items()}
    except ConfigurationError as error:
        raise click.UsageError(str(error), context) from error


def read_level(context: click.Context, parameter: click.Parameter, given: str | None) -> int:
    """The level that an option names; 0 if it was not given."""
    try:
        return 0 if given is None else level_of(given, f'--{parameter.name}')
    except ConfigurationError as error:
        raise click.UsageError(str(error), context) from error


def logging_of_command(levels: dict[str, int], file: str | None) -> LogSettings:
    """What the options say, else the environment; the OS process is ours, so the logger above all others is too.

    :raises ConfigurationError: the environment makes no sense.
    """
    settings = logging_of_environment() or LogSettings()
    return dataclasses.replace(
        settings,
        levels={**settings.levels, **levels},
        capture=(ROOT, *settings.capture),
        output=settings.output if file is None else os.path.abspath(file),
    )
