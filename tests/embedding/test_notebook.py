"""Cells of a notebook, in a real kernel."""

from __future__ import annotations

import pytest


@pytest.fixture
def cells(hosts, gate):
    """Executes cells, and ends their kernel in an orderly way; returns what they have printed."""

    def execute(what):
        ended = hosts.run('notebook.py', what, str(gate.folder), tolerate=('Unclosed socket:ResourceWarning',))
        assert ended.code == 0, ended.err
        assert 'Traceback' not in ended.err
        assert 'treadle:' not in ended.err
        return ended.out.splitlines()

    return execute


def test_cells_that_run_submit_and_wait(cells, hosts):
    assert cells('plain') == ["stdout: {'n': 2} {'n': 4} 4", '8', "{'n': 10}"]
    assert hosts.engines_ended() == ['stopped']


def test_interrupting_a_cell_kills_its_process_and_leaves_the_engine(cells, hosts):
    assert cells('interrupted') == [
        'raised KeyboardInterrupt',
        'stdout: killed interrupted (Ctrl-C)',
        "stdout: {'n': 2} True",
    ]
    assert hosts.engines_ended() == ['stopped']


def test_a_kernel_that_is_restarted_goes_on_by_the_cells_key(cells, hosts, gate):
    assert cells('restarted') == ["stdout: {'n': 1}"]
    assert gate.effects == ['begin', 'wait', 'wait', 'end']
    assert hosts.engines_ended()[1] == 'stopped'
