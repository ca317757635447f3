"""What the tab key offers: by the shells' own protocols, and in the shells themselves where they are installed."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import enum
from treadle.engine import WorkChain, Process, calcfunction, workfunction

class Helper:
    def run(self): ...

class Relax(WorkChain):
    @classmethod
    def define(cls, spec): ...

class Once(Process):
    async def run(self): ...

class Colour(enum.Enum):
    RED = 1

@calcfunction
def add(x): ...

@workfunction
def both(x): ...

def plain(x): ...

raise RuntimeError('it is read and never imported')
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module and a package."""
    (tmp_path / 'chains.py').write_text(MODULE)
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package' / '__init__.py').touch()
    (tmp_path / 'package' / 'inner.py').write_text(MODULE)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'unseen.py').write_text(MODULE)
    (tmp_path / 'broken.py').write_text('treadle (')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(line: str, *, store: str = '', shell: str = 'bash') -> list[str]:
    """What is offered at the end of the line, by the protocol of the shell."""
    words = line.split(' ')
    current = words[-1] if shell == 'fish' else str(len(words) - 1)
    environment = {'_TREADLE_COMPLETE': f'{shell}_complete', 'COMP_WORDS': line, 'COMP_CWORD': current}
    if shell == 'bash':
        environment |= {'COMP_LINE': line, 'COMP_POINT': str(len(line)), 'COMP_WORDBREAKS': ' \t\n"\'><=;|&(:'}
    if store:
        environment['TREADLE_STORE'] = store
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'treadle.engine.cli'],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, '')
    lines = done.stdout.splitlines()
    return lines if any(lines) else []


def plain(*values: object) -> list[str]:
    return [f'plain,{value}' for value in values]


def test_commands_and_options() -> None:
    assert offered('treadle s') == plain('show', 'status', 'store', 'submit')
    assert offered('treadle ps --st') == plain('--state', '--store')
    assert offered('treadle ps --state fi') == plain('finished')


def test_pids(filled: str) -> None:
    assert offered('treadle show ', store=filled) == plain(3, 2, 1)
    assert offered('treadle log 2', store=filled) == plain(2)
    assert offered('treadle ps --parent 1', store=filled) == plain(1)
    assert offered('treadle kill ', store=filled) == [], 'all have ended'
    assert offered(f'treadle why --store {filled} ') == plain(3, 2, 1)


def test_pids_come_with_what_they_are(filled: str) -> None:
    assert offered('treadle show 1', store=filled, shell='zsh') == ['plain', '1', 'Relax a [bold]label finished']
    assert any(line.startswith('plain,1\tRelax') for line in offered('treadle show ', store=filled, shell='fish'))


def test_no_store_offers_nothing(tmp_path: Path) -> None:
    assert offered('treadle show ', store=f'sqlite:///{tmp_path}/no.db') == []
    assert offered('treadle show ', store='nonsense') == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('here')
def test_processes_of_the_modules_here() -> None:
    names = ['Relax', 'Once', 'add', 'both']
    found = [f'{module}:{name}' for module in ('chains', 'package.inner') for name in names]
    assert offered('treadle run ') == plain(*found)
    assert offered('treadle submit chains:R') == plain('Relax'), 'bash has the part before the colon already'
    assert offered('treadle run package.inner:a', shell='zsh') == ['plain', 'package.inner:add', '_']


def typed(shell: list[str], text: str, until: str, **environment: str) -> str:
    """What an interactive shell shows once the keys were pressed."""
    observer, terminal = pty.openpty()
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    process = subprocess.Popen(
        shell,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, 'PATH': path, 'TERM': 'xterm', 'PS1': '$ ', **environment},
    )
    os.close(terminal)
    shown = ''
    with process, open(observer, 'r+b', buffering=0) as screen:
        while 'ready' not in shown:
            shown += screen.read(65536).decode()
        screen.write(text.encode())
        shown = ''
        while until not in shown:
            shown += screen.read(65536).decode()
        process.kill()
    return shown


@pytest.mark.skipif(shutil.which('bash') is None, reason='there is no bash here')
def test_bash_itself(filled: str, here: Path) -> None:
    start = here / 'start'
    start.write_text('eval "$(_TREADLE_COMPLETE=bash_source treadle)"\necho ready\n')
    shell = ['bash', '--rcfile', str(start), '-i']
    assert '3  2  1' in typed(shell, f'treadle show --store {filled} \t\t', '3  2  1')
    assert 'treadle run chains:Relax' in typed(shell, 'treadle run chains:R\t', 'Relax')


@pytest.mark.skipif(shutil.which('zsh') is None, reason='there is no zsh here')
def test_zsh_itself(filled: str, here: Path) -> None:
    (here / '.zshrc').write_text(
        'autoload -Uz compinit; compinit -u -D\neval "$(_TREADLE_COMPLETE=zsh_source treadle)"\necho ready\n'
    )
    assert '-- Relax' in typed(['zsh', '-i'], 'treadle show \t', '-- Relax', ZDOTDIR=str(here), TREADLE_STORE=filled)


@pytest.mark.skipif(shutil.which('fish') is None, reason='there is no fish here')
def test_fish_itself(filled: str, here: Path) -> None:
    asked = '; '.join(f'complete -C "treadle {words}"' for words in ('show ', 'run chains:'))
    script = f'_TREADLE_COMPLETE=fish_source treadle | source; {asked}'
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        ['fish', '--no-config', '-c', script],
        env={**os.environ, 'PATH': path, 'TREADLE_STORE': filled},
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
    )
    lines = done.stdout.splitlines()
    assert any(line.startswith('1\tRelax') for line in lines) and 'chains:Relax' in lines
