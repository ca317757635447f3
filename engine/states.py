"""The states of a process, with the vocabulary of ``plumpy``."""

from __future__ import annotations

import enum


class ProcessState(enum.StrEnum):
    """Where a process stands; the value is what the store holds."""

    CREATED = 'created'
    RUNNING = 'running'
    WAITING = 'waiting'
    FINISHED = 'finished'
    EXCEPTED = 'excepted'
    KILLED = 'killed'

    @property
    def is_terminal(self) -> bool:
        """Whether a process in this state never changes again."""
        return self in TERMINAL_STATES

    @classmethod
    def _missing_(cls, value: object) -> ProcessState:
        raise ValueError(f'{value!r} is no process state; there is {", ".join(cls)}')


TERMINAL_STATES = frozenset({ProcessState.FINISHED, ProcessState.EXCEPTED, ProcessState.KILLED})
