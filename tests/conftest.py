"""What holds for all tests."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

pytest_plugins = ['support.services', 'support.stores', 'support.tls']

# A shell that runs the tests in the background has their SIGINT ignored, and with it that of all they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Engines of one script are each other's successors, and OS processes of pytest-xdist have no script, as `python -c`.
if 'PYTEST_XDIST_WORKER' in os.environ:
    sys.modules['__main__'].__file__ = pytest.__file__

#: What is never used by two tests at once, by the names of fixtures and parameters that lead to it: some tests count
#: the logins of the ssh server or cancel all that is in its queue, and there is one role with a password.
SHARED = frozenset({'sshd', 'slurm', 'ssh', 'on_slurm', 'guarded'})

#: What takes long to start on a busy machine, by the names of fixtures: services of a test's own, and interpreters.
#: The time that a test has counts from before its fixtures.
SLOW_STARTS = frozenset({'make_postgres', 'make_rabbitmq', 'make_sshd', 'make_slurm', 'hosts', 'scripts'})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give more time to tests of what takes long to start, if they do not say themselves how much they have."""
    for item in items:
        names = getattr(item, 'fixturenames', ())
        if not SLOW_STARTS.isdisjoint(names) and item.get_closest_marker('timeout') is None:
            item.add_marker(pytest.mark.timeout(180))


def pytest_collection_finish() -> None:
    """Leave all that the imports and the collection have made out of the collections of garbage that tests ask for.

    There are hundreds of thousands of objects by then, and most tests ask for one.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time that a test has: waiting is no part of it
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have the tests of what is shared run one after the other, in whichever OS process of pytest-xdist."""
    callspec = getattr(item, 'callspec', None)
    parameters = () if callspec is None else [each for each in callspec.params.values() if isinstance(each, str)]
    names = {*getattr(item, 'fixturenames', ()), *parameters}
    run = os.environ.get('PYTEST_XDIST_TESTRUNUID')
    if run is None or SHARED.isdisjoint(names):
        return (yield)
    with open(Path(tempfile.gettempdir()) / f'treadle-tests-{run}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)
