"""``treadle show`` and ``treadle log``."""

from __future__ import annotations

import json
import re

import pytest


@pytest.fixture
def pids(treadle, filled):
    """The pids of the filled store's processes, by label."""
    rows = json.loads(treadle('ps', '--all', '--json', store=filled).stdout)
    return {row['process_label']: row['pid'] for row in rows}


def test_a_process_as_json(treadle, filled, pids):
    done = treadle('show', pids['Relax'], '--json', store=filled)
    assert (done.returncode, done.stderr) == (0, '')
    data = json.loads(done.stdout)
    assert set(data) == {
        'pid', 'uuid', 'process_label', 'process_class', 'label', 'description', 'key', 'state', 'paused', 'step',
        'steps_committed', 'exit_status', 'exit_message', 'exception', 'inputs', 'outputs', 'parent', 'called',
        'owner', 'origin', 'created_at', 'changed_at', 'store',
    }  # fmt: skip
    assert data['process_class'].endswith('/relax.py:Relax')
    assert (data['description'], data['exception'], data['owner']) == ('of copper', None, None)
    assert data['inputs']['shape'] == {'$': 'tuple', 'items': [2, 3]}
    assert data['inputs']['note'] == 'n' * 5000
    assert data['outputs']['cell']['fields'] == {'length': 3.6, 'atoms': ['Cu']}
    assert data['called'] == [
        {'pid': pids['make_cell'], 'process_label': 'make_cell', 'label': '', 'state': 'finished', 'exit_status': 0}
    ]
    assert (data['origin']['name'], data['origin']['ended'], data['origin']['alive']) == ('desk', 'stopped', False)
    assert data['store'] == filled


def test_a_process_in_words_without_its_classes(treadle, filled, pids):
    done = treadle('show', pids['Relax'], store=filled)
    assert (done.returncode, done.stderr) == (0, '')
    text = done.stdout
    assert text.startswith(f'Process {pids["Relax"]}: Relax, finished [410]\n')
    for line in (
        'label        a [bold]label',
        'message      n is negative',
        'key          relax-1',
        'shape: (2, 3)',
        'colour: Colour.RED',
        'cell: Cell(length=1.5, atoms=[])',
        "structure: <file 'a.cif', 3 bytes>",
        'depth: 1180591620717411303424',
        "cell: Cell(length=3.6, atoms=['Cu'])",
        f'{pids["make_cell"]} make_cell, finished [0]',
    ):
        assert f'  {line}\n' in text
    assert re.search(r"belongs to +engine \d+ \('desk'\) on .*, OS process \d+: stopped\n", text)
    assert re.search(r'blob: <bytes, object [0-9a-f]{12}>\n', text)
    assert 'n' * 5000 not in text
    assert '(5002 characters, --full shows all)' in text
    assert 'n' * 5000 in treadle('show', pids['Relax'], '--full', store=filled).stdout


def test_an_excepted_process_shows_its_traceback(treadle, filled, pids):
    done = treadle('show', pids['refuse'], store=filled)
    assert done.returncode == 0
    assert f'Process {pids["refuse"]}: refuse, excepted\n' in done.stdout
    assert 'Traceback (most recent call last):' in done.stdout
    assert "raise ArithmeticError(f'x is {x}, " in done.stdout
    # What the message would do to the terminal is shown and not done.
    assert done.stdout.endswith('  ArithmeticError: x is -1, \\x1b[31mnot good\n')
    raised = json.loads(treadle('show', pids['refuse'], '--json', store=filled).stdout)['exception']
    assert (raised['type'], raised['message']) == ('ArithmeticError', 'x is -1, \x1b[31mnot good')
    assert raised['traceback'].startswith('Traceback')


def test_a_log(treadle, filled, pids):
    done = treadle('log', pids['Relax'], store=filled)
    assert (done.returncode, done.stderr) == (0, '')
    first, second, third = done.stdout.splitlines()
    moment = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}'
    assert re.fullmatch(rf'{moment} REPORT   treadle\.process\.Relax: made of copper', first)
    assert re.fullmatch(rf'{moment} WARNING  treadle\.process\.Relax: two', second)
    assert third == '    lines'
    entries = json.loads(treadle('log', pids['Relax'], '--json', store=filled).stdout)
    assert [set(entry) for entry in entries] == [{'pid', 'at', 'level', 'level_name', 'logger', 'message'}] * 2
    assert (entries[0]['level'], entries[0]['level_name'], entries[0]['message']) == (23, 'REPORT', 'made of copper')


def test_an_empty_log(treadle, filled, pids):
    done = treadle('log', pids['make_cell'], store=filled)
    assert (done.returncode, done.stdout) == (0, '')
    assert done.stderr == f'process {pids["make_cell"]} has logged nothing\n'
    assert json.loads(treadle('log', pids['make_cell'], '--json', store=filled).stdout) == []
