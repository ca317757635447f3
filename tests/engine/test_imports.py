"""What ``import treadle.engine`` costs a host: nothing heavy, no thread, no logging."""

from __future__ import annotations

import pytest

HEAVY = (
    'alembic', 'click', 'disk_objectstore', 'kiwipy', 'numpy', 'paramiko', 'rich', 'sqlalchemy',
)  # fmt: skip

SCRIPT = """
    import logging, sys, threading
    root = list(logging.getLogger().handlers), logging.getLogger().level
    import treadle.engine
    print('heavy', *sorted(name for name in {HEAVY!r} if name in sys.modules))
    print('threads', threading.active_count())
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == root
    treadle_logger = logging.getLogger('treadle')
    print('logging', treadle_logger.handlers, treadle_logger.level, treadle_logger.propagate)
"""


@pytest.fixture
def lines(scripts):
    ended = scripts.run(SCRIPT.replace('{HEAVY!r}', repr(HEAVY)))
    assert (ended.code, ended.err) == (0, '')
    return ended.out.splitlines()


def test_importing_loads_nothing_heavy_starts_no_thread_and_configures_no_logging(lines):
    assert lines == ['heavy', 'threads 1', 'logging [] 0 True']


def test_every_public_name_is_there():
    import treadle.engine

    for name in treadle.engine.__all__:
        assert getattr(treadle.engine, name) is not None


def test_an_engine_that_is_made_but_not_started_starts_no_thread(store):
    import threading

    from treadle.engine import Engine, EngineStopped

    before = set(threading.enumerate())
    engine = Engine(store)
    assert set(threading.enumerate()) == before
    with pytest.raises(EngineStopped, match='not started'):
        engine.load(1)
    engine.stop()
    assert not engine.is_running
