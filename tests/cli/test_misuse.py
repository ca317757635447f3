"""What the command says when something is wrong, and that it says it in a line."""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys

import pytest

COMMAND = [sys.executable, '-W', 'error', '-m', 'treadle.engine.cli']


def refused(done, *parts, status=1):
    assert (done.returncode, done.stdout) == (status, '')
    assert done.stderr.startswith('treadle: ') and done.stderr.count('\n') == 1
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    'command', [['show', '999'], ['log', '--json', '999'], ['ps', '--parent', '999'], ['show', '--json', '9' * 30]]
)
def test_an_unknown_pid(treadle, filled, command):
    refused(treadle(*command, store=filled), f'there is no process {command[-1]} ', 'treadle ps --all')


@pytest.mark.parametrize('command', [['ps'], ['show', '1'], ['log', '1']])
def test_a_missing_store_is_not_made(treadle, tmp_path, command):
    refused(treadle(*command, store=f'sqlite:///{tmp_path}/no.db'), f'there is no store at {tmp_path}/no.db')
    assert list(tmp_path.iterdir()) == []


def test_the_default_store_is_not_made(treadle, tmp_path):
    home = {'HOME': str(tmp_path), 'XDG_DATA_HOME': str(tmp_path / 'data')}
    refused(treadle('ps', env=home), f'there is no store at {tmp_path}/data/treadle/treadle.db')
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_stores(treadle, tmp_path):
    (tmp_path / 'text.db').write_text('hello\n' * 1000)
    refused(treadle('ps', store=f'sqlite:///{tmp_path}/text.db'), 'is not an SQLite database')
    with sqlite3.connect(tmp_path / 'foreign.db') as connection:
        connection.execute('CREATE TABLE song (title TEXT)')
    connection.close()
    refused(treadle('ps', store=f'sqlite:///{tmp_path}/foreign.db'), 'database of another application', "'song'")


def test_a_store_of_a_newer_treadle(treadle, script, tmp_path):
    url = f'sqlite:///{tmp_path}/new.db'
    subprocess.run([sys.executable, script, url], check=True, timeout=50)
    with sqlite3.connect(tmp_path / 'new.db') as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    refused(treadle('show', 1, store=url), 'revision 9999', 'Upgrade Treadle')


def test_urls_that_name_no_store(treadle):
    refused(treadle('ps', store='store.db'), "'store.db' is not a store URL", 'from TREADLE_STORE')
    done = treadle('ps', store='postgresql://me:secret@127.0.0.1:1/db')
    refused(done, 'no PostgreSQL server listens at 127.0.0.1:1', 'start it')
    assert 'secret' not in done.stderr


@pytest.mark.parametrize(
    'arguments',
    [['show'], ['show', 'x'], ['ps', '--state', 'odd'], ['ps', '--limit', '-1'], ['frobnicate'], ['ps', '-x']],
)
def test_misuse(treadle, filled, arguments):
    done = treadle(*arguments, store=filled)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('Usage: treadle')


def test_damaged_values_are_shown_as_they_are(treadle, script, tmp_path):
    url = f'sqlite:///{tmp_path}/store.db'
    subprocess.run([sys.executable, script, url], check=True, timeout=50)
    with sqlite3.connect(tmp_path / 'store.db') as connection:
        connection.execute(
            'UPDATE process SET inputs = ?, outputs = ?, exception = ?',
            ('{"a":{"$":"scalar","dtype":"<f8","base64":"AA"},"b":{"$":["?"]},"c":{"$":"tuple"}}', '[' * 9999, '{"x'),
        )
    connection.close()
    done = treadle('show', 1, store=url)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'a: {"$": "scalar"' in done.stdout and 'c: {"$": "tuple"}' in done.stdout and '{"x' in done.stdout
    assert treadle('show', 1, '--json', store=url).returncode == 0


@pytest.mark.parametrize('command', [['ps', '--all'], ['ps', '--json'], ['show', '1', '--full'], ['log', '1']])
def test_a_pipe_that_is_closed_early(filled, command):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *command, '--store', filled], stdout=writing, stderr=subprocess.PIPE, timeout=50
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_a_full_disk_under_the_output(filled):
    with open('/dev/full', 'wb') as full:
        done = subprocess.run(
            [*COMMAND, 'ps', '--store', filled], stdout=full, stderr=subprocess.PIPE, text=True, timeout=50
        )
    assert done.returncode == 1
    assert done.stderr.startswith('treadle: the output cannot be written (No space left on device)')


def test_no_output_at_all(filled):
    done = subprocess.run(
        ['/bin/sh', '-c', 'exec "$@" >&- 2>&-', 'sh', *COMMAND, 'ps', '--store', filled], timeout=50
    )
    assert done.returncode == 0


@pytest.mark.parametrize(('width', 'no_colour'), [(12, ''), (40, '1'), (200, '')])
def test_a_terminal(filled, width, no_colour):
    """In a terminal of any width each process has one line, in colour unless NO_COLOR is set."""
    observer, terminal = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ('COLUMNS', 'NO_COLOR', 'FORCE_COLOR')}
    # rich takes the width of the terminal from this variable first.
    environment |= {'COLUMNS': str(width), 'TERM': 'xterm'} | ({'NO_COLOR': no_colour} if no_colour else {})
    with open(observer, 'rb', buffering=0) as screen:
        done = subprocess.run(
            [*COMMAND, 'ps', '--all', '--store', filled], stdout=terminal, env=environment, timeout=50
        )
        os.close(terminal)
        shown = b''
        try:
            while part := screen.read(65536):
                shown += part
        except OSError:
            pass  # Linux says so when the other end is closed
    assert done.returncode == 0
    assert len(shown.decode().splitlines()) == 4
    assert (b'\x1b[' in shown) is not bool(no_colour)


def test_the_shell_completes_commands(treadle):
    done = treadle(env={'_TREADLE_COMPLETE': 'bash_complete', 'COMP_WORDS': 'treadle s', 'COMP_CWORD': '1'})
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == 'plain,show\nplain,status\nplain,store\nplain,submit\n'


def test_it_starts_without_what_it_does_not_need(filled):
    code = (
        'import sys\n'
        'sys.argv = ["treadle", "ps", "--all", *sys.argv[1:]]\n'
        'import atexit, treadle.engine.cli\n'
        'heavy = ("sqlalchemy", "alembic", "disk_objectstore", "numpy", "kiwipy", "paramiko")\n'
        'atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n'
        'treadle.engine.cli.main()\n'
    )
    done = subprocess.run([sys.executable, '-c', code, '--store', filled], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, '[]\n')
