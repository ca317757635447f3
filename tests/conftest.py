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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of what is shared run one after the other, whether they name it or get it as a parameter."""
    for item in items:
        callspec = getattr(item, 'callspec', None)
        parameters = () if callspec is None else [each for each in callspec.params.values() if isinstance(each, str)]
        if not SHARED.isdisjoint((*getattr(item, 'fixturenames', ()), *parameters)):
            item.add_marker(pytest.mark.xdist_group('shared'))
