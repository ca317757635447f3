"""``treadle ps``: what is listed, in which order, and in which form."""

from __future__ import annotations

import datetime
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

FIELDS = {
    'pid', 'uuid', 'process_label', 'process_class', 'label', 'key', 'state', 'paused', 'step', 'exit_status',
    'exit_message', 'parent', 'called', 'called_ended', 'owner', 'owner_alive', 'created_at', 'changed_at',
}  # fmt: skip


def listed(done):
    assert (done.returncode, done.stderr) == (0, '')
    return json.loads(done.stdout)


def labels(done):
    return [row['process_label'] for row in listed(done)]


def test_all_as_json_has_every_process_newest_first(treadle, filled):
    rows = listed(treadle('ps', '--all', '--json', store=filled))
    assert [row['process_label'] for row in rows] == ['refuse', 'make_cell', 'Relax']
    assert all(set(row) == FIELDS for row in rows)
    refuse, make_cell, relax = rows
    assert (relax['state'], relax['exit_status'], relax['exit_message']) == ('finished', 410, 'n is negative')
    assert (relax['label'], relax['key'], relax['parent']) == ('a [bold]label', 'relax-1', None)
    assert (relax['called'], relax['called_ended']) == (1, 1)
    assert (make_cell['state'], make_cell['exit_status'], make_cell['parent']) == ('finished', 0, relax['pid'])
    assert (refuse['state'], refuse['exit_status'], refuse['owner']) == ('excepted', None, None)
    created, changed = (datetime.datetime.fromisoformat(relax[name]) for name in ('created_at', 'changed_at'))
    assert created.utcoffset() == datetime.timedelta(0)
    assert created <= changed


def test_called_processes_are_listed_when_asked_for(treadle, filled):
    assert labels(treadle('ps', '--json', store=filled)) == ['refuse', 'Relax']
    assert labels(treadle('ps', '--called', '--json', store=filled)) == ['refuse', 'make_cell', 'Relax']
    relax = listed(treadle('ps', '--json', store=filled))[1]['pid']
    assert labels(treadle('ps', '--parent', relax, '--json', store=filled)) == ['make_cell']
    assert labels(treadle('ps', '--state', 'excepted', '--json', store=filled)) == ['refuse']
    both = ('--state', 'excepted', '--state', 'finished')
    assert labels(treadle('ps', *both, '--limit', 2, '--json', store=filled)) == ['refuse', 'make_cell']
    assert listed(treadle('ps', '--state', 'killed', '--json', store=filled)) == []


def test_the_table_puts_called_processes_below_their_callers(treadle, filled):
    done = treadle('ps', '--all', store=filled)
    assert (done.returncode, done.stderr) == (0, '')
    head, refuse, relax, make_cell = done.stdout.splitlines()
    assert head.split()[:4] == ['PID', 'PROCESS', 'LABEL', 'STATE']
    assert refuse.split()[1:3] == ['refuse', 'excepted']
    assert 'Relax' in relax and 'a [bold]label' in relax and 'finished [410]' in relax and 'n is negative' in relax
    assert make_cell.index('make_cell') == relax.index('Relax') + 2
    assert '\x1b' not in done.stdout


def test_a_table_that_is_cut_short_says_so(treadle, filled):
    done = treadle('ps', '--all', '--limit', 1, store=filled)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == 'cut after the newest 1; --limit 0 shows all\n'
    assert len(treadle('ps', '--all', '--limit', 0, store=filled).stdout.splitlines()) == 4


def test_what_ended_long_ago_is_left_out_unless_asked_for(treadle, script, tmp_path):
    url = f'sqlite:///{tmp_path}/old.db'
    subprocess.run([sys.executable, script, url], check=True, timeout=50)
    with sqlite3.connect(tmp_path / 'old.db') as connection:
        connection.execute('UPDATE process SET changed_at = changed_at - 90000')
    connection.close()
    done = treadle('ps', store=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', 'no processes now; --all shows old ones\n')
    assert labels(treadle('ps', '--json', store=url)) == []
    assert len(labels(treadle('ps', '--all', '--json', store=url))) == 3


def test_the_store_can_be_named_by_an_option(treadle, filled):
    assert labels(treadle('ps', '--json', '--store', filled, store='sqlite:////nowhere/at.all')) == ['refuse', 'Relax']


def test_nothing_is_written(treadle, filled):
    path = Path(unquote(filled.removeprefix('sqlite:///')))
    before = path.read_bytes()
    for command in (['ps'], ['show', '1'], ['log', '1']):
        assert treadle(*command, store=filled).returncode == 0
    assert path.read_bytes() == before
    # Whoever opens a write-ahead log needs its two files; they hold nothing.
    log = path.with_name('store.db-wal')
    assert not log.exists() or log.stat().st_size == 0
