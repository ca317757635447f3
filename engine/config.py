"""How an engine tells of itself: settings from arguments and from the environment, checked in one place.

An argument of ``Engine`` counts; without it, the environment variable of the same meaning; without that, the default.
Every mistake is a :class:`~.errors.ConfigurationError` that names the place it was made in and what to write instead.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from .errors import ConfigurationError

__all__ = [
    'NOWHERE',
    'ROOT',
    'STDERR',
    'STORE_VARIABLE',
    'Diagnostics',
    'LogChoice',
    'LogSettings',
    'level_of',
    'levels_of_text',
    'log_settings',
    'logging_of_environment',
    'url_of_environment',
]

#: The environment variable that names the default store.
STORE_VARIABLE: Final = 'TREADLE_STORE'

LOGGING_VARIABLE: Final = 'TREADLE_LOGGING'
ASYNCIO_DEBUG_VARIABLE: Final = 'TREADLE_ASYNCIO_DEBUG'
WATCHDOG_VARIABLE: Final = 'TREADLE_WATCHDOG'

#: Seconds that a worker's loop may be held before the watchdog says so.
WATCHDOG: Final = 1.0
#: What a line looks like that Treadle writes; ``pid`` is the process whose step has logged it, or ``-``.
FORMAT: Final = '%(asctime)s %(levelname)s %(name)s [%(pid)s]: %(message)s'
#: The name of the logger above all others, and the two outputs that are no file.
ROOT, STDERR, NOWHERE = 'root', 'stderr', 'nowhere'

_TRUE: Final = frozenset(('1', 'true', 'yes', 'on'))
_FALSE: Final = frozenset(('0', 'false', 'no', 'off'))

#: What ``Engine(logging=...)`` takes.
LogChoice = Mapping[str, Any] | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What an engine's logging is to be while it runs.

    :ivar levels: the level of each logger that is named.
    :ivar capture: further loggers whose records belong to the streams of processes.
    :ivar output: ``stderr``, ``nowhere`` or the absolute path of a file; ``None`` leaves it to the host's handlers, and
        writes to stderr where it has none.
    :ivar format: of a line, as for :class:`logging.Formatter`.
    """

    levels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    capture: tuple[str, ...] = ()
    output: str | None = None
    format: str = FORMAT


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """How an engine tells of itself.

    :ivar logging: ``None`` if nobody has asked for anything.
    :ivar asyncio_debug: asyncio's debug mode on the worker loops; ``None`` leaves it to asyncio.
    :ivar watchdog: seconds that a worker's loop may be held; 0 is no watchdog.
    """

    logging: LogSettings | None
    asyncio_debug: bool | None
    watchdog: float

    @classmethod
    def choose(
        cls, *, logging: LogChoice | LogSettings | None, asyncio_debug: bool | None, watchdog: float | None
    ) -> Diagnostics:
        """The settings by these arguments, where ``None`` asks the environment.

        :raises ConfigurationError: one of them makes no sense.
        """
        return cls(
            logging=logging_of_environment() if logging is None else log_settings(logging),
            asyncio_debug=_debug_of_environment() if asyncio_debug is None else _flag(asyncio_debug, 'asyncio_debug'),
            watchdog=_watchdog_of_environment() if watchdog is None else _seconds(watchdog, 'watchdog'),
        )


def _environment(variable: str) -> str | None:
    """The value of a variable; one that is empty is not set."""
    return os.environ.get(variable, '').strip() or None


def url_of_environment(variable: str) -> tuple[str, str] | None:
    """A URL of the environment, which may hold a password: the variable's value, or what stands in a file.

    The path of the file is the value of the variable of that name with ``_FILE`` behind it, as services are given their
    secrets by systemd and by containers: a file is not inherited by what a step starts.

    :returns: the URL and the name of the variable that it is from, for messages; ``None`` if neither is set.
    :raises ConfigurationError: both are set, or the file cannot be read or is empty.
    """
    url, path = _environment(variable), _environment(f'{variable}_FILE')
    if path is None:
        return None if url is None else (url, variable)
    if url is not None:
        raise ConfigurationError(f'{variable} and {variable}_FILE are both set; unset one of them')
    try:
        text = Path(path).read_text(encoding='utf-8').strip()
    except OSError as error:
        raise ConfigurationError(f'{variable}_FILE: the file {path} cannot be read ({error.strerror})') from error
    except ValueError:
        raise ConfigurationError(f'{variable}_FILE: the file {path} holds no text') from None
    if not text:
        raise ConfigurationError(f'{variable}_FILE: the file {path} is empty; write the URL into it')
    return text, f'{variable}_FILE'


def logging_of_environment() -> LogSettings | None:
    """What ``TREADLE_LOGGING`` asks for, ``None`` if it is not set.

    :raises ConfigurationError: it makes no sense.
    """
    text = _environment(LOGGING_VARIABLE)
    return None if text is None else log_settings(text, LOGGING_VARIABLE)


def _debug_of_environment() -> bool | None:
    text = _environment(ASYNCIO_DEBUG_VARIABLE)
    if text is None:
        return None
    if text.lower() not in _TRUE | _FALSE:
        raise ConfigurationError(f'{ASYNCIO_DEBUG_VARIABLE}={text}: write 1 or 0')
    return text.lower() in _TRUE


def _watchdog_of_environment() -> float:
    text = _environment(WATCHDOG_VARIABLE)
    if text is None:
        return WATCHDOG
    try:
        seconds = float(text)
    except ValueError:
        raise ConfigurationError(f'{WATCHDOG_VARIABLE}={text}: write a number of seconds, or 0 for none') from None
    return _seconds(seconds, WATCHDOG_VARIABLE)


def _flag(given: Any, source: str) -> bool:
    if not isinstance(given, bool):
        raise ConfigurationError(f'{source} must be True, False or None, not {given!r}')
    return given


def _seconds(given: Any, source: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given) or given < 0:
        raise ConfigurationError(f'{source} must be a number of seconds, or 0 for none, not {given!r}')
    return float(given)


# -- logging -----------------------------------------------------------------------------------------------


def log_settings(given: LogChoice | LogSettings, source: str = 'logging') -> LogSettings:
    """Read what somebody wants of logging.

    :param given: levels as for :func:`levels_of_text`, the path of a TOML or JSON file, or what is in such a file.
    :param source: where it was written, for messages.
    :raises ConfigurationError: it makes no sense, or the file cannot be read.
    """
    if isinstance(given, LogSettings):
        return given
    if isinstance(given, Mapping):
        return _of_mapping(given, source)
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given.endswith(('.toml', '.json'))):
        path = Path(given).expanduser()
        return _of_mapping(_read(path, source), f'{source}: {path}')
    if isinstance(given, str):
        if os.sep in given:
            raise ConfigurationError(f'{source}: the file {given} must have a name that ends in .toml or .json')
        return LogSettings(levels=levels_of_text(given, source))
    raise ConfigurationError(
        f'{source} must be a level, a dictionary, or the path of a TOML or JSON file, not {given!r}'
    )


def levels_of_text(text: str, source: str) -> dict[str, int]:
    """Read levels such as ``INFO`` or ``INFO,asyncio=DEBUG``; one without a name is that of the logger ``treadle``.

    :raises ConfigurationError: a name or a level is none.
    """
    levels = {}
    for part in text.split(','):
        name, equals, level = part.rpartition('=')
        levels[_name(name if equals else 'treadle', source)] = level_of(level, source)
    return levels


def _read(path: Path, source: str) -> Mapping[str, Any]:
    # Few have such a file, and everybody imports this module.
    import json  # noqa: PLC0415
    import tomllib  # noqa: PLC0415

    try:
        text = path.read_text(encoding='utf-8')
        found = json.loads(text) if path.suffix == '.json' else tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f'{source}: {path} cannot be read ({error.strerror})') from error
    except ValueError as error:  # of either format, or not UTF-8
        kind = 'JSON' if path.suffix == '.json' else 'TOML'
        raise ConfigurationError(f'{source}: {path} is no {kind}: {error}') from error
    if not isinstance(found, dict):
        raise ConfigurationError(f'{source}: {path} holds no object; write {{"levels": {{"treadle": "INFO"}}}}')
    return found


def _of_mapping(given: Mapping[str, Any], source: str) -> LogSettings:
    readers = {'levels': _levels, 'capture': _capture, 'output': _output, 'format': _format}
    for key in given:
        if key not in readers:
            raise ConfigurationError(f'{source}: unknown key {key!r}; the keys are {", ".join(readers)}')
    read: dict[str, Any] = {key: readers[key](value, f'{source}: {key}') for key, value in given.items()}
    return LogSettings(**read)


def _levels(given: Any, source: str) -> Mapping[str, int]:
    if isinstance(given, str):
        return levels_of_text(given, source)
    if not isinstance(given, Mapping):
        raise ConfigurationError(f'{source} must name a level for each logger, not {given!r}')
    return {_name(name, source): level_of(level, f'{source}: {name}') for name, level in given.items()}


def level_of(given: Any, source: str) -> int:
    """Read one level, a name or a number.

    :raises ConfigurationError: it is none.
    """
    known = logging.getLevelNamesMapping()
    if isinstance(given, str):
        text = given.strip().upper()
        level = known.get(text, int(text) if text.isdecimal() else 0)
        if level > 0:
            return level
    elif isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    elif isinstance(given, Mapping):
        # In TOML a name with dots that is not quoted is a table within a table.
        raise ConfigurationError(f'{source} is no level; put a name with dots into quotes')
    names = ', '.join(logging.getLevelName(level) for level in sorted(set(known.values())) if level)
    raise ConfigurationError(f'{source}: {given!r} is no level; the levels are {names}, and numbers')


def _name(given: Any, source: str) -> str:
    name = given.strip() if isinstance(given, str) else ''
    if not name or not all(name.split('.')):
        raise ConfigurationError(f'{source}: {given!r} is no name of a logger; write one such as asyncio, or {ROOT}')
    return name


def _capture(given: Any, source: str) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f'{source} must be a list of names of loggers, not {given!r}')
    return tuple(_name(name, source) for name in given)


def _output(given: Any, source: str) -> str | None:
    if given is None:
        return None
    if given in (STDERR, NOWHERE):
        return str(given)
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given.strip()):
        return os.path.abspath(os.path.expanduser(os.fspath(given)))
    raise ConfigurationError(f'{source} must be {STDERR}, {NOWHERE} or the path of a file, not {given!r}')


def _format(given: Any, source: str) -> str:
    example = logging.makeLogRecord({'name': 'treadle', 'pid': '-'})
    try:
        if not isinstance(given, str):
            raise TypeError('it is no text')
        logging.Formatter(given).format(example)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f'{source}: {given!r} is no format ({error}); write one such as {FORMAT!r}') from error
    return given
