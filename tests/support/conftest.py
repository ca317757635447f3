"""What the tests are made with is tested itself."""

from __future__ import annotations

from support.leaks import no_leaked_threads

__all__ = ['no_leaked_threads']
