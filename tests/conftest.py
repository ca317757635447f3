"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import sys

import pytest

pytest_plugins = ['support.services', 'support.stores']

# A shell that runs the tests in the background has their SIGINT ignored, and with it that of all they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Engines of one script are each other's successors, and OS processes of pytest-xdist have no script, as `python -c`.
if 'PYTEST_XDIST_WORKER' in os.environ:
    sys.modules['__main__'].__file__ = pytest.__file__

#: What is shared by all tests that use it, such as the log of accepted logins: never by two at once.
SHARED = frozenset({'sshd', 'slurm'})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of one file, and those of what is shared, run one after the other."""
    for item in items:
        is_shared = not SHARED.isdisjoint(getattr(item, 'fixturenames', ()))
        item.add_marker(pytest.mark.xdist_group('shared' if is_shared else str(item.path)))
