"""A store with processes in it, and the command as a user runs it: in an OS process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import leaks

no_leaked_threads = leaks.no_leaked_threads

SCRIPT = """
import dataclasses, enum, sys
from pathlib import Path
from treadle.engine import Engine, File, ToContext, WorkChain, calcfunction

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Cell:
    length: float
    atoms: list

@calcfunction
def make_cell(length):
    return {'cell': Cell(length, ['Cu'])}

@calcfunction
def refuse(x):
    raise ArithmeticError(f'x is {x}, \\x1b[31mnot good')

class Relax(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.inputs.dynamic = True
        spec.outputs.dynamic = True
        spec.input_namespace('options', dynamic=True, required=False)
        spec.exit_code(410, 'ERROR_NEGATIVE', message='n is negative')
        spec.outline(cls.prepare, cls.end)
    def prepare(self):
        self.report('made of %s', 'copper')
        self.logger.warning('two\\nlines')
        self.out('cell', make_cell(3.6)['cell'])
    def end(self):
        return self.exit_codes.ERROR_NEGATIVE

class Hold(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.begin, cls.hold)
    def begin(self):
        self.report('begun')
    def hold(self):
        print('held', flush=True)
        sys.stdin.read()

def fill(engine):
    node = engine.run_get_node(
        Relax,
        shape=(2, 3), colour=Colour.RED, cell=Cell(1.5, []), note='n' * 5000, blob=b'\\0' * 100_000,
        structure=File(b'abc', 'a.cif'), options={'depth': 2**70},
        metadata={'label': 'a [bold]label', 'description': 'of copper', 'key': 'relax-1'},
    )[1]
    try:
        engine.run(refuse, x=-1)
    except ArithmeticError:
        pass
    return node

if __name__ == '__main__':
    with Engine(sys.argv[1], name='desk') as engine:
        fill(engine)
        if 'hold' in sys.argv:
            engine.run(Hold)
"""

Run = Callable[..., 'subprocess.CompletedProcess[str]']


@pytest.fixture(scope='session')
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script that fills the store that its first argument names and, told to ``hold``, waits in a step."""
    path = tmp_path_factory.mktemp('script') / 'relax.py'
    path.write_text(SCRIPT, encoding='utf-8')
    return path


@pytest.fixture(scope='session')
def filled(script: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store that holds Relax (pid 1, which calls make_cell) and refuse; no engine runs."""
    url = f'sqlite:///{tmp_path_factory.mktemp("store")}/store.db'
    # The script is gone afterwards as far as the command is concerned: it imports nothing of it.
    subprocess.run([sys.executable, script, url], check=True, timeout=50)
    return url


@pytest.fixture
def treadle() -> Run:
    """Run the command; returns the completed process. ``env`` adds to the environment."""

    def run(*arguments: object, store: str | None = None, env: dict[str, str] | None = None):
        environment = {key: value for key, value in os.environ.items() if key != 'TREADLE_STORE'}
        if store is not None:
            environment['TREADLE_STORE'] = store
        return subprocess.run(
            [sys.executable, '-W', 'error', '-m', 'treadle.engine.cli', *map(str, arguments)],
            env={**environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=50,
        )

    return run
