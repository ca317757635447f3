"""A locked file per live engine: on one host it shows an engine's death at once.

The lock is ``flock(2)``'s. It belongs to the open file, not to the OS process, so two engines of one
process exclude each other like any others, and the kernel frees it when the last descriptor is closed,
whatever ended the process. That last clause is why children matter: a forked child inherits the
descriptor and would keep a dead parent's lock. A child made by :func:`os.fork` closes its copy at once,
without unlocking; a child that runs another program loses it at ``exec``.

*No race between looking and removing.* A lock file is removed only by whoever holds its lock, while
holding it. Whoever has locked a file checks that the path still leads to that very file; if not, the file
was removed between opening and locking, and the lock is worth nothing (``acquire`` tries again with a new
file, ``try_take`` finds nothing to take). So nobody removes the file of a live engine, and nobody takes
the lock of a removed file for the engine's.

*A missing file proves nothing.* It may have been removed by hand while its engine lives, so an observer
reads ``MISSING`` as "ask the heartbeat", never as death.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import io
import os
import threading
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Final

from ..errors import StoreError, StoreFull, StoreReadOnly, StoreUnavailable

__all__ = ['EngineLock', 'LockState', 'TakenLock', 'is_held', 'probe', 'try_take']

# An observer's look locks the file for microseconds; an engine that meets one tries again for this long.
_PATIENCE: Final = 1.0
_PAUSE: Final = 0.005


class LockState(enum.Enum):
    """What an observer finds at a lock file's path."""

    HELD = 'held'  # its engine lives, or an observer is about to declare it dead
    FREE = 'free'  # its engine died without releasing it
    MISSING = 'missing'  # released, never made, or removed by hand: proves nothing


class _Forks:
    """Keeps forked children from holding their parents' locks.

    Opening a lock file and noting it happen under a lock that ``os.fork`` takes too, so no fork falls
    between them; nor into closing one, whose descriptor is still open when the file says that it is closed. The
    lock is re-entrant because a signal handler may fork inside that section.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._files: weakref.WeakSet[_LockedFile] = weakref.WeakSet()
        os.register_at_fork(
            before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
        )

    def __enter__(self) -> _Forks:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def add(self, file: _LockedFile) -> None:
        """Note an open file; call it inside ``with``."""
        self._files.add(file)

    def _before(self) -> None:
        self._lock.acquire()

    def _in_parent(self) -> None:
        self._lock.release()

    def _in_child(self) -> None:
        for file in list(self._files):
            file.close()
        self._files = weakref.WeakSet()
        self._lock = threading.RLock()


class _LockedFile:
    """An open file, exclusively locked or on the way there; closing it unlocks unless a copy is open."""

    __slots__ = ('__weakref__', '_path', '_raw')

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        with _forks:
            # FileIO rather than a bare descriptor: it closes when a forgotten engine is collected.
            self._raw = io.FileIO(os.open(path, flags | os.O_CLOEXEC, 0o600), 'r')
            _forks.add(self)

    @property
    def open(self) -> bool:
        return not self._raw.closed

    def lock(self, kind: int) -> bool:
        """Lock without waiting; False when somebody else holds it."""
        try:
            fcntl.flock(self._raw.fileno(), kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def is_current(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._raw.fileno()))

    def remove(self) -> None:
        """Remove the file; only its lock's holder may, and only this very file."""
        if self.is_current():
            os.unlink(self._path)

    def close(self) -> None:
        with _forks:
            self._raw.close()


_forks: Final = _Forks()


class EngineLock:
    """The lock that a live engine holds for its whole life.

    Callable from any thread; ``acquire`` and ``release`` are not meant to overlap.

    :param path: the engine's file. Its folder is made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _LockedFile | None = None

    @property
    def path(self) -> Path:
        return self._path

    @property
    def held(self) -> bool:
        """Whether this object holds the lock. False in a forked child, whatever the parent holds."""
        return self._file is not None and self._file.open

    def acquire(self) -> None:
        """Make the file and lock it.

        :raises StoreUnavailable: another engine holds it, or the file system knows no locks.
        :raises StoreReadOnly: the file may not be made here.
        :raises StoreFull: the disk has no room for it.
        """
        if self.held:
            raise StoreUnavailable(f'the lock file {self._path} is held by this very engine; acquire it once')
        deadline = time.monotonic() + _PATIENCE
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while not self._attempt():
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f'the lock file {self._path} is held by another live engine; '
                        'stop that engine, or start this one under an id of its own'
                    )
                time.sleep(_PAUSE)
        except OSError as error:
            raise _translate(error, self._path) from error

    def _attempt(self) -> bool:
        file = _LockedFile(self._path, os.O_RDWR | os.O_CREAT)
        try:
            if file.lock(fcntl.LOCK_EX) and file.is_current():
                self._file = file
                return True
        except BaseException:
            file.close()
            raise
        file.close()
        return False

    def release(self) -> None:
        """Remove the file and unlock it; does nothing when not held, so a forked child may call it.

        :raises StoreReadOnly: the file could not be removed; it is unlocked all the same.
        """
        file, self._file = self._file, None
        if file is None or not file.open:
            return
        try:
            file.remove()
        except OSError as error:
            raise _translate(error, self._path) from error
        finally:
            file.close()

    def abandon(self) -> None:
        """Unlock and leave the file, as a death would: whoever finds it free may declare the engine dead."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> EngineLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class TakenLock:
    """A dead engine's lock, in the hands of the observer who declares the death.

    Hold it across the transaction that declares it, ``remove()`` the file once that is committed, and
    leave the ``with`` block. A crash in between leaves a free file whose engine is already declared dead:
    whoever meets it takes and removes it.
    """

    def __init__(self, file: _LockedFile, path: Path) -> None:
        self._file = file
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def remove(self) -> None:
        """Remove the file, still locked.

        :raises StoreReadOnly: it may not be removed here.
        """
        if not self._file.open:
            raise StoreUnavailable(f'the lock file {self._path} is no longer in hand; take it again')
        try:
            self._file.remove()
        except OSError as error:
            raise _translate(error, self._path) from error

    def release(self) -> None:
        """Unlock; what was not removed stays, free."""
        self._file.close()

    def __enter__(self) -> TakenLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_take(path: Path) -> TakenLock | None:
    """Take the lock of an engine that died; None when it is held (the engine lives) or there is no file.

    Of several observers at most one gets it; the others see it as held for that time.

    :raises StoreError: the file cannot be opened or locked.
    """
    found = _lock_existing(path, fcntl.LOCK_EX)
    return found if isinstance(found, TakenLock) else None


def probe(path: Path) -> LockState:
    """Look at a lock file without keeping anything.

    ``FREE`` may be old news by the time it is acted upon; to act, use :func:`try_take`.

    :raises StoreError: the file cannot be opened or locked.
    """
    # A shared lock, so that observers do not take one another for the engine.
    found = _lock_existing(path, fcntl.LOCK_SH)
    if isinstance(found, TakenLock):
        found.release()
        return LockState.FREE
    return found


def is_held(path: Path) -> bool:
    """Whether a live engine holds the lock at ``path``. False proves no death; see :class:`LockState`."""
    return probe(path) is LockState.HELD


def _lock_existing(path: Path, kind: int) -> TakenLock | LockState:
    """Lock the file at ``path``: the lock, or ``HELD`` or ``MISSING``."""
    try:
        file = _LockedFile(path, os.O_RDONLY)
    except FileNotFoundError:
        return LockState.MISSING
    except OSError as error:
        raise _translate(error, path) from error
    try:
        if not file.lock(kind):
            file.close()
            return LockState.HELD
        if not file.is_current():
            file.close()
            return LockState.MISSING
    except OSError as error:
        file.close()
        raise _translate(error, path) from error
    return TakenLock(file, path)


def _translate(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            f'no room on the disk for the lock file {path} ({error.strerror}); free some space, start again'
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreReadOnly(
            f'the lock file {path} cannot be written ({error.strerror}); '
            'make its folder writable, or use a store in a folder that is'
        )
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
        return StoreUnavailable(
            f'the file system of {path} cannot lock files ({error.strerror}); use a store on a local disk'
        )
    return StoreUnavailable(
        f'the lock file {path} cannot be used ({error.strerror}); check the folder it lies in'
    )
