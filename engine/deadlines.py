"""What is left until a deadline, which several waits share."""

from __future__ import annotations

import time
from typing import overload

__all__ = ['remaining']


@overload
def remaining(deadline: float) -> float: ...
@overload
def remaining(deadline: float | None) -> float | None: ...
def remaining(deadline: float | None) -> float | None:
    """The seconds left until ``deadline`` on the monotonic clock, at least 0; ``None`` for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
