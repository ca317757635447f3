"""A GUI: the main loop of Qt."""

from __future__ import annotations

import os

import pytest

#: What Qt itself says of its offscreen platform.
OF_QT = 'This plugin does not support propagateSizeHints()\n'


@pytest.fixture(autouse=True)
def qt():
    try:
        from PySide6 import QtWidgets  # noqa: F401
    except ImportError as error:
        if 'CI' in os.environ:
            raise
        pytest.skip(f"Qt's windows need libraries of the system that are not there: {error}")


def test_a_button_starts_a_process_and_a_label_shows_its_end(hosts):
    ended = hosts.run('window.py', 'click', QT_QPA_PLATFORM='offscreen')
    assert (ended.code, ended.out) == (0, '[8, 42, 10]\nleft: []\n')
    assert ended.err.replace(OF_QT, '') == ''
    assert hosts.engines_ended() == ['stopped']


def test_ctrl_c_ends_the_main_loop(hosts):
    host = hosts.begin('window.py', 'wait', QT_QPA_PLATFORM='offscreen')
    host.wait_for('shown')
    host.interrupt()
    ended = host.end()
    assert (ended.code, ended.out) == (0, 'shown\n[]\nleft: []\n')
    assert ended.err.replace(OF_QT, '') == ''
