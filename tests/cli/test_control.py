"""``kill``, ``pause``, ``play``, ``wait``, ``why``, ``tree`` and ``status``, beside engines and without any."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine.store import intents
from treadle.engine.store.control import write_once
from treadle.engine.store.location import locate

SCRIPT = """
import sys
from treadle.engine import Engine, Process, ToContext, WorkChain, append_

class Leaf(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.hold, cls.after)
    def hold(self):
        print('held', flush=True)
        sys.stdin.readline()
    def after(self):
        print('after', flush=True)
        sys.stdin.readline()

class Middle(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.call, cls.gather)
    def call(self):
        return ToContext(all=append_(self.submit(Leaf)))
    def gather(self):
        pass

class Top(Middle):
    def call(self):
        self.report('calling')
        return ToContext(all=append_(self.submit(Middle, metadata={'label': 'the middle'})))

if __name__ == '__main__':
    with Engine(sys.argv[1], name='desk') as engine:
        if 'fresh' in sys.argv:
            engine.submit(Top)
        engine.wait(1)
        print('ended', engine.load(1).state, flush=True)
"""


class Script:
    """The script above in an OS process of its own, which the test leads by its lines."""

    def __init__(self, path: Path, url: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, path, url, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write('\n')
        self.process.stdin.flush()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f'sqlite:///{tmp_path}/store.db'


@pytest.fixture
def start(tmp_path: Path, url: str) -> Iterator[Callable[..., Script]]:
    """Starts the script; the first one submits Top (1), which calls Middle (2), which calls Leaf (3)."""
    path = tmp_path / 'nest.py'
    path.write_text(SCRIPT, encoding='utf-8')
    started: list[Script] = []

    def start(*arguments: str) -> Script:
        started.append(Script(path, url, *arguments))
        return started[-1]

    yield start
    for script in started:
        with script.process:
            script.process.kill()


def states(url: str) -> list[tuple[str, int]]:
    reader = locate(url).open_reader()
    try:
        return [(row.state, row.paused) for row in reversed(reader.query())]
    finally:
        reader.close()


@pytest.fixture
def left(start: Any, url: str) -> str:
    """The store after the script was killed in Leaf's first step."""
    script = start('fresh')
    assert script.hear() == 'held'
    script.process.kill()
    script.process.wait()
    return url


class TestWithoutAnEngine:
    def test_a_kill_holds_for_three_generations(self, treadle, left):
        done = treadle('kill', 1, '-m', 'enough of it', store=left)
        assert (done.returncode, done.stderr) == (0, '')
        assert done.stdout == 'process 1 (Top) is killed, with 2 processes that it has called\n'
        assert states(left) == [('killed', 0)] * 3
        again = treadle('kill', 1, store=left)
        assert (again.returncode, again.stdout) == (1, '')
        assert again.stderr == 'treadle: process 1 (Top) has ended already: killed: enough of it\n'

    def test_a_pause_holds_until_it_is_played(self, treadle, left, start):
        assert treadle('pause', 1, '-m', 'lunch', store=left).returncode == 0
        assert states(left) == [('waiting', 1), ('waiting', 2), ('running', 2)]
        assert 'running, paused' in treadle('ps', '--all', store=left).stdout
        why = json.loads(treadle('why', 3, '--json', store=left).stdout)
        assert (why['paused_by']['pid'], why['paused_by']['message']) == (1, 'paused: lunch')
        assert '`treadle play 1`' in why['because']
        script = start()
        waited = treadle('wait', 1, '--timeout', 0.2, store=left)
        assert waited.returncode == 124 and 'is still waiting' in waited.stderr
        played = treadle('play', 1, store=left)
        assert played.stdout == 'process 1 (Top) goes on, with 2 processes that it has called\n'
        assert script.hear() == 'held', 'the running engine has noticed'
        script.say()
        assert script.hear() == 'after'
        script.say()
        assert script.hear() == 'ended finished'
        assert treadle('wait', 1, 2, 3, store=left).returncode == 0

    def test_no_store_takes_long(self, left):
        location = locate(left)
        write_once(location, lambda transaction: None)  # what is imported on the way is not the store's time
        spans = []
        pause_and_play = [
            (lambda transaction: intents.pause(transaction, [1], None), [1]),
            (lambda transaction: intents.play(transaction, [1]), [1, 2, 3]),
        ]
        kill = (lambda transaction: intents.kill(transaction, [1], 'test'), [1, 2, 3])
        for operation, pids in [*5 * pause_and_play, kill]:
            begun = time.perf_counter()
            assert write_once(location, operation) == pids
            spans.append(time.perf_counter() - begun)
        # The quickest: what the others took longer is what else this machine does.
        assert min(spans) < 1.0, spans

    def test_a_lock_that_is_held_is_waited_for(self, treadle, left, tmp_path):
        holder = sqlite3.connect(tmp_path / 'store.db', isolation_level=None)
        holder.execute('BEGIN IMMEDIATE')
        process = subprocess.Popen(
            [sys.executable, '-m', 'treadle.engine.cli', 'kill', '3', '--store', left],
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            holder.execute('COMMIT')
            holder.close()
            assert process.communicate(timeout=30)[0] == 'process 3 (Leaf) is killed\n'
        assert [state for state, _ in states(left)] == ['waiting', 'running', 'killed'], 'and its caller is woken'

    def test_why_and_status_of_what_a_dead_engine_left(self, treadle, left):
        why = treadle('why', 3, store=left)
        assert why.returncode == 0 and 'ran its first step and is dead; that is run again by' in why.stdout
        assert 'It waits for 2 (Middle, waiting).' in treadle('why', 1, store=left).stdout
        status = json.loads(treadle('status', '--json', store=left).stdout)
        assert status['processes'] == {
            'created': 0, 'running': 1, 'waiting': 2, 'finished': 0, 'excepted': 0, 'killed': 0
        }  # fmt: skip
        assert [(each['name'], each['alive'], each['runs']) for each in status['engines']] == [('desk', False, 1)]
        assert 'dead, runs 1' in treadle('status', store=left).stdout


class TestBesideAnEngine:
    def test_pause_between_steps_and_kill(self, treadle, start, url):
        script = start('fresh')
        assert script.hear() == 'held'
        assert treadle('pause', 3, store=url).stdout.endswith('the step that it is in goes on to its end\n')
        script.say()
        deadline = time.monotonic() + 30
        while json.loads(treadle('why', 3, '--json', store=url).stdout)['owner'] and time.monotonic() < deadline:
            pass
        why = json.loads(treadle('why', 3, '--json', store=url).stdout)
        assert (why['owner'], why['steps_committed'], why['step'], why['paused']) == (None, 1, 'after', True)
        assert treadle('play', 3, store=url).returncode == 0
        assert script.hear() == 'after'
        why = treadle('why', 3, store=url).stdout
        assert "runs step 'after'" in why and "'desk'" in why
        status = json.loads(treadle('status', '--json', store=url).stdout)
        assert [each['alive'] for each in status['engines']] == [True]
        assert treadle('kill', 1, store=url).returncode == 0
        assert script.hear() == 'ended killed'
        done = treadle('wait', 1, '--json', store=url)
        assert done.returncode == 1
        assert [(each['state'], each['exit_message']) for each in json.loads(done.stdout)] == [
            ('killed', 'killed from the command line')
        ]


def test_the_tree(treadle, left):
    assert treadle('tree', 1, store=left).stdout.splitlines() == [
        '1 Top: waiting at gather',
        '  2 Middle the middle: waiting at gather',
        '    3 Leaf: running',
    ]
    rows = json.loads(treadle('tree', 2, '--json', store=left).stdout)
    assert [(row['pid'], row['parent']) for row in rows] == [(2, 1), (3, 2)]


@pytest.mark.parametrize('command', ['kill', 'pause', 'play', 'wait', 'why', 'tree'])
def test_unknown_pids_and_no_pids(treadle, filled, command):
    done = treadle(command, 999, store=filled)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith('treadle: there is no process 999 ')
    assert treadle(command, store=filled).returncode == 2
    assert treadle(command, 'x', store=filled).returncode == 2


@pytest.mark.parametrize('command', ['kill', 'pause', 'play'])
def test_an_unknown_pid_beside_a_known_one_changes_nothing(treadle, left, command):
    before = states(left)
    assert treadle(command, 1, 999, store=left).returncode == 1
    assert states(left) == before


@pytest.mark.parametrize('command', ['kill', 'pause', 'play'])
def test_what_has_ended(treadle, filled, command):
    done = treadle(command, 1, store=filled)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith('treadle: process 1 (Relax) has ended already: finished [410]')


def test_play_of_what_is_not_paused(treadle, left):
    done = treadle('play', 3, store=left)
    assert (done.returncode, done.stdout, done.stderr) == (1, '', 'treadle: process 3 (Leaf) is not paused\n')


@pytest.mark.parametrize('command', [['kill', '1'], ['pause', '1'], ['play', '1'], ['wait', '1'], ['status']])
def test_a_missing_store_is_not_made(treadle, tmp_path, command):
    done = treadle(*command, store=f'sqlite:///{tmp_path}/no.db')
    assert done.returncode == 1 and 'there is no store at' in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wait_says_how_they_ended(treadle, filled):
    done = treadle('wait', 1, 2, store=filled)
    assert done.returncode == 1
    assert done.stdout.startswith('process 1 (Relax) finished [410]: n is negative\n')


def test_why_of_the_ended(treadle, filled):
    assert 'finished with exit status 410' in treadle('why', 1, store=filled).stdout
    assert 'It raised ArithmeticError: x is -1' in treadle('why', 3, store=filled).stdout


class Screen:
    """`treadle watch` in a terminal.

    :param words: what follows ``watch``.
    """

    def __init__(self, *words: str, **environment: str) -> None:
        observer, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, '-W', 'error', '-m', 'treadle.engine.cli', 'watch', *words],
            stdin=terminal,
            stdout=terminal,
            env={**os.environ, 'TERM': 'xterm', **environment},
        )
        os.close(terminal)
        self._stream = open(observer, 'rb', buffering=0)  # noqa: SIM115  (closed by close)
        self.shown = b''

    def show(self, words: bytes) -> None:
        """Read until the words have been shown."""
        while words not in self.shown:
            self.shown += self._stream.read(65536)

    def end(self) -> int:
        """Read to the end; its exit code."""
        try:
            while part := self._stream.read(65536):
                self.shown += part
        except OSError:
            pass  # Linux says so when the other end is closed
        return self.process.wait(30)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(30)
        self._stream.close()


OTHER_SCREEN, BACK = b'\x1b[?1049h\x1b[?25l', b'\x1b[?25h\x1b[?1049l'


class TestWatch:
    def test_it_needs_a_terminal(self, treadle, filled):
        done = treadle('watch', store=filled)
        assert (done.returncode, done.stdout) == (2, '') and 'watch needs a terminal' in done.stderr
        with Screen('--store', filled, TERM='dumb') as screen:
            assert screen.end() == 2

    def test_one_process_until_it_has_ended(self, treadle, left):
        with Screen('1', '--store', left, COLUMNS='100') as screen:
            screen.show(b'Leaf')
            assert treadle('kill', 1, store=left).returncode == 0
            assert screen.end() == 0
            live, _, after = screen.shown.partition(BACK)
        assert live.startswith(OTHER_SCREEN)
        assert b'3 of 3 live' in live and b'0/1' in live
        assert b'0 of 3 live' in after and b'1/1' in after and b'killed' in after, 'how it ended stays'

    @pytest.mark.parametrize('width', [20, 60, 200])
    def test_ctrl_c_leaves_the_terminal_as_it_was(self, left, width):
        with Screen('--store', left, COLUMNS=str(width)) as screen:
            screen.show(b'live')
            screen.process.send_signal(signal.SIGINT)
            assert screen.end() == 130
            assert screen.shown.endswith(BACK)

    def test_sigterm_does_so_too(self, left):
        with Screen('--store', left) as screen:
            screen.show(b'PID')
            screen.process.terminate()
            assert screen.end() == 128 + signal.SIGTERM
            assert screen.shown.endswith(BACK)

    def test_lines_for_programs(self, treadle, filled):
        (line,) = treadle('watch', '--json', 1, store=filled).stdout.splitlines()
        assert [row['pid'] for row in json.loads(line)] == [2, 1]

    def test_an_unknown_pid(self, filled):
        with Screen('99', '--store', filled) as screen:
            assert screen.end() == 1
            assert screen.shown == OTHER_SCREEN + BACK
