"""The command beside a live engine, and after its death."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def holding(script, tmp_path):
    """The URL of a store whose engine is in the middle of a step, and its OS process."""
    url = f'sqlite:///{tmp_path}/store.db'
    process = subprocess.Popen(
        [sys.executable, script, url, 'hold'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None and process.stdout.readline() == 'held\n'
            yield url, process
        finally:
            process.kill()


def test_a_live_engine_then_a_dead_one(treadle, holding):
    url, process = holding
    (row,) = json.loads(treadle('ps', '--state', 'running', '--json', store=url).stdout)
    assert (row['process_label'], row['step'], row['owner_alive']) == ('Hold', 'hold', True)
    engine = json.loads(treadle('show', row['pid'], '--json', store=url).stdout)['owner']
    assert (engine['id'], engine['name'], engine['os_pid']) == (row['owner'], 'desk', process.pid)
    assert (engine['host'], engine['alive'], engine['ended']) == (os.uname().nodename, True, None)
    shown = treadle('show', row['pid'], store=url).stdout
    assert re.search(rf"run by +engine \d+ \('desk'\) on .*, OS process {process.pid}: alive\n", shown)
    assert re.search(r'Hold +running +', treadle('ps', store=url).stdout)

    process.send_signal(signal.SIGKILL)
    process.wait()
    (row,) = json.loads(treadle('ps', '--state', 'running', '--json', store=url).stdout)
    assert row['owner_alive'] is False
    assert re.search(r'Hold +running, engine dead', treadle('ps', store=url).stdout)
    assert ': dead; the process goes on when its script runs again\n' in treadle('show', row['pid'], store=url).stdout


def test_the_engine_goes_on_undisturbed(treadle, holding):
    url, process = holding
    for command in (['ps', '--all'], ['show', '1'], ['log', '1']):
        assert treadle(*command, store=url).returncode == 0
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    rows = json.loads(treadle('ps', '--all', '--json', store=url).stdout)
    assert (rows[0]['process_label'], rows[0]['state']) == ('Hold', 'finished')
