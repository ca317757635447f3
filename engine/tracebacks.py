"""Tracebacks that show the caller's code: the frames that only say how Treadle works inside are left out."""

from __future__ import annotations

from types import TracebackType

from .errors import TreadleError

__all__ = ['SHORT_TRACEBACK', 'shorten', 'shortened']

#: Modules, with all below them, whose frames say nothing to those who use Treadle: its own, and what it stands on.
_INSIDE = ('treadle.engine', 'treadle.threads', 'asyncio', 'concurrent', 'contextlib', 'sqlalchemy', 'threading')


def shortened(error: BaseException) -> TracebackType | None:
    """The traceback of an error, without frames of Treadle's inside.

    An error that Treadle raises on purpose, and a Ctrl-C, keep none of these: the message says it all. Any other error
    loses them only above the first frame of other code, so that a mistake inside Treadle still shows where it is.
    """
    frames: list[TracebackType] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    foreign = [frame for frame in frames if not _is_inside(frame)]
    if isinstance(error, (TreadleError, KeyboardInterrupt)):
        kept = foreign
    else:
        kept = frames[frames.index(foreign[0]) :] if foreign else frames
    for frame in reversed(kept):
        trace = TracebackType(trace, frame.tb_frame, frame.tb_lasti, _line_of(frame))
    return trace


def shorten(error: BaseException) -> None:
    """Give an error its shortened traceback; a bare ``raise`` after it adds no frame of its own."""
    error.__traceback__ = shortened(error)


class _ShortTraceback:
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            shorten(error)


#: ``with SHORT_TRACEBACK:`` around what the public calls do. It has no state.
SHORT_TRACEBACK = _ShortTraceback()


def _line_of(trace: TracebackType) -> int:
    """The line, or -1 where there is none: a signal handler may raise between two lines, also of a library."""
    line: int | None = trace.tb_lineno
    return -1 if line is None else line


def _is_inside(trace: TracebackType) -> bool:
    name = str(trace.tb_frame.f_globals.get('__name__'))
    return any(name == inside or name.startswith(f'{inside}.') for inside in _INSIDE)
