"""Settings from arguments and from the environment; mistakes are named with the place they were made in."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from treadle.engine import ConfigurationError, Engine, TreadleError
from treadle.engine.config import Diagnostics, LogSettings, log_settings


def choose(**given) -> Diagnostics:
    return Diagnostics.choose(**{'logging': None, 'asyncio_debug': None, 'watchdog': None, **given})


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ('TREADLE_LOGGING', 'TREADLE_ASYNCIO_DEBUG', 'TREADLE_WATCHDOG'):
        monkeypatch.delenv(name, raising=False)


def test_nothing_asked_for():
    assert choose() == Diagnostics(logging=None, asyncio_debug=None, watchdog=1.0)


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('INFO', {'treadle': 20}),
        ('report', {'treadle': 23}),
        ('15', {'treadle': 15}),
        ('INFO,asyncio=DEBUG, my.package = 5', {'treadle': 20, 'asyncio': 10, 'my.package': 5}),
        ({'levels': 'WARNING,root=ERROR'}, {'treadle': 30, 'root': 40}),
        ({'levels': {'treadle': logging.DEBUG, 'paramiko': 'warn'}}, {'treadle': 10, 'paramiko': 30}),
        ({}, {}),
    ],
)
def test_levels(given, expected):
    assert log_settings(given).levels == expected


def test_a_whole_dictionary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {'levels': {'mine': 'INFO'}, 'capture': ['mine.too'], 'output': 'log.txt', 'format': '%(pid)s %(message)s'}
    assert log_settings(given) == LogSettings(
        levels={'mine': 20}, capture=('mine.too',), output=f'{tmp_path}/log.txt', format='%(pid)s %(message)s'
    )
    assert log_settings({'output': Path('log.txt')}).output == f'{tmp_path}/log.txt'
    assert log_settings({'output': 'stderr'}).output == 'stderr'
    assert log_settings({'output': 'nowhere'}).output == 'nowhere'
    assert log_settings({'output': None}).output is None


def test_files(tmp_path, monkeypatch):
    toml, plain = tmp_path / 'logging.toml', tmp_path / 'logging.json'
    toml.write_text('output = "stderr"\ncapture = ["mine"]\n[levels]\ntreadle = "INFO"\n"a.b" = 5\n')
    plain.write_text(json.dumps({'output': 'stderr', 'capture': ['mine'], 'levels': {'treadle': 'INFO', 'a.b': 5}}))
    expected = LogSettings(levels={'treadle': 20, 'a.b': 5}, capture=('mine',), output='stderr')
    for given in (toml, str(toml), plain, str(plain)):
        assert log_settings(given) == expected
        monkeypatch.setenv('TREADLE_LOGGING', str(given))
        assert choose().logging == expected


def test_an_argument_counts_more_than_the_environment(monkeypatch):
    monkeypatch.setenv('TREADLE_LOGGING', 'DEBUG')
    monkeypatch.setenv('TREADLE_ASYNCIO_DEBUG', 'on')
    monkeypatch.setenv('TREADLE_WATCHDOG', ' 0.25 ')
    assert choose() == Diagnostics(logging=LogSettings(levels={'treadle': 10}), asyncio_debug=True, watchdog=0.25)
    given = choose(logging='ERROR', asyncio_debug=False, watchdog=0)
    assert given == Diagnostics(logging=LogSettings(levels={'treadle': 40}), asyncio_debug=False, watchdog=0)
    monkeypatch.setenv('TREADLE_LOGGING', '  ')
    monkeypatch.setenv('TREADLE_ASYNCIO_DEBUG', '0')
    monkeypatch.setenv('TREADLE_WATCHDOG', '')
    assert choose() == Diagnostics(logging=None, asyncio_debug=False, watchdog=1.0)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('LOUD', "'LOUD' is no level; the levels are DEBUG, INFO, REPORT, WARNING, ERROR, CRITICAL, and numbers"),
        ('', "logging: '' is no level"),
        ('INFO,', "logging: '' is no level"),
        ('=INFO', "logging: '' is no name of a logger; write one such as asyncio, or root"),
        ('a..b=INFO', "logging: 'a..b' is no name of a logger"),
        ('/etc/logging.conf', 'logging: the file /etc/logging.conf must have a name that ends in .toml or .json'),
        (17, 'logging must be a level, a dictionary, or the path of a TOML or JSON file, not 17'),
        (True, 'not True'),
        ({'level': 'INFO'}, "logging: unknown key 'level'; the keys are levels, capture, output, format"),
        ({3: 'INFO'}, 'logging: unknown key 3'),
        ({'levels': ['INFO']}, "logging: levels must name a level for each logger, not ['INFO']"),
        ({'levels': {'asyncio': 'LOUD'}}, "logging: levels: asyncio: 'LOUD' is no level"),
        ({'levels': {'asyncio': True}}, 'logging: levels: asyncio: True is no level'),
        ({'levels': {'asyncio': -1}}, 'logging: levels: asyncio: -1 is no level'),
        ({'levels': {'asyncio': None}}, 'logging: levels: asyncio: None is no level'),
        ({'levels': {'asyncio': 'NOTSET'}}, "logging: levels: asyncio: 'NOTSET' is no level"),
        ({'levels': {'aio_pika': {'channel': 'INFO'}}}, 'aio_pika is no level; put a name with dots into quotes'),
        ({'levels': {3: 'INFO'}}, 'logging: levels: 3 is no name of a logger'),
        ({'capture': 'mine'}, "logging: capture must be a list of names of loggers, not 'mine'"),
        ({'capture': [None]}, 'logging: capture: None is no name of a logger'),
        ({'capture': 3}, 'logging: capture must be a list'),
        ({'output': 3}, 'logging: output must be stderr, nowhere or the path of a file, not 3'),
        ({'output': ' '}, 'logging: output must be'),
        ({'format': 'no field'}, "logging: format: 'no field' is no format"),
        ({'format': '%(message)'}, 'is no format'),
        ({'format': None}, 'is no format (it is no text)'),
        ({'format': '%(colour)s %(message)s'}, "no format (Formatting field not found in record: 'colour')"),
        ({'format': '%(pid)d %(message)s'}, 'is no format'),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(ConfigurationError) as caught:
        log_settings(given)
    assert message in str(caught.value)
    assert isinstance(caught.value, TreadleError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('there.toml', None, 'there.toml cannot be read (No such file or directory)'),
        ('bad.toml', b'levels = ', 'bad.toml is no TOML: Invalid value'),
        ('bad.json', b'{', 'bad.json is no JSON: Expecting'),
        ('bytes.toml', b'\xff', "bytes.toml is no TOML: 'utf-8' codec"),
        ('list.json', b'[]', 'list.json holds no object'),
        ('key.toml', b'levle = "INFO"', "key.toml: unknown key 'levle'; the keys are"),
        ('level.toml', b'[levels]\nasyncio = "LOUD"', "level.toml: levels: asyncio: 'LOUD' is no level"),
    ],
)
def test_mistakes_in_files_name_the_variable_and_the_file(tmp_path, monkeypatch, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv('TREADLE_LOGGING', str(tmp_path / name))
    with pytest.raises(ConfigurationError) as caught:
        choose()
    assert str(caught.value).startswith(f'TREADLE_LOGGING: {tmp_path}/') and message in str(caught.value)


@pytest.mark.parametrize(
    ('variable', 'value', 'message'),
    [
        ('TREADLE_LOGGING', 'LOUD', "TREADLE_LOGGING: 'LOUD' is no level"),
        ('TREADLE_ASYNCIO_DEBUG', 'maybe', 'TREADLE_ASYNCIO_DEBUG=maybe: write 1 or 0'),
        ('TREADLE_WATCHDOG', 'soon', 'TREADLE_WATCHDOG=soon: write a number of seconds, or 0 for none'),
        ('TREADLE_WATCHDOG', '-1', 'TREADLE_WATCHDOG must be a number of seconds, or 0 for none, not -1.0'),
        ('TREADLE_WATCHDOG', 'nan', 'TREADLE_WATCHDOG must be a number of seconds'),
    ],
)
def test_mistakes_in_the_environment_are_raised_where_an_engine_is_made(store, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Engine(store)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'watchdog': -1}, 'watchdog must be a number of seconds, or 0 for none, not -1'),
        ({'watchdog': '1'}, "not '1'"),
        ({'watchdog': True}, 'not True'),
        ({'watchdog': float('inf')}, 'not inf'),
        ({'asyncio_debug': 'no'}, "asyncio_debug must be True, False or None, not 'no'"),
    ],
)
def test_mistakes_in_arguments(store, given, message):
    with pytest.raises(ConfigurationError) as caught:
        Engine(store, **given)
    assert message in str(caught.value)
