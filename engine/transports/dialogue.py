"""Talking with a command that runs on this machine: what it reads, what it writes, how it ends."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

from .transport import CommandResult

__all__ = ['GRACE', 'Dialogue']

#: Seconds that a command which is to end gets to do so, and for which its outputs are listened to after it has ended
#: when something that it has started keeps them open.
GRACE = 1.0


class Dialogue:
    """Feeds a command and takes what it writes, until it has ended.

    :param process: of a session of its own, with three pipes.
    :param stdin: what it reads.
    :param max_output: bytes that are kept of each output.
    """

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, max_output: int) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._process = process
        self._left = memoryview(stdin)
        self._max_output = max_output
        self._outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        self._truncated = False
        self._input = process.stdin
        self._lock = threading.Lock()
        self._wake = os.eventfd(0)
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._open = False
            os.close(self._wake)
        self._end()

    def break_off(self) -> None:
        """Have :meth:`hold` return; from any thread, at any time."""
        with self._lock:
            if self._open:  # else the number may be another file's by now
                os.eventfd_write(self._wake, 1)

    def hold(self, deadline: float | None) -> bool:
        """Talk until the command has ended; whether it has. Leaving the block ends one that has not."""
        exited = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in self._outputs:
                    os.set_blocking(descriptor, False)
                    selector.register(descriptor, selectors.EVENT_READ, self._take)
                os.set_blocking(self._input.fileno(), False)
                selector.register(self._input.fileno(), selectors.EVENT_WRITE, self._feed)
                selector.register(exited, selectors.EVENT_READ)
                selector.register(self._wake, selectors.EVENT_READ)
                return self._hold(selector, exited, deadline)
        finally:
            os.close(exited)

    def _hold(self, selector: selectors.BaseSelector, exited: int, deadline: float | None) -> bool:
        ended = False
        fed = self._input.fileno()
        listening = set(self._outputs)
        while not ended or listening:
            patience = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = selector.select(patience)
            if not ready:
                return ended
            for key, _ in ready:
                if key.fd == self._wake:
                    return False
                if key.fd == exited:
                    ended = True
                    selector.unregister(exited)
                    deadline = time.monotonic() + GRACE
                elif not key.data(key.fd):
                    selector.unregister(key.fd)
                    listening.discard(key.fd)
                    if key.fd == fed:
                        self._input.close()  # not before the selector has forgotten its number
        return True

    # Both of these say whether there is more to do with the descriptor.

    def _take(self, descriptor: int) -> bool:
        data = os.read(descriptor, 65536)
        kept = self._outputs[descriptor]
        room = self._max_output - len(kept)
        kept += data[:room]
        self._truncated = self._truncated or len(data) > room
        return bool(data)

    def _feed(self, descriptor: int) -> bool:
        try:
            self._left = self._left[os.write(descriptor, self._left[:65536]) :]
        except BrokenPipeError:  # it does not want to know
            self._left = self._left[:0]
        return bool(self._left)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
            os.killpg(self._process.pid, number)

    def result(self) -> CommandResult:
        """How it has ended."""
        code = self._process.wait()
        stdout, stderr = (bytes(each) for each in self._outputs.values())
        return CommandResult(
            exit_code=code if code >= 0 else 128 - code,
            stdout=stdout,
            stderr=stderr,
            truncated=self._truncated,
        )
