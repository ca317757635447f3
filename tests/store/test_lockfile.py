"""Lock files of live engines, with real processes and real deaths."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from treadle.engine.errors import StoreUnavailable
from treadle.engine.store import lockfile
from treadle.engine.store.lockfile import EngineLock, LockState, is_held, probe, try_take

# A process that holds the lock, has a child of the kind that the test asks for, and reports the child's pid.
HOLDER = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from treadle.engine.store.lockfile import EngineLock

lock = EngineLock(Path(sys.argv[1]))
lock.acquire()
kind = sys.argv[2]
sleep = [sys.executable, '-c', "import time; print('up', flush=True); time.sleep(600)"]
if kind == 'fork':
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b'x')
        time.sleep(600)
    os.read(reading, 1)
elif kind == 'multiprocessing':
    context = multiprocessing.get_context('fork')
    up = context.Event()  # what a child does first, such as letting go of the lock, it has done by then
    process = context.Process(target=lambda: (up.set(), time.sleep(600)))
    process.start()
    up.wait()
    child = process.pid
elif kind == 'popen':
    process = subprocess.Popen(sleep, stdout=subprocess.PIPE, close_fds=False)
    process.stdout.readline()
    child = process.pid
elif kind == 'preexec':
    process = subprocess.Popen(sleep, stdout=subprocess.PIPE, close_fds=False, preexec_fn=os.setsid)
    process.stdout.readline()
    child = process.pid
else:
    child = 0
print(child, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'runs.db.engines' / 'engine-1.lock'


Start = Callable[[str], tuple['subprocess.Popen[str]', int]]


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start a holder with a child; returns the holder and the child's pid (0: no child)."""
    children: list[int] = []
    holders: list[subprocess.Popen[str]] = []

    def run(kind: str) -> tuple[subprocess.Popen[str], int]:
        holder = subprocess.Popen(
            [sys.executable, '-c', HOLDER, str(path), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        if child:
            children.append(child)
        return holder, child

    yield run
    for child in children:
        os.kill(child, signal.SIGKILL)
    for holder in holders:
        holder.kill()
        holder.communicate()


def kill(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()


def test_a_held_lock_is_seen_and_cannot_be_taken(path: Path) -> None:
    lock = EngineLock(path)
    assert probe(path) is LockState.MISSING
    lock.acquire()
    assert lock.held
    # Seen from the same OS process as well: two engines in one program.
    assert probe(path) is LockState.HELD
    assert is_held(path)
    assert try_take(path) is None
    lock.release()
    assert not lock.held
    assert probe(path) is LockState.MISSING
    assert not path.exists()
    lock.release()


def test_a_lock_excludes_a_second_holder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('treadle.engine.store.lockfile._PATIENCE', 0.02)
    with EngineLock(path) as lock:
        with pytest.raises(StoreUnavailable, match='held by another live engine'):
            EngineLock(path).acquire()
        with pytest.raises(StoreUnavailable, match='acquire it once'):
            lock.acquire()
        assert lock.held


def test_another_process_sees_it_too(path: Path, start: Start) -> None:
    holder, _ = start('none')
    assert is_held(path)
    holder.communicate('stop\n')
    assert holder.returncode == 0


@pytest.mark.parametrize('kind', ['none', 'fork', 'multiprocessing', 'popen', 'preexec'])
def test_sigkill_frees_the_lock_at_once_though_children_live(path: Path, start: Start, kind: str) -> None:
    holder, child = start(kind)
    assert probe(path) is LockState.HELD
    kill(holder)
    assert probe(path) is LockState.FREE
    if child:
        os.kill(child, 0)  # raises if the child is gone, and with it the point of this test
    taken = try_take(path)
    assert taken is not None
    with taken:
        # While one observer declares the death, no other one can.
        assert try_take(path) is None
        taken.remove()
        assert probe(path) is LockState.MISSING
    assert not path.exists()


def test_a_child_that_is_forked_and_ends_leaves_the_parents_lock(path: Path) -> None:
    def child() -> None:
        assert not lock.held
        # Not even an orderly stop in the child removes what is the parent's.
        lock.release()
        assert is_held(path)

    with EngineLock(path) as lock:
        process = multiprocessing.get_context('fork').Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert lock.held
        assert is_held(path)


def test_a_child_may_have_a_lock_of_its_own(path: Path) -> None:
    other = path.with_name('engine-2.lock')

    def child() -> None:
        mine = EngineLock(other)
        mine.acquire()
        assert is_held(other)
        # Ends without releasing, as in a crash.
        os._exit(0)

    with EngineLock(path):
        process = multiprocessing.get_context('fork').Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert probe(other) is LockState.FREE
        assert probe(path) is LockState.HELD


# Python 3.12 and newer warn of a fork beside other threads, which is the point here.
@pytest.mark.filterwarnings('ignore:.*multi-threaded:DeprecationWarning')
def test_no_fork_falls_between_opening_and_noting(path: Path) -> None:
    """Forks from one thread while another opens and closes locks: no child inherits a descriptor."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with EngineLock(path):
                pass

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(40):
            child = os.fork()
            if child == 0:
                targets = [os.readlink(f'/proc/self/fd/{name}') for name in _descriptors()]
                os._exit(int(any('engine-1.lock' in target for target in targets)))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_no_fork_falls_into_closing(path: Path) -> None:
    """A file says that it is closed a moment before its descriptor is; a child forked then would keep the lock."""
    lock = EngineLock(path)
    lock.acquire()
    closing = threading.Thread(target=lock.abandon)
    with lockfile._forks:  # as a fork that is under way
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        assert probe(path) is LockState.HELD
    closing.join(5)
    assert probe(path) is LockState.FREE


def _descriptors() -> list[str]:
    return [name for name in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{name}')]


def test_what_is_not_removed_stays_free(path: Path, start: Start) -> None:
    holder, _ = start('none')
    kill(holder)
    taken = try_take(path)
    assert taken is not None
    taken.release()
    assert probe(path) is LockState.FREE
    with pytest.raises(StoreUnavailable, match='no longer in hand'):
        taken.remove()


def test_a_file_removed_between_opening_and_locking_is_worth_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine opens the stale file, an observer removes it, the engine locks it: it must start over."""
    path.parent.mkdir()
    path.touch()
    genuine = os.open
    opened: list[int] = []

    def opening(*args: object, **keywords: object) -> int:
        descriptor = genuine(*args, **keywords)  # type: ignore[arg-type]
        if not opened:
            opened.append(descriptor)
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, 'open', opening)
    lock = EngineLock(path)
    lock.acquire()
    monkeypatch.undo()
    assert opened
    assert probe(path) is LockState.HELD
    lock.release()

    path.touch()
    opened.clear()
    monkeypatch.setattr(os, 'open', opening)
    assert try_take(path) is None


def test_a_lock_file_removed_by_hand_is_missing_not_free(path: Path) -> None:
    with EngineLock(path) as lock:
        path.unlink()
        assert probe(path) is LockState.MISSING
        assert not is_held(path)
        assert try_take(path) is None
        # Whoever uses the path next is not robbed of its file when the first one releases.
        with EngineLock(path):
            lock.release()
            assert is_held(path)


def test_of_many_observers_one_takes_it(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    barrier = threading.Barrier(8)
    winners: list[int] = []

    def observe(number: int) -> None:
        barrier.wait()
        taken = try_take(path)
        if taken is not None:
            with taken:
                winners.append(number)
                taken.remove()

    threads = [threading.Thread(target=observe, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert not path.exists()


def test_looking_does_not_keep_an_engine_from_starting(path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            probe(path)

    observers = [threading.Thread(target=look) for _ in range(2)]
    for observer in observers:
        observer.start()
    try:
        for _ in range(50):
            with EngineLock(path) as lock:
                assert lock.held
    finally:
        stop.set()
        for observer in observers:
            observer.join()


def test_a_forgotten_lock_is_closed_with_its_engine(path: Path) -> None:
    lock = EngineLock(path)
    lock.acquire()
    with pytest.warns(ResourceWarning):
        del lock
        gc.collect()
    assert probe(path) is LockState.FREE
