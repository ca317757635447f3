"""``run``, ``submit``, ``worker`` and ``log -f``: a user's module, imported from the working directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MODULE = """
import sys
from treadle.engine import Process, WorkChain, calcfunction

class Add(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.input('y', valid_type=int, default=1)
        spec.input_namespace('options', dynamic=True, required=False)
        spec.outputs.dynamic = True
        spec.exit_code(410, 'ERROR_NEGATIVE', message='the sum is negative')
    def run(self):
        if self.inputs.x + self.inputs.y < 0:
            return self.exit_codes.ERROR_NEGATIVE
        self.report('adding')
        self.out('sum', self.inputs.x + self.inputs.y)
        if 'file' in self.inputs.get('options', {}):
            self.out('text', self.inputs.options.file.read_text())

class Fails(Process):
    def run(self):
        raise LookupError('on purpose')

class Two(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.first, cls.second)
    def first(self):
        self.report('first')
        print('first', flush=True)
        sys.stdin.readline()
    def second(self):
        self.report('second')
        print('second', flush=True)

@calcfunction
def double(x):
    return 2 * x

not_a_process = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'adding.py').write_text(MODULE, encoding='utf-8')
    (tmp_path / 'broken.py').write_text('1 / 0', encoding='utf-8')
    (tmp_path / 'note.txt').write_text('hello', encoding='utf-8')
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, 'TREADLE_STORE': f'sqlite:///{folder}/store.db', 'PYTHONUNBUFFERED': '1'}


@pytest.fixture
def treadle(folder: Path, environment: dict[str, str]) -> Callable[..., Any]:
    """Run the command in the folder of the module."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, '-W', 'error', '-m', 'treadle.engine.cli', *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
        )

    return run


@pytest.fixture
def begin(folder: Path, environment: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Start the command in the folder of the module."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        begun.append(
            subprocess.Popen(
                [sys.executable, '-m', 'treadle.engine.cli', *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


class TestRun:
    def test_outputs(self, treadle):
        options = ['options.file=@note.txt', 'options.s=plain text', 'metadata.label=a b']
        done = treadle('run', 'adding:Add', 'x=2', *options)
        assert (done.returncode, done.stdout) == (0, "sum: 3\ntext: 'hello'\n")
        assert done.stderr == 'process 1 (Add)\n'
        shown = json.loads(treadle('show', 1, '--json').stdout)
        assert (shown['label'], shown['inputs']['options']['s']) == ('a b', 'plain text')

    def test_json_and_functions(self, treadle):
        done = treadle('run', '--json', 'adding:double', 'x=[1, 2]')
        assert done.returncode == 0
        data = json.loads(done.stdout)
        assert (data['pid'], data['state'], data['exit_status']) == (1, 'finished', 0)
        assert list(data['outputs'].values()) == [[1, 2, 1, 2]]

    def test_ends_that_are_no_success(self, treadle):
        done = treadle('run', 'adding:Add', 'x=-5')
        assert done.returncode == 1 and 'process 1 finished [410]: the sum is negative' in done.stderr
        done = treadle('run', 'adding:Fails')
        assert done.returncode == 1 and 'excepted: LookupError: on purpose; `treadle show ' in done.stderr

    def test_ctrl_c_kills(self, begin, treadle):
        process = begin('run', 'adding:Two')
        assert process.stdout.readline() == 'first\n'
        os.killpg(process.pid, signal.SIGINT)
        assert treadle('wait', 1).returncode == 1, 'it is killed, though its step executes still'
        process.stdin.write('\n')
        process.stdin.flush()
        assert process.wait(30) == 130
        assert json.loads(treadle('show', 1, '--json').stdout)['state'] == 'killed'


class TestMisuse:
    @pytest.mark.parametrize('command', ['run', 'submit'])
    @pytest.mark.parametrize(
        ('arguments', 'status', 'message'),
        [
            (['adding'], 2, "'adding' does not name a process; write MODULE:NAME"),
            (['adding.py:Add'], 2, 'does not name a process'),
            (['nowhere:Add'], 1, "nowhere cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
            (['broken:Add'], 1, 'broken cannot be imported (ZeroDivisionError'),
            (['adding:Nothing'], 1, "module adding has no 'Nothing'"),
            (['adding:not_a_process'], 1, 'adding:not_a_process cannot be run'),
            (['adding:Add', 'x'], 2, "'x' is no input; write key=value"),
            (['adding:Add', '=1'], 2, "'=1' is no input"),
            (['adding:Add', 'x=1', 'x=2'], 2, "the input 'x' is given twice"),
            (['adding:Add', 'x=1', 'x.y=2'], 2, "'x' has a value already"),
            (['adding:Add', 'x=@nothing'], 2, "'x=@nothing'"),
            (['adding:Add', 'x=text'], 1, 'x'),
            (['adding:Add'], 1, 'x'),
            (
                ['treadle.engine:ShellJob', 'command=ls', 'options.computer=nowhere'],
                1,
                "options.computer: there is no computer 'nowhere' in this store; known are: localhost",
            ),
            ([], 2, 'Missing argument'),
        ],
    )
    def test_it_says_what_is_wrong(self, treadle, command, arguments, status, message):
        done = treadle(command, *arguments)
        assert (done.returncode, done.stdout) == (status, ''), done.stderr
        assert message in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.timeout(180)
class TestWorker:
    def test_it_runs_what_was_submitted_and_drains(self, begin, treadle):
        first = treadle('submit', 'adding:Two', 'metadata.key=the-two')
        assert (first.returncode, first.stdout, first.stderr) == (0, '1\n', '')
        assert treadle('submit', 'adding:Two', 'metadata.key=the-two').stdout == '1\n', 'the same key, the same process'
        assert '`treadle worker`' in json.loads(treadle('why', 1, '--json').stdout)['because']
        worker = begin('worker', '--workers', 1, '--steps', 2)
        assert worker.stderr.readline().startswith('treadle: engine 1 works on sqlite:///')
        assert worker.stdout.readline() == 'first\n'
        assert treadle('submit', 'adding:Add', 'x=2').stdout.strip().isdigit()
        follower = begin('log', '-f', 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr.readline().startswith('treadle: leaving')
        worker.stdin.write('\n')
        worker.stdin.flush()
        assert worker.wait(30) == 0
        assert 'second' not in worker.stdout.read(), 'it leaves at the checkpoint'
        assert follower.stdout.readline().endswith(': first\n')
        row = json.loads(treadle('show', 1, '--json').stdout)
        assert (row['state'], row['steps_committed'], row['owner']) == ('running', 1, None)
        other = begin('worker')
        assert other.stdout.readline() == 'second\n'
        assert treadle('wait', 1).returncode == 0
        assert follower.communicate(timeout=30)[0].endswith(': second\n') and follower.returncode == 0
        other.send_signal(signal.SIGINT)
        assert other.wait(30) == 0

    def test_intents_from_the_command_line(self, begin, treadle):
        assert treadle('submit', 'adding:Add', 'x=2').stdout == '1\n'
        assert treadle('pause', 1).returncode == 0
        worker = begin('worker')
        assert worker.stderr.readline().startswith('treadle: engine')
        assert treadle('wait', 1, '--timeout', 0.3).returncode == 124
        assert treadle('play', 1).returncode == 0
        assert treadle('wait', 1).stdout == 'process 1 (Add) finished [0]\n'
        worker.terminate()
        assert worker.wait(30) == 0


def test_follow_and_json(treadle):
    treadle('run', 'adding:Add', 'x=1')
    (line,) = treadle('log', '-f', '--json', 1).stdout.splitlines()
    assert json.loads(line)['message'] == 'adding'
    done = treadle('log', '--follow', 1)
    assert done.returncode == 0 and done.stdout.endswith(': adding\n')


def test_a_worker_whose_step_does_not_end_says_so_in_a_line(treadle, begin):
    treadle('submit', 'adding:Two')
    worker = begin('worker', '--drain', 0.2)
    assert worker.stderr.readline().startswith('treadle: engine')
    assert worker.stdout.readline() == 'first\n'
    worker.terminate()
    assert worker.wait(30) == 1
    leaving, line = worker.stderr.read().splitlines()
    assert leaving.startswith('treadle: leaving')
    assert line.startswith("treadle: engine 'worker' did not stop in time: ") and 'in Two.' in line


def test_a_module_that_ends_the_program_or_needs_another(folder, treadle):
    (folder / 'ends.py').write_text('import sys; sys.exit(3)')
    (folder / 'needs.py').write_text('import no_such_module')
    done = treadle('run', 'ends:A')
    assert (done.returncode, done.stderr.count('\n')) == (1, 1)
    assert 'ends cannot be imported (SystemExit: 3); mend what its own code does' in done.stderr
    assert 'it needs no_such_module, which is not installed here' in treadle('run', 'needs:A').stderr


def test_each_problem_with_inputs_has_a_line(treadle):
    done = treadle('run', 'adding:Add', 'z=1')
    assert done.returncode == 1
    assert done.stderr.startswith('treadle: Add: 2 problems with its inputs:\n  inputs.z: there is no such port')
