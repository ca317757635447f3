"""The ``treadle`` command: looking at a store from the shell, and acting on it, whether an engine runs or not.

Commands that look read the store and nothing else; ``kill``, ``pause`` and ``play`` write one short transaction. None
of these starts an engine or imports a module of the user's; ``run``, ``submit`` and ``worker`` do. What each prints is
described in ``docs/command.rst``.
"""

from __future__ import annotations

from .app import main

__all__ = ['main']
