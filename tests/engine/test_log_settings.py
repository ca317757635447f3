"""What an engine is told to log, where it goes, and that hosts that ask for nothing notice nothing."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading

import pytest

from treadle.engine import ConfigurationError, Process, StoreUnavailable
from treadle.engine.logging import CAPTURED

PATIENCE = 30.0


class Speaks(Process):
    """Logs with loggers of several kinds."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        self.report('reported')
        for name in ('treadle.process.Speaks', 'asyncio', 'user', 'user.module'):
            logging.getLogger(name).debug('debug of %s', name)
            logging.getLogger(name).warning('warning of %s', name)


#: What is in its stream when nothing is asked for.
WARNINGS = ['reported', 'warning of treadle.process.Speaks', 'warning of asyncio']


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    """Whatever a test does, its engines leave no handler and no level behind."""
    loggers = [logging.getLogger(name) for name in ('root', *CAPTURED, 'user', 'user.module')]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before


@pytest.fixture
def bare(monkeypatch):
    """Called by a test, makes it a host without handlers; returns what goes to its standard error."""

    def bare():
        monkeypatch.setenv('TREADLE_WATCHDOG', '60')  # a busy machine is no news
        errors = io.StringIO()
        monkeypatch.setattr(logging.getLogger(), 'handlers', [])
        monkeypatch.setattr(sys, 'stderr', errors)
        return errors

    return bare


class Listener(logging.Handler):
    """A handler of the host's."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def stream(engine):
    return [entry.message for entry in engine.run_get_node(Speaks)[1].log]


# -- nothing asked for -------------------------------------------------------------------------------------


def test_python_does_with_warnings_what_it_does_without_treadle(make_engine, bare):
    errors = bare()
    assert stream(make_engine()) == WARNINGS
    assert errors.getvalue().splitlines() == [
        'warning of treadle.process.Speaks',
        'warning of asyncio',
        'warning of user',
        'warning of user.module',
    ]


def test_a_host_that_wants_no_last_resort(make_engine, bare, monkeypatch):
    errors = bare()
    engine = make_engine()
    monkeypatch.setattr(logging, 'lastResort', None)
    assert stream(engine) == WARNINGS
    assert 'warning' not in errors.getvalue()


def test_importing_and_embedding_configure_nothing(scripts):
    ended = scripts.run(
        """
        import logging, sys, threading

        def state():
            loggers = [logging.root, *(logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict))]
            return {each.name: (each.level, list(each.handlers), each.propagate, each.disabled) for each in loggers}

        for name in ('asyncio', 'aio_pika', 'paramiko', 'host'):
            logging.getLogger(name)
        before, threads = state(), threading.active_count()
        import treadle.engine, treadle.threads
        from treadle.engine import Engine, Process

        after = state()
        assert {name: after[name] for name in before} == before
        assert all(value == (0, [], True, False) for name, value in after.items() if name.startswith('treadle'))
        assert threading.active_count() == threads

        class Quiet(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
            def run(self):
                self.report('quiet')
                self.logger.info('quiet')
                logging.getLogger('asyncio').info('quiet')
                logging.getLogger('host').info('quiet')

        levels = {name: (level, propagate) for name, (level, _, propagate, _) in state().items()}
        with Engine() as engine:
            engine.run(Quiet)
            running = state()
            assert running['root'] == before['root'] and running['host'] == before['host']
            assert {name: running[name][0::2] for name in levels} == levels
        left = {name: handlers for name, (_, handlers, _, _) in state().items() if handlers}
        assert not any('treadle' in repr(type(each)) for handlers in left.values() for each in handlers), left
        """
    )
    assert (ended.code, ended.out, ended.err) == (0, '', ''), ended.err


# -- something asked for -----------------------------------------------------------------------------------


def test_a_level_shows_on_stderr_where_the_host_has_no_handler(make_engine, bare):
    errors = bare()
    engine = make_engine(logging='DEBUG')
    node = engine.run_get_node(Speaks)[1]
    assert [entry.message for entry in node.log] == [WARNINGS[0], 'debug of treadle.process.Speaks', *WARNINGS[1:]]
    lines = [line for line in errors.getvalue().splitlines() if 'Speaks' in line or 'asyncio' in line]
    assert [line.partition(' ')[2].partition(' ')[2] for line in lines] == [
        f'REPORT treadle.process.Speaks [{node.pid}]: reported',
        f'DEBUG treadle.process.Speaks [{node.pid}]: debug of treadle.process.Speaks',
        f'WARNING treadle.process.Speaks [{node.pid}]: warning of treadle.process.Speaks',
        f'WARNING asyncio [{node.pid}]: warning of asyncio',
    ]
    assert 'user' not in ''.join(lines)


def test_a_level_shows_in_the_hosts_handlers_where_it_has_some(make_engine, bare):
    errors = bare()
    listener = Listener()
    logging.getLogger().addHandler(listener)
    engine = make_engine(logging='REPORT')
    engine.run(Speaks)
    said = [message for message in listener.messages if 'reported' in message or 'Speaks' in message]
    assert said == ['reported', 'warning of treadle.process.Speaks']
    assert errors.getvalue() == ''


def test_capture_and_levels_name_what_goes_into_the_streams(make_engine, bare):
    errors = bare()
    engine = make_engine(logging={'levels': {'user.module': 'DEBUG'}, 'capture': ['user']})
    assert stream(engine) == [*WARNINGS, 'warning of user', 'debug of user.module', 'warning of user.module']
    assert errors.getvalue().count('user.module') == 2 * 2, 'each record once, which names it twice'


def test_root_takes_all_once(make_engine, bare):
    errors = bare()
    engine = make_engine(logging={'levels': {'user': 'DEBUG'}, 'capture': ['root', 'user.module']})
    assert stream(engine) == [
        *WARNINGS, 'debug of user', 'warning of user', 'debug of user.module', 'warning of user.module'
    ]  # fmt: skip
    assert errors.getvalue().count('warning of user.module') == 1


def test_stderr_in_addition_to_the_hosts_handlers(make_engine, bare):
    errors = bare()
    listener = Listener()
    logging.getLogger().addHandler(listener)
    engine = make_engine(logging={'output': 'stderr', 'format': '%(pid)s|%(message)s'})
    pid = engine.run_get_node(Speaks)[1].pid
    logging.getLogger('asyncio').warning('outside')
    lines = [f'{pid}|warning of treadle.process.Speaks', f'{pid}|warning of asyncio', '-|outside']
    assert errors.getvalue().splitlines() == lines
    assert listener.messages[-1] == 'outside' and 'warning of user' in listener.messages


def test_a_file(make_engine, bare, tmp_path):
    errors = bare()
    path = tmp_path / 'treadle.log'
    engine = make_engine(logging={'levels': 'REPORT,root=WARNING', 'output': path, 'format': '%(name)s:%(message)s'})
    assert stream(engine)[0] == 'reported'
    expected = [
        'treadle.process.Speaks:reported',
        'treadle.process.Speaks:warning of treadle.process.Speaks',
        'asyncio:warning of asyncio',
        'user:warning of user',
        'user.module:warning of user.module',
    ]
    assert path.read_text().splitlines() == expected
    path.rename(tmp_path / 'treadle.log.1')  # as logrotate does
    engine.run(Speaks)
    engine.stop()
    assert path.read_text().splitlines() == expected
    make_engine(logging={'output': path}).run(Speaks)
    assert len(path.read_text().splitlines()) == len(expected) + 2, 'it is appended to'
    assert errors.getvalue().splitlines() == ['warning of user', 'warning of user.module'], 'of which nobody was told'


def test_nowhere(make_engine, bare):
    errors = bare()
    listener = Listener()
    engine = make_engine(logging={'output': 'nowhere', 'capture': ['user']})
    assert 'warning of user.module' in stream(engine)
    assert errors.getvalue() == ''
    logging.getLogger('user').addHandler(listener)
    engine.run(Speaks)
    logging.getLogger('user').removeHandler(listener)
    assert listener.messages == ['warning of user', 'warning of user.module'], "the host's own handlers go on"


def test_a_file_whose_folder_goes_away_fails_no_step(make_engine, bare, tmp_path):
    errors = bare()
    path = tmp_path / 'logs' / 'treadle.log'
    path.parent.mkdir()
    engine = make_engine(logging={'output': path})
    path.unlink()
    path.parent.rmdir()
    assert stream(engine) == WARNINGS
    assert '--- Logging error ---' in errors.getvalue() and 'No such file or directory' in errors.getvalue()
    path.parent.mkdir()
    assert stream(engine) == WARNINGS
    assert 'warning of asyncio' in path.read_text()


@pytest.mark.parametrize('path', ['missing/treadle.log', ''])
def test_a_file_that_cannot_be_written(make_engine, tmp_path, path):
    with pytest.raises(ConfigurationError, match=r'cannot be opened .*; name another as the output of logging'):
        make_engine(logging={'output': tmp_path / path})


def test_a_start_that_fails_takes_its_settings_back(make_engine, tmp_path):
    with pytest.raises(StoreUnavailable):
        make_engine(f'sqlite:///{tmp_path}/missing/store.db', logging={'levels': 'DEBUG', 'output': tmp_path / 'log'})
    assert logging.getLogger('treadle').level == logging.NOTSET


def test_variables(scripts):
    """The same script, told by its environment."""
    script = """
        from treadle.engine import Process, run
        import asyncio, logging

        class Says(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
            async def run(self):
                self.report('reported')
                logging.getLogger('mine').info('informed')
                logging.getLogger('asyncio').info(f'debug is {asyncio.get_running_loop().get_debug()}')

        run(Says)
        """
    script = script.replace('\n        ', '\n')
    ended = scripts.run(script, TREADLE_LOGGING='REPORT,asyncio=INFO,mine=INFO', TREADLE_ASYNCIO_DEBUG='0')
    assert ended.code == 0
    assert [line.partition(']: ')[2] for line in ended.err.splitlines() if ' [' in line] == [
        'reported',
        'informed',
        'debug is False',  # though Python was started with -X dev
    ]
    ended = scripts.run(script, TREADLE_LOGGING='asyncio=INFO')
    assert 'debug is True' in ended.err and 'reported' not in ended.err
    (scripts.folder / 'log.toml').write_text('output = "out.log"\nformat = "%(message)s"\nlevels = "REPORT"\n')
    ended = scripts.run(script, TREADLE_LOGGING='log.toml')
    assert (ended.code, ended.err) == (0, '')
    assert (scripts.folder / 'out.log').read_text() == 'reported\n'
    ended = scripts.run(script, TREADLE_LOGGING='LOUD')
    assert ended.code == 1
    assert "treadle.engine.errors.ConfigurationError: TREADLE_LOGGING: 'LOUD' is no level" in ended.err


# -- several engines ---------------------------------------------------------------------------------------


def test_several_engines_want_different_things(make_engine, bare, tmp_path):
    errors = bare()
    logger = logging.getLogger('treadle')
    first = make_engine(logging={'levels': 'INFO', 'capture': ['user'], 'output': tmp_path / 'one.log'})
    assert logger.level == logging.INFO
    second = make_engine(logging={'levels': 'DEBUG,asyncio=DEBUG', 'output': tmp_path / 'two.log'})
    third = make_engine()
    assert logger.level == logging.DEBUG
    assert stream(third).count('warning of asyncio') == 1
    for name in ('one.log', 'two.log'):
        text = (tmp_path / name).read_text()
        assert text.count('warning of asyncio') == 1 and text.count('debug of asyncio') == 1
    assert (tmp_path / 'one.log').read_text().count('warning of user.module') == 1
    assert 'user' not in (tmp_path / 'two.log').read_text()
    assert 'warning of asyncio' not in errors.getvalue()
    second.stop()
    assert logger.level == logging.INFO
    first.stop()
    first.stop()
    assert logger.level == logging.NOTSET
    assert stream(third) == WARNINGS
    assert errors.getvalue().count('warning of asyncio') == 1, 'as Python does, now that nobody has an output'


def test_a_level_that_the_host_sets_meanwhile_stays(make_engine):
    logger = logging.getLogger('treadle')
    first = make_engine(logging='DEBUG')
    logger.setLevel(logging.ERROR)
    second = make_engine(logging='DEBUG')
    assert logger.level == logging.ERROR
    first.stop()
    second.stop()
    assert logger.level == logging.ERROR
    logger.setLevel(logging.NOTSET)


def test_engines_start_and_stop_while_others_log(make_engine, caplog):
    """Taps come and go, and no record of a step is lost or doubled."""
    engine, over = make_engine(), threading.Event()
    streams = []

    def run():
        while not over.is_set():
            streams.append(stream(engine))

    runners = [threading.Thread(target=run) for _ in range(2)]
    for runner in runners:
        runner.start()
    for number in range(5):
        make_engine(logging={'capture': ['treadle.process', 'user'], 'levels': f'CRITICAL,user={number + 1}'}).stop()
    over.set()
    for runner in runners:
        runner.join(PATIENCE)
    assert len(streams) > 1
    for each in streams:
        assert each.count('reported') == 1 and each.count('warning of asyncio') == 1, each
        assert each.count('warning of treadle.process.Speaks') <= 1, each


def test_a_forked_child_has_none_of_it(scripts):
    ended = scripts.run(
        """
        import logging, os, sys
        from treadle.engine import Engine, Process, run

        class Warns(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
            def run(self):
                self.logger.info('informed')

        def state():
            loggers = [logging.getLogger(name) for name in ('treadle', 'user')]
            return [(logger.level, len(logger.handlers)) for logger in loggers]

        before = state()
        with Engine(logging={'levels': 'DEBUG', 'capture': ['user'], 'output': 'parent.log'}) as engine:
            engine.run(Warns)
            read, write = os.pipe()
            child = os.fork()
            if not child:
                try:
                    assert state() == before, state()
                    run(Warns)  # by an engine of the child's own
                    assert state() == [(0, 1), (0, 0)], state()
                except BaseException as error:
                    print('child:', repr(error), flush=True)
                    os._exit(1)
                print('child is well', flush=True)
                sys.exit()
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            engine.run(Warns)
        assert state() == before
        """,
        PYTHONWARNINGS='ignore::DeprecationWarning',
    )
    assert (ended.code, ended.out) == (0, 'child is well\n'), ended.err
    text = (scripts.folder / 'parent.log').read_text()
    assert text.count('informed') == 2
    assert os.path.getsize(scripts.folder / 'parent.log') == len(text.encode())


# -- debug mode and the watchdog -----------------------------------------------------------------------------


class Loop(Process):
    """Says what its loop is like, or holds it."""

    go = threading.Event()

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('holds', valid_type=bool, default=False)
        spec.output('debug', valid_type=bool)
        spec.output('slow', valid_type=float)

    async def run(self):
        import asyncio

        loop = asyncio.get_running_loop()
        self.out('debug', loop.get_debug())
        self.out('slow', loop.slow_callback_duration)
        if self.inputs.holds:
            assert type(self).go.wait(PATIENCE)


@pytest.mark.parametrize(('asyncio_debug', 'watchdog', 'slow'), [(True, 0.5, 0.5), (False, None, 1.0), (True, 0, 0.1)])
def test_debug_mode_on_worker_loops(make_engine, asyncio_debug, watchdog, slow):
    outputs = make_engine(asyncio_debug=asyncio_debug, watchdog=watchdog).run(Loop)
    assert outputs == {'debug': asyncio_debug, 'slow': slow}


@pytest.mark.parametrize('value', ['', '1'])
def test_pythons_own_variable_works_as_always(make_engine, monkeypatch, value):
    monkeypatch.setenv('PYTHONASYNCIODEBUG', value)
    assert make_engine().run(Loop)['debug'] is bool(value or sys.flags.dev_mode)


class OnHeld(Listener):
    """Lets the loop go when the watchdog has said that it is held from here; on a busy machine others hold it too."""

    def emit(self, record):
        if 'test_log_settings.py' in record.getMessage():
            super().emit(record)
            Loop.go.set()


def test_the_watchdogs_threshold_is_kept(make_engine, monkeypatch):
    monkeypatch.setenv('TREADLE_WATCHDOG', '60')  # what holds without the argument
    heard = OnHeld()
    logger = logging.getLogger('treadle.threads.watchdog')
    logger.addHandler(heard)
    Loop.go.clear()
    try:
        make_engine(watchdog=0.05).run(Loop, holds=True)
    finally:
        logger.removeHandler(heard)
    assert heard.messages[0].startswith('treadle-worker-') and 'has been held for ' in heard.messages[0]
    assert 'in run' in heard.messages[0]


def test_no_watchdog(make_engine):
    names = {thread.name for thread in threading.enumerate()}
    assert 'treadle-watchdog' not in names
    make_engine(watchdog=0).run(Speaks)
    assert 'treadle-watchdog' not in {thread.name for thread in threading.enumerate()}
    make_engine()
    assert 'treadle-watchdog' in {thread.name for thread in threading.enumerate()}
