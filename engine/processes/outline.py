"""The outline language, where authors of work chains look for it; see :mod:`treadle.engine.spec.outline`.

It lives with the specs, because ``spec.outline()`` compiles it and specs know nothing of processes.
"""

from __future__ import annotations

from ..spec.outline import (
    End,
    If,
    Instruction,
    Op,
    Outline,
    Return,
    Step,
    While,
    compile_outline,
    if_,
    return_,
    while_,
)

__all__ = [
    'End',
    'If',
    'Instruction',
    'Op',
    'Outline',
    'Return',
    'Step',
    'While',
    'compile_outline',
    'if_',
    'return_',
    'while_',
]
