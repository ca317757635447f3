"""A log stream for each process, carried across threads by the context variable that names the current step.

While an engine runs, one handler hangs on the logger ``treadle``. It keeps what is logged inside a step, to be
committed with the step, and ignores everything else. Nothing is printed, and no logger of the host's is configured.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from .processes.visit import current_visit

if TYPE_CHECKING:
    from .processes.visit import Visit

#: The level of ``Process.report``, between INFO and WARNING.
REPORT = 23
logging.addLevelName(REPORT, 'REPORT')

ProcessLogger = logging.LoggerAdapter[logging.Logger]


def process_logger(process_label: str, pid: int) -> ProcessLogger:
    """A logger whose records carry the pid and go into the process's log stream."""
    return logging.LoggerAdapter(logging.getLogger(f'treadle.process.{process_label}'), {'pid': pid})


def report_to(visit: Visit, logger: ProcessLogger, message: str, args: tuple[Any, ...]) -> None:
    """Log at level REPORT; the process's stream gets it whatever the logger's level is."""
    if _installed.count and logger.isEnabledFor(REPORT):
        logger.log(REPORT, message, *args)
    else:
        visit.record(REPORT, logger.logger.name, message % args if args else message)


class _StreamHandler(logging.Handler):
    """Puts what is logged inside a step into that process's log stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record if the current code belongs to a process."""
        self._pass_on(record)
        visit = current_visit()
        if visit is None:
            return
        try:
            message = record.getMessage()
            if record.exc_info:
                message = f'{message}\n{logging.Formatter().formatException(record.exc_info)}'
        except Exception:
            self.handleError(record)
            return
        visit.record(record.levelno, record.name, message)

    def _pass_on(self, record: logging.LogRecord) -> None:
        """Where the host has configured no logging, warnings go to the standard error, as they do without us."""
        last = logging.lastResort
        if last is None or record.levelno < last.level:
            return
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return
            logger = logger.parent if logger.propagate else None
        last.handle(record)


class _Installed:
    """How many engines want the handler; the last one takes it away."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.Lock()
        self.handler = _StreamHandler()


_installed = _Installed()


def install() -> None:
    """Begin to keep process logs; called by an engine that starts."""
    with _installed.lock:
        _installed.count += 1
        if _installed.count == 1:
            logging.getLogger('treadle').addHandler(_installed.handler)


def uninstall() -> None:
    """Stop it; called by an engine that has stopped."""
    with _installed.lock:
        _installed.count -= 1
        if _installed.count == 0:
            logging.getLogger('treadle').removeHandler(_installed.handler)
