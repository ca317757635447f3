"""``treadle log -f`` as it is used in a terminal, and what ``run`` and ``worker`` log themselves."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, '-m', 'treadle.engine.cli']

MODULE = """
import logging, sys
from treadle.engine import WorkChain

if 'configures' in sys.argv[-1]:
    logging.basicConfig(format='its own: %(message)s')

class Talks(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('how', valid_type=str, default='')
        spec.exit_code(410, 'ERROR_TALK', message='said too much')
        spec.outline(cls.first, cls.second)
    def first(self):
        self.report('reported')
        logging.getLogger('mine').info('informed')
        logging.getLogger('mine').warning('warned')
        self.logger.error('failed')
        print('first', flush=True)
        sys.stdin.readline()
    def second(self):
        self.report('reported again')
        return self.exit_codes.ERROR_TALK
"""

Begin = Callable[..., 'subprocess.Popen[str]']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'talks.py').write_text(MODULE, encoding='utf-8')
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    left_out = ('NO_COLOR', 'COLUMNS', 'TREADLE_LOGGING')
    inherited = {key: value for key, value in os.environ.items() if key not in left_out}
    return {**inherited, 'TREADLE_STORE': f'sqlite:///{folder}/store.db', 'PYTHONUNBUFFERED': '1', 'TERM': 'xterm'}


@pytest.fixture
def begin(folder: Path, environment: dict[str, str]) -> Iterator[Begin]:
    """Start the command in the folder of the module; ``environment`` adds to its environment."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=folder,
            env={**environment, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], given: str = '\n') -> tuple[int, str, str]:
    out, err = process.communicate(given, timeout=30)
    return process.returncode, out, err


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._screen, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=environment, preexec_fn=lambda: os.login_tty(terminal)
        )
        os.close(terminal)
        self.shown = ''

    def wait_for(self, text: str) -> None:
        """Read until the screen has shown this."""
        while text not in self.shown:
            self.shown += os.read(self._screen, 65536).decode()

    def press(self, key: bytes) -> None:
        """Type something."""
        os.write(self._screen, key)

    def end(self) -> int:
        """Wait for its end, with all that it shows."""
        try:
            while part := os.read(self._screen, 65536):
                self.shown += part.decode()
        except OSError:
            pass  # Linux says so when the other end is closed
        os.close(self._screen)
        return self.process.wait(30)


def test_following_in_a_terminal(begin, folder, environment):
    assert ended(begin('submit', 'talks:Talks'))[1] == '1\n'
    terminal = Terminal(['log', '-f', '1'], folder, environment)
    terminal.wait_for('process 1 has logged nothing yet; `treadle why 1` says where it is\r\n')
    worker = begin('worker')
    assert worker.stdout.readline() == 'first\n'
    worker.stdin.write('\n')
    worker.stdin.flush()
    assert terminal.end() == 0
    worker.terminate()
    lines = terminal.shown.splitlines()[1:]
    moment = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}'
    for line, expected in zip(
        lines,
        [
            'REPORT   treadle.process.Talks: reported',
            '\x1b[33mWARNING \x1b[0m mine: warned',
            '\x1b[31mERROR   \x1b[0m treadle.process.Talks: failed',
            'REPORT   treadle.process.Talks: reported again',
        ],
        strict=False,
    ):
        assert re.fullmatch(f'{moment} {re.escape(expected)}', line), lines
    assert lines[4:] == ['process 1 (Talks) finished [410]: said too much']


def test_ctrl_c_ends_the_following_and_nothing_else(begin, folder, environment):
    assert ended(begin('submit', 'talks:Talks'))[1] == '1\n'
    terminal = Terminal(['log', '--follow', '1'], folder, environment)
    terminal.wait_for('nothing yet')
    terminal.press(b'\x03')
    assert terminal.end() == 130
    assert 'Traceback' not in terminal.shown and 'Abort' not in terminal.shown
    assert json.loads(ended(begin('show', 1, '--json'))[1])['state'] == 'created'


@pytest.mark.timeout(180)
def test_levels_of_a_stream(begin):
    assert ended(begin('run', 'talks:Talks'))[0] == 1
    for level, expected in (('warning', ['warned', 'failed']), ('40', ['failed'])):
        done = ended(begin('log', 1, '--level', level))
        assert (done[0], [line.rpartition(' ')[2] for line in done[1].splitlines()]) == (0, expected)
    assert [each['message'] for each in json.loads(ended(begin('log', 1, '--level=ERROR', '--json'))[1])] == ['failed']
    assert ended(begin('log', 1, '--level', 'critical'))[1:] == (
        '',
        'process 1 has logged nothing from level CRITICAL on\n',
    )
    code, out, err = ended(begin('log', 1, '--level', 'loud'))
    assert (code, out) == (2, '') and "--level: 'loud' is no level; the levels are DEBUG, INFO, REPORT," in err
    followed = ended(begin('log', '-f', 1, '--level', 'error'))
    assert followed[1].count('\n') == 1 and followed[2] == 'process 1 (Talks) finished [410]: said too much\n'


def logged(text: str) -> list[str]:
    """The lines of a log, without their times and with 1 for every pid."""
    lines = [line.split(' ', 2)[2] for line in text.splitlines() if re.match(r'\d{4}-', line)]
    return [re.sub(r'\[\d+\]', '[1]', line) for line in lines]


WARNINGS = ['WARNING mine [1]: warned', 'ERROR treadle.process.Talks [1]: failed']


def test_run_logs_warnings_to_stderr(begin):
    code, out, err = ended(begin('run', 'talks:Talks'))
    assert (code, out) == (1, 'first\n')
    assert logged(err) == WARNINGS
    code, out, err = ended(begin('run', 'talks:Talks', '--log-level', 'report,mine=info', '--log-level=asyncio=DEBUG'))
    assert logged(err) == [
        'DEBUG asyncio [-]: Using selector: EpollSelector',
        'DEBUG asyncio [-]: Using selector: EpollSelector',
        'REPORT treadle.process.Talks [1]: reported',
        'INFO mine [1]: informed',
        *WARNINGS,
        'REPORT treadle.process.Talks [1]: reported again',
    ]


def test_run_logs_into_a_file(begin, folder):
    code, _, err = ended(begin('run', 'talks:Talks', '--log-file', 'run.log'))
    assert (code, logged(err)) == (1, []) and err.startswith('process 1 (Talks)\n')
    assert logged((folder / 'run.log').read_text()) == WARNINGS


def test_the_environment_and_options_add_up(begin, folder):
    (folder / 'log.toml').write_text('output = "env.log"\nlevels = "INFO,mine=ERROR"\n')
    ended(begin('run', 'talks:Talks', '--log-level', 'WARNING', TREADLE_LOGGING='log.toml'))
    assert logged((folder / 'env.log').read_text()) == [WARNINGS[1]]
    ended(begin('run', 'talks:Talks', '--log-file', 'option.log', TREADLE_LOGGING='log.toml'))
    assert len(logged((folder / 'option.log').read_text())) == 3


def test_a_module_that_configures_logging_is_left_its_way(begin):
    code, _, err = ended(begin('run', 'talks:Talks', 'how=configures'))
    assert code == 1 and logged(err) == []
    assert [line for line in err.splitlines() if line.startswith('its own')] == ['its own: warned', 'its own: failed']


def test_a_worker(begin, folder):
    ended(begin('submit', 'talks:Talks'))
    worker = begin('worker', '--log-level', 'REPORT', '--log-file', folder / 'worker.log')
    assert worker.stderr.readline().startswith('treadle: engine 1 works on')
    assert worker.stdout.readline() == 'first\n'
    worker.stdin.write('\n')
    worker.stdin.flush()
    assert ended(begin('wait', 1))[0] == 1
    worker.terminate()
    code, _, err = ended(worker)
    assert (code, logged(err)) == (0, [])
    messages = [line.rpartition(']: ')[2] for line in logged((folder / 'worker.log').read_text())]
    assert messages == ['reported', 'warned', 'failed', 'reported again']


@pytest.mark.parametrize(
    ('arguments', 'more', 'code', 'message'),
    [
        (['--log-level', 'loud'], {}, 2, "--log-level: 'loud' is no level; the levels are DEBUG, INFO, REPORT,"),
        (['--log-level', '=INFO'], {}, 2, "--log-level: '' is no name of a logger"),
        (['--log-file', 'missing/x.log'], {}, 1, 'missing/x.log cannot be opened (No such file or directory)'),
        ([], {'TREADLE_LOGGING': 'loud'}, 1, "treadle: TREADLE_LOGGING: 'loud' is no level"),
        ([], {'TREADLE_WATCHDOG': 'soon'}, 1, 'treadle: TREADLE_WATCHDOG=soon: write a number of seconds'),
    ],
)
@pytest.mark.parametrize('command', [['worker'], ['run', 'talks:Talks']], ids=['worker', 'run'])
def test_mistakes(begin, command, arguments, more, code, message):
    done = ended(begin(*command, *arguments, **more))
    assert (done[0], done[1]) == (code, ''), done
    assert message in done[2] and 'Traceback' not in done[2]
