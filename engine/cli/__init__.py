"""The ``treadle`` command: looking at a store from the shell, whether an engine runs or not.

It reads the store and nothing else: no engine is started, nothing is written, and no module of the user's is
imported. What each command prints is described in ``docs/command.rst``.
"""

from __future__ import annotations

from .app import main

__all__ = ['main']
