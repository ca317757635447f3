"""The end of a plain process of this machine is noticed without asking."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import os
import subprocess
from typing import Any

import pytest

from treadle.engine import ShellJob
from treadle.engine.desk.exits import Exits


def test_jobs_here_are_not_waited_for_until_the_next_poll(direct_place: Any) -> None:
    patient = dataclasses.replace(direct_place.computer, poll_interval=3600.0)
    with direct_place.engine() as engine:
        # More than run at once: each gives its place to the next one.
        nodes = [engine.submit(ShellJob, command='true', options={'computer': patient}) for _ in range(9)]
        engine.wait(nodes, timeout=50)
    assert all(node.is_finished_ok for node in nodes)


def test_without_descriptors_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, 'Too many open files')

    monkeypatch.setattr(os, 'pidfd_open', refuse)
    exits = Exits(lambda: pytest.fail('nothing has ended'))
    exits.watch(1, os.getpid())
    exits.close()


def test_each_end_is_told_once_and_no_descriptor_is_left() -> None:
    gone, brief, long, ignored = (subprocess.Popen(['cat'], stdin=subprocess.PIPE) for _ in range(4))
    gone.communicate()

    async def watch() -> int:
        told = asyncio.Queue[None]()
        exits = Exits(lambda: told.put_nowait(None))
        exits.watch(1, gone.pid)
        await told.get()
        for pid, process in enumerate((brief, long, ignored), 2):
            exits.watch(pid, process.pid)
            exits.watch(pid, process.pid)
        assert told.empty()
        brief.communicate()
        await told.get()
        exits.watch(2, brief.pid)  # it was told before
        exits.forget([4, 5])
        ignored.communicate()
        exits.close()
        long.communicate()
        await asyncio.sleep(0)
        return told.qsize()

    gc.collect()  # what others have left open for it
    before = os.listdir('/proc/self/fd')
    assert asyncio.run(watch()) == 0
    gc.collect()
    assert len(os.listdir('/proc/self/fd')) == len(before) - 3, 'but for the pipes to those that have ended since'
