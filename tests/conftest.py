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

#: What all tests that use it share, by the names of fixtures and parameters: never used by two tests at once, since
#: some count the logins of an ssh server, cancel what is in its queue, or cut all connections of a broker.
SHARED = {'ssh': frozenset({'sshd', 'slurm', 'ssh', 'on_slurm'}), 'broker': frozenset({'broker', 'rabbit'})}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of what is shared run one after the other, whether they name it or get it as a parameter."""
    for item in items:
        callspec = getattr(item, 'callspec', None)
        parameters = () if callspec is None else [each for each in callspec.params.values() if isinstance(each, str)]
        names = {*getattr(item, 'fixturenames', ()), *parameters}
        shared = [group for group, users in SHARED.items() if not users.isdisjoint(names)]
        if shared:
            item.add_marker(pytest.mark.xdist_group(shared[0]))
