"""Code that changed under a stored process: the same script in two versions, each in an OS process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

#: Begins a process, or goes on with the one that is there; says how it ended, or why it did not.
DRIVER = """
import sys
import chain
from treadle.engine import Engine, ProcessParked

with Engine(sys.argv[1]) as engine:
    try:
        node = engine.query()[0] if engine.query() else engine.submit(chain.Chain, n=1)
        print(dict(engine.wait(node, 30).outputs))
    except ProcessParked as parked:
        print('ERROR', parked)
        print('WHY', engine.why(1)['parked'])
"""

CHAIN = """
import os
from treadle.engine import WorkChain, run

class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.only)

    def only(self):
        pass

class Chain(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('total', valid_type=int)
        spec.outline(cls.first, cls.second, cls.third)

    def first(self):
        self.ctx.total = self.inputs.n

    def second(self):
        if os.environ.get('DIE'):
            os._exit(9)
        self.ctx.total += 1

    def third(self):
        self.out('total', self.ctx.total)
"""


class Workplace:
    """A script, its module and a store.

    :param folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / 'store.db'
        self.write('driver.py', DRIVER)
        self.write('chain.py', CHAIN)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def edit(self, *changes: tuple[str, str], name: str = 'chain.py') -> None:
        """Replace parts of a file."""
        text = (self.folder / name).read_text()
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        self.write(name, text)

    def drive(self, script: str = 'driver.py', **environment: str) -> str:
        """Run the script; what it said."""
        done = subprocess.run(
            [sys.executable, '-B', script, f'sqlite:///{self.database}'],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == (9 if environment else 0), done.stderr
        return done.stdout

    def treadle(self, *words: str) -> str:
        """Ask the command, with no engine."""
        command = [sys.executable, '-B', '-m', 'treadle.engine.cli', *words, '--store', f'sqlite:///{self.database}']
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True, timeout=50
        ).stdout

    def row(self, columns: str) -> tuple[object, ...]:
        """Columns of the process's row."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return tuple(connection.execute(f'SELECT {columns} FROM process WHERE pid = 1').fetchone())

    def change_row(self, assignment: str) -> None:
        """Spoil, or mend, the process's row."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(f'UPDATE process SET {assignment} WHERE pid = 1')


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """Where a process has its first step done and died in the second."""
    place = Workplace(tmp_path)
    place.drive(DIE='1')
    return place


OUTLINE = 'cls.first, cls.second, cls.third'


def test_a_step_that_comes_before_the_place_where_it_stands(place: Workplace) -> None:
    place.edit((OUTLINE, 'cls.first, cls.third, cls.second'))
    said = place.drive()
    reason, _, why = said.partition('WHY ')
    assert reason == f'ERROR process 1 is parked: {why}'
    assert why.startswith("it stands before 'second', at position 1 of the outline of Chain, which has third there now")
    assert '\n outline\n   first\n+  third\n   second    <- it stands here\n-  third' in why
    assert place.row('state, owner, visit') == ('running', None, 1)

    text = place.treadle('why', '1')
    assert "It is parked: it stands before 'second'" in text
    assert '\n     outline\n       first\n    +  third\n       second    <- it stands here\n    -  third\n' in text
    assert json.loads(place.treadle('why', '1', '--json'))['parked'] == why.rstrip('\n')
    assert 'WARNING  treadle.parks: it stands' in place.treadle('log', '1')

    place.drive()
    assert place.treadle('log', '1').count('treadle.parks') == 1, 'it is said once, however many engines look'

    place.edit(('cls.first, cls.third, cls.second', OUTLINE))
    assert place.drive() == "{'total': 2}\n"
    assert json.loads(place.treadle('why', '1', '--json'))['parked'] is None


def test_a_change_that_does_not_touch_what_it_has_and_where_it_stands(place: Workplace) -> None:
    port = "spec.input('n', valid_type=int)"
    place.edit(
        (OUTLINE, 'cls.first, cls.second, cls.last'),
        ('def third', 'def last'),
        (port, f"{port}; spec.input('m', valid_type=int, default=5)"),
        ("'total', self.ctx.total", "'total', self.ctx.total + self.inputs.m"),
    )
    assert place.drive() == "{'total': 7}\n"


def test_a_step_method_that_is_gone(place: Workplace) -> None:
    place.edit(('def second', 'def renamed'))
    assert "AttributeError: type object 'Chain' has no attribute 'second'" in place.drive()
    place.edit(('def renamed', 'def second'))
    assert place.drive() == "{'total': 2}\n"


@pytest.mark.parametrize(
    ('after', 'problem', 'lines'),
    [
        ("'m', valid_type=int)", 'inputs.n: there is no such port', '-  n: int\n+  m: int\n'),
        ("'n', valid_type=str)", 'inputs.n: expected str, got int 1', '-  n: int\n+  n: str\n'),
    ],
    ids=['gone', 'of another type'],
)
def test_an_input_that_no_longer_fits(place: Workplace, after: str, problem: str, lines: str) -> None:
    before = "'n', valid_type=int)"
    place.edit((before, after))
    said = place.drive()
    assert 'what it holds does not fit its class any more' in said
    assert problem in said and lines in said
    place.edit((after, before))
    assert place.drive() == "{'total': 2}\n"


def test_a_process_that_has_not_begun_takes_any_outline(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.treadle('submit', 'chain:Chain', 'n=1')
    place.edit((OUTLINE, 'cls.second, cls.third'), ('self.ctx.total += 1', 'self.ctx.total = 40 + self.inputs.n'))
    place.edit(('sys.argv[1]', "sys.argv[1], claims='all'"), name='driver.py')
    assert place.drive() == "{'total': 41}\n"


def test_a_class_that_was_renamed_goes_on_under_its_old_name(place: Workplace) -> None:
    place.edit(('class Chain(', 'class Chains('))
    said = place.drive()
    assert 'chain:Chain is not in its module any more' in said and 'which has Chains' in said
    assert 'is not in its module any more' in place.treadle('why', '1')
    place.write('chain.py', f'{(place.folder / "chain.py").read_text()}\nChain = Chains\n')
    assert place.drive() == "{'total': 2}\n"


def test_a_module_that_was_renamed_goes_on_under_its_old_name(place: Workplace) -> None:
    (place.folder / 'chain.py').rename(place.folder / 'chains.py')
    place.edit(('import chain', 'import chains'), name='driver.py')
    said = place.drive()
    assert 'chain:Chain cannot be imported here (ModuleNotFoundError' in said and 'keep one of the old name' in said
    place.write('chain.py', 'from chains import Chain\n')
    assert place.drive() == "{'total': 2}\n"


def test_a_parent_whose_child_is_parked_is_parked_too(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.write('parent.py', PARENT)
    place.edit(('import chain', 'import parent'), ('chain.Chain', 'parent.Parent'), name='driver.py')
    place.drive(DIE='1')
    place.edit((OUTLINE, 'cls.first, cls.third, cls.second'))
    assert "process 2 is parked: it stands before 'second'" in place.drive()
    assert place.row('state, owner') == ('running', None), 'no verdict on it'
    place.edit(('cls.first, cls.third, cls.second', OUTLINE))
    assert place.drive() == "{'total': 2}\n"


PARENT = """
from treadle.engine import WorkChain, run
from chain import Chain

class Parent(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n')
        spec.output('total')
        spec.outline(cls.only)

    def only(self):
        self.out('total', run(Chain, n=self.inputs.n)['total'])
"""


def test_a_script_that_was_edited_shows_the_difference_of_its_class(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.write('driver.py', CHAIN + DRIVER.replace('import chain\n', '').replace('chain.Chain', 'Chain'))
    place.drive(DIE='1')
    place.edit(('self.ctx.total += 1', 'self.ctx.total += 2'), name='driver.py')
    said = place.drive()
    assert 'driver.py:Chain has been edited since the process began; restore the source it began with' in said
    assert '-        self.ctx.total += 1\n+        self.ctx.total += 2\n' in said
    assert '-        self.ctx.total += 1\n    +        self.ctx.total += 2\n' in place.treadle('why', '1')
    place.edit(('self.ctx.total += 2', 'self.ctx.total += 1'), name='driver.py')
    assert place.drive() == "{'total': 2}\n"


@pytest.mark.parametrize('column', ['checkpoint', 'inputs'])
@pytest.mark.parametrize(
    'spoiled', ['{"ctx', '{"$": "unheard-of"}', '[]'], ids=['no JSON', 'unknown tag', 'other value']
)
def test_what_does_not_decode_parks_and_is_kept(place: Workplace, column: str, spoiled: str) -> None:
    (good,) = place.row(column)
    place.change_row(f"{column} = '{spoiled}'")
    said = place.drive()
    assert 'ERROR process 1 is parked: ' in said
    assert place.row(f'state, owner, visit, {column}') == ('running', None, 1, spoiled)
    assert 'It is parked: ' in place.treadle('why', '1')
    assert 'Process 1: Chain, running' in place.treadle('show', '1')
    json.loads(place.treadle('show', '1', '--json'))
    assert 'Chain' in place.treadle('ps')
    place.change_row(f"{column} = '{good}'")
    assert place.drive() == "{'total': 2}\n"


def test_a_class_whose_definition_exits(place: Workplace) -> None:
    place.edit(("spec.input('n', valid_type=int)", "raise SystemExit('not meant to be run any more')"))
    said = place.drive()  # and the engine stops
    assert said.startswith('ERROR process 1 is parked: loading it raised SystemExit: not meant to be run any more')
    assert place.row('state, owner, visit') == ('running', None, 1)
    place.edit(("raise SystemExit('not meant to be run any more')", "spec.input('n', valid_type=int)"))
    assert place.drive() == "{'total': 2}\n"
