"""A log stream for each process, carried across threads by the context variable that names the current step.

While an engine runs, *taps* hang on the loggers of Treadle and of the libraries that work for it. What is logged inside
a step goes into that process's stream, to be committed with the step; everything else is ignored. No logger of the
host's is configured and nothing is printed that would not be printed without Treadle, unless the engine's
:class:`~.config.LogSettings` ask for it. They hold while the engine runs.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from ..threads import run_in_child
from .config import NOWHERE, ROOT, STDERR, LogSettings
from .errors import ConfigurationError
from .processes.visit import current_visit

if TYPE_CHECKING:
    from .processes.visit import Visit

__all__ = ['CAPTURED', 'REPORT', 'Hold', 'ProcessLogger', 'install', 'process_logger', 'report_to']

#: The level of ``Process.report``, between INFO and WARNING.
REPORT = 23
logging.addLevelName(REPORT, 'REPORT')

#: The loggers whose records belong to the streams of processes in any case.
CAPTURED = ('treadle', 'asyncio', 'aio_pika', 'aiormq', 'kiwipy', 'paramiko')

#: Marks a record that is in its stream already.
_KEPT = '_treadle_kept'

ProcessLogger = logging.LoggerAdapter[logging.Logger]


def process_logger(process_label: str, pid: int) -> ProcessLogger:
    """A logger whose records carry the pid and go into the process's log stream."""
    return logging.LoggerAdapter(logging.getLogger(f'treadle.process.{process_label}'), {'pid': pid})


def report_to(visit: Visit, logger: ProcessLogger, message: object, args: tuple[Any, ...]) -> None:
    """Log at level REPORT for the caller's caller; the stream gets it whatever has become of the logger."""
    visit.record(REPORT, logger.logger.name, _formatted(message, args))
    if logger.isEnabledFor(REPORT):
        logger.logger.log(REPORT, message, *args, extra={'pid': visit.pid, _KEPT: True}, stacklevel=3)


def _formatted(message: object, args: Any) -> str:
    """What a record says. What does not fit together is kept as it was written; it is no reason to fail a step."""
    if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
        args = args[0]
    try:
        return str(message) % args if args else str(message)
    except Exception as error:
        return f'{_shown(message)} {_shown(args)} ({_shown(error)})'


def _shown(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:
        return f'<{type(value).__name__} whose repr() raised {type(error).__name__}>'


def _text_of(record: logging.LogRecord) -> str:
    """What a record says, with its traceback if it has one."""
    parts = [_formatted(record.msg, record.args)]
    if record.exc_info:
        parts.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return '\n'.join(parts)


# -- handlers ------------------------------------------------------------------------------------------------


class _Tap(logging.Handler):
    """Hangs on the logger ``name`` for several, ``taps``, and hands on the records that reach it first."""

    def __init__(self, name: str, taps: _Taps) -> None:
        super().__init__()
        self._logger_name = name
        self.taps = taps

    def handle(self, record: logging.LogRecord) -> bool:
        """Without a lock, so that steps that log at once do not wait for one another."""
        if self.taps.first(record.name) == self._logger_name:
            try:
                self.taps.target.handle(record)
            except Exception:  # such as: the folder of a log file is gone; that fails no step
                self.handleError(record)
        return True


class _Taps:
    """A handler that hangs on several loggers, one perhaps below another, and gets each record once."""

    def __init__(self, target: logging.Handler) -> None:
        self.target = target
        self._by_name: dict[str, _Tap] = {}

    def first(self, name: str) -> str:
        """The logger with a tap that the records of the logger ``name`` reach first on their way up."""
        while name and name not in self._by_name:
            name = name.rpartition('.')[0]
        return name or ROOT

    def hang_on(self, names: Collection[str]) -> None:
        """Hang on these loggers, and on no others any more."""
        for name in set(names) - self._by_name.keys():
            tap = _Tap(name, self)
            logging.getLogger(name).addHandler(tap)
            self._by_name[name] = tap
        for name in self._by_name.keys() - set(names):
            tap = self._by_name.pop(name)
            logging.getLogger(name).removeHandler(tap)
            tap.close()


class _Streams(logging.Handler):
    """Puts what is logged inside a step into that process's stream.

    Since it hangs on loggers, Python believes that they have a handler, and leaves out what it does without one:
    warnings go to stderr. So that is done here.
    """

    def __init__(self) -> None:
        super().__init__()
        #: What prints the records for which the host has no handler, if an engine was told to log.
        self.fallback: logging.Handler | None = None
        #: Whether Python's own way with them is left as it is.
        self.keeps_last_resort = True

    def handle(self, record: logging.LogRecord) -> bool:
        """Without a lock, as for :class:`_Tap`; nothing here is shared."""
        visit = current_visit()
        if visit is not None and not hasattr(record, _KEPT):
            visit.record(record.levelno, record.name, _text_of(record), record.created)
        fallback = self.fallback
        if fallback is None and self.keeps_last_resort:
            fallback = logging.lastResort
        if fallback is not None and record.levelno >= fallback.level and not self._is_heard(record):
            fallback.handle(record)
        return True

    def _is_heard(self, record: logging.LogRecord) -> bool:
        """Whether any other handler gets the record."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(not (isinstance(handler, _Tap) and handler.taps.target is self) for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _output_of(settings: LogSettings) -> logging.Handler | None:
    """The handler that writes where the settings say, if they say so.

    :raises ConfigurationError: the file cannot be opened.
    """
    if settings.output == NOWHERE:
        return None
    handler = _Stderr() if settings.output in (STDERR, None) else _file(str(settings.output))
    handler.setFormatter(logging.Formatter(settings.format))
    handler.addFilter(_with_pid)
    return handler


def _file(path: str) -> logging.Handler:
    # Only who writes to a file needs what this imports.
    from logging.handlers import WatchedFileHandler  # noqa: PLC0415

    try:
        return WatchedFileHandler(path, encoding='utf-8', errors='backslashreplace')  # found anew when it is rotated
    except OSError as error:
        raise ConfigurationError(
            f'the log file {path} cannot be opened ({error.strerror}); name another as the output of logging'
        ) from error


def _with_pid(record: logging.LogRecord) -> bool:
    """Give the record a ``pid`` if it has none; a filter that lets everything pass."""
    if not hasattr(record, 'pid'):
        visit = current_visit()
        record.pid = '-' if visit is None else visit.pid
    return True


# -- what the engines of this OS process want ------------------------------------------------------------------


class Hold:
    """What one engine wants of logging, from :func:`install` until :meth:`release`."""

    def __init__(self, settings: LogSettings | None) -> None:
        self.levels = {} if settings is None else settings.levels
        #: The loggers that this is about.
        self.names = frozenset((*CAPTURED, *self.levels, *(() if settings is None else settings.capture)))
        self.output = None if settings is None else _output_of(settings)
        #: Whether the output is only for what no handler of the host's gets.
        self.is_fallback = settings is None or settings.output is None
        self.taps = None if self.output is None or self.is_fallback else _Taps(self.output)

    def release(self) -> None:
        """The engine has stopped; safe to call again."""
        _installation.release(self)

    def close(self) -> None:
        """Let go of the output."""
        if self.taps is not None:
            self.taps.hang_on(())
        if self.output is not None:
            self.output.close()


class _Installation:
    """What all engines of this OS process want, put into effect."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holds: list[Hold] = []
        self._streams = _Streams()
        self._taps = _Taps(self._streams)
        #: By logger, the level that it had and the one that it was given.
        self._levels: dict[str, tuple[int, int]] = {}

    def hold(self, hold: Hold) -> None:
        """Put ``hold`` into effect, beside the others."""
        with self._lock:
            self._holds.append(hold)
            if hold.taps is not None:
                hold.taps.hang_on(hold.names)
            self._apply()

    def release(self, hold: Hold) -> None:
        """Take ``hold`` back; the others stay in effect."""
        with self._lock:
            if hold in self._holds:
                self._holds.remove(hold)
                self._apply()
                hold.close()

    def _apply(self) -> None:
        self._taps.hang_on({name for hold in self._holds for name in hold.names})
        self._set_levels()
        fallbacks = [hold for hold in self._holds if hold.is_fallback]
        self._streams.keeps_last_resort = bool(fallbacks)
        self._streams.fallback = next((hold.output for hold in fallbacks if hold.output is not None), None)

    def _set_levels(self) -> None:
        """Give each logger the lowest level that is wanted, or the former one if none is wanted any more."""
        wanted: dict[str, int] = {}
        for hold in self._holds:
            for name, level in hold.levels.items():
                wanted[name] = min(level, wanted.get(name, level))
        for name in self._levels.keys() - wanted.keys():
            before, given = self._levels.pop(name)
            if logging.getLogger(name).level == given:  # else the host has set it meanwhile
                logging.getLogger(name).setLevel(before)
        for name, level in wanted.items():
            logger = logging.getLogger(name)
            before, given = self._levels.get(name, (logger.level, logging.NOTSET))
            if level != given:
                self._levels[name] = before, level
                logger.setLevel(level)

    def after_fork(self) -> None:
        """A forked child has none of the engines."""
        self._lock = threading.Lock()
        holds, self._holds = self._holds, []
        self._apply()
        for hold in holds:
            hold.close()


_installation = _Installation()
run_in_child(_installation.after_fork)


def install(settings: LogSettings | None = None) -> Hold:
    """Begin to keep process logs, and to log as the settings say; called by an engine that starts.

    :param settings: ``None`` configures nothing.
    :raises ConfigurationError: the log file cannot be opened.
    """
    hold = Hold(settings)
    _installation.hold(hold)
    return hold
