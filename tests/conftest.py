"""What holds for all tests."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

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
    with contextlib.ExitStack() as stack:
        if 'PYTEST_XDIST_TESTRUNUID' in os.environ:
            for group, users in SHARED.items():
                if not users.isdisjoint(names):
                    stack.enter_context(_only_here(group, os.environ['PYTEST_XDIST_TESTRUNUID']))
        return (yield)


@contextlib.contextmanager
def _only_here(group: str, run: str) -> Iterator[None]:
    with open(Path(tempfile.gettempdir()) / f'treadle-tests-{run}-{group}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
