"""Where another thread is: for the messages of those who wait for it in vain."""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType


def frame_of(thread: threading.Thread) -> FrameType | None:
    """The innermost frame that `thread` executes, None when it does not run."""
    if thread.ident is None or not thread.is_alive():
        return None
    return sys._current_frames().get(thread.ident)


def top_of(thread: threading.Thread) -> str:
    """The place where `thread` is, on one line: `file:line in function`."""
    frame = frame_of(thread)
    if frame is None:
        return 'nowhere: it does not run'
    code = frame.f_code
    return f'{code.co_filename}:{frame.f_lineno} in {code.co_qualname}'


def stack_of(thread: threading.Thread) -> str:
    """The stack of `thread`, outermost frame first, as in a traceback."""
    frame = frame_of(thread)
    return '' if frame is None else ''.join(traceback.format_stack(frame))
