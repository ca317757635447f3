"""A disk that is full for a while: an error at the call in plain code, a pause for what runs, a verdict for nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Engine, WorkChain, calcfunction, run
from treadle.engine.errors import StoreFull, StoreReadOnly

pytestmark = pytest.mark.timeout(180)

#: Seconds after which what should have happened never will.
PATIENCE = 40.0
SIZE = 16 * 1024 * 1024
#: Of such size that no room left in the write-ahead log takes it; the second goes among the large contents.
TEXT, BLOB = ['x' * 6000] * 100, b'x' * 600_000


class Disk:
    """A small file system of its own.

    :param folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / 'filler'

    @property
    def url(self) -> str:
        return f'sqlite:///{self.folder}/store.db'

    def fill(self) -> None:
        """Leave no byte."""
        with open(self._filler, 'ab', buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(4096))

    def make_room(self) -> None:
        """Take back what :meth:`fill` has taken."""
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A tmpfs; needs root, as in a container."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip('only root can mount a small disk')
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f'no small disk can be mounted here: {mounted.stderr.strip()}')
    yield Disk(folder)
    subprocess.run(['umount', '--lazy', str(folder)], check=True)


class Seen(logging.Handler):
    """Says when a message with certain words is logged."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.event.set()


@pytest.fixture
def seen() -> Iterator[Callable[[str], threading.Event]]:
    """``seen(words)``: an event that is set when Treadle logs them."""
    handlers: list[Seen] = []

    def watch(words: str) -> threading.Event:
        handlers.append(Seen(words))
        logging.getLogger('treadle').addHandler(handlers[-1])
        return handlers[-1].event

    yield watch
    for handler in handlers:
        logging.getLogger('treadle').removeHandler(handler)


class Gate:
    """Where a step of a test waits for the test."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def come(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


gate = Gate()


@pytest.fixture(autouse=True)
def new_gate() -> None:
    global gate
    gate = Gate()


@calcfunction
def measure(text: list) -> dict[str, Any]:
    """A calcfunction with a large input and a large output."""
    return {'length': len(text), 'blob': bytes(600_000)}


class Echo(WorkChain):
    """Keeps and gives what it gets."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('value')
        spec.output('value')
        spec.outline(cls.keep, cls.give)

    def keep(self) -> None:
        self.ctx.value = self.inputs.value

    def give(self) -> None:
        self.out('value', self.ctx.value)


class Fills(WorkChain):
    """Comes to the gate in its first step, then does what ``how`` says."""

    executed = 0

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('how', valid_type=str)
        spec.output('length')
        spec.outline(cls.work, cls.give)

    def work(self) -> None:
        type(self).executed += 1
        gate.come()
        if self.inputs.how == 'text':
            self.ctx.value = TEXT
        elif self.inputs.how == 'blob':
            self.ctx.value = BLOB
        elif self.inputs.how == 'run':
            self.ctx.value = run(Echo, value=TEXT)['value']
        elif self.inputs.how == 'run large':
            self.ctx.value = run(Echo, value=BLOB)['value']
        elif self.inputs.how == 'function':
            self.ctx.value = measure(TEXT)['blob']
        else:
            self.submit(Echo, value=BLOB)
            self.ctx.value = BLOB

    def give(self) -> None:
        self.out('length', len(self.ctx.value[0]) * 100 if isinstance(self.ctx.value, list) else len(self.ctx.value))


@pytest.mark.parametrize('value', [TEXT, BLOB], ids=['text', 'blob'])
def test_submit_raises_at_the_call_and_writes_nothing(disk: Disk, value: Any) -> None:
    with Engine(disk.url) as engine:
        assert engine.run(Echo, value='warm')['value'] == 'warm'
        disk.fill()
        for _ in range(3):
            with pytest.raises(StoreFull, match='free some space'):
                engine.submit(Echo, value=value, metadata={'key': 'k'})
            with pytest.raises(StoreFull, match='free some space'):
                engine.run(Echo, value=value)
        assert len(engine.query()) == 1
        disk.make_room()
        node = engine.wait(engine.submit(Echo, value=value, metadata={'key': 'k'}), PATIENCE)
        assert node.outputs.value == value


@pytest.mark.parametrize('how', ['text', 'blob', 'run', 'run large', 'function', 'child'])
def test_what_runs_waits_for_room_and_goes_on(
    disk: Disk, seen: Callable[[str], threading.Event], how: str
) -> None:
    full = seen('free some space')
    Fills.executed = 0
    with Engine(disk.url, workers=1) as engine:
        assert engine.run(Echo, value='warm')['value'] == 'warm'
        node = engine.submit(Fills, how=how)
        assert gate.reached.wait(PATIENCE)
        disk.fill()
        gate.opened.set()
        assert full.wait(PATIENCE), 'nothing was said about the disk'
        assert node.state.value == 'running' and not node.is_terminated
        assert node._row().visit == 0
        disk.make_room()
        final = engine.wait(node, PATIENCE)
        assert final.is_finished_ok, final.exception
        assert final.outputs.length == 600_000
        assert Fills.executed == 1, 'the step is not run again, only written again'
        assert all(child.is_finished_ok for child in engine.wait(final.called, PATIENCE))


def test_an_engine_that_stops_while_the_disk_is_full_loses_nothing(
    disk: Disk, seen: Callable[[str], threading.Event]
) -> None:
    full = seen('free some space')
    with Engine(disk.url) as engine:
        node = engine.submit(Fills, how='text', metadata={'key': 'k'})
        assert gate.reached.wait(PATIENCE)
        disk.fill()
        gate.opened.set()
        assert full.wait(PATIENCE)
    disk.make_room()
    with Engine(disk.url) as engine:
        assert engine.run(Fills, how='text', metadata={'key': 'k'})['length'] == 600_000
        assert engine.load(node.pid).is_finished_ok


def test_work_that_fills_the_disk_itself(disk: Disk) -> None:
    """Submissions until there is no room: those that were taken end well when there is room again, and no other is."""
    with Engine(disk.url) as engine:
        disk.fill()
        os.truncate(disk.folder / 'filler', os.path.getsize(disk.folder / 'filler') - 700_000)
        nodes = []
        with pytest.raises(StoreFull):
            for number in range(1000):
                nodes.append(engine.submit(Echo, value=f'{number} ' + 'y' * 20_000))
        assert len(engine.query()) == len(nodes)
        disk.make_room()
        finals = engine.wait(nodes, PATIENCE)
        assert all(final.is_finished_ok for final in finals)
        assert len(engine.query()) == len(nodes)


def test_a_disk_that_lets_nobody_write(disk: Disk) -> None:
    with Engine(disk.url) as engine:
        engine.run(Echo, value=1)
    subprocess.run(['mount', '-o', 'remount,ro', str(disk.folder)], check=True)
    with pytest.raises(StoreReadOnly, match='writable'):
        Engine(disk.url).start()
