"""``Monitor``: a function of the user's that looks at a job while it runs, and may end it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..exit_code import ExitCode
from ..transports import Transport

__all__ = ['Monitor', 'RunningJob', 'find_monitor']


@dataclasses.dataclass(frozen=True, init=False)
class Monitor:
    """Which function looks at a job, and how often.

    :param function: an importable function, or its name as ``module:function``. It is called with a
        :class:`RunningJob` and the ``kwargs``, and returns ``None``, or why the job is to be ended: a text, or an
        :class:`ExitCode`, whose status and message become the process's.
    :param every: seconds between two calls, at least, once the scheduler was seen to run the job.
    :param kwargs: further arguments; they must be storable.
    :raises ConfigurationError: the function cannot be found again by its name, or ``every`` is no time.
    """

    function: str
    every: float
    kwargs: dict[str, Any]

    def __init__(
        self,
        function: str | Callable[..., Any],
        every: float = 60.0,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        name = function if isinstance(function, str) else _name_of(function)
        if name.count(':') != 1:
            raise ConfigurationError(f'a monitor is a function or its name as module:function, not {function!r}')
        if not every > 0:
            raise ConfigurationError(f'every must be more than 0 seconds, not {every!r}')
        object.__setattr__(self, 'function', name)
        object.__setattr__(self, 'every', float(every))
        object.__setattr__(self, 'kwargs', dict(kwargs or {}))

    def to_data(self) -> dict[str, Any]:
        """As part of a job's request."""
        return {'function': self.function, 'every': self.every, 'kwargs': self.kwargs}


class RunningJob:
    """A job that runs, as a monitor sees it. Its calls block; they may raise what a transport raises.

    :ivar pid: of its process.
    :ivar job_id: as the scheduler calls it.
    :ivar folder: its working directory, an absolute path on the computer.
    :ivar transport: to the computer.
    """

    def __init__(self, *, pid: int, job_id: str, folder: str, transport: Transport) -> None:
        self.pid = pid
        self.job_id = job_id
        self.folder = folder
        self.transport = transport

    def path(self, name: str) -> str:
        """The absolute path of a file there."""
        return f'{self.folder}/{name}'

    def exists(self, name: str) -> bool:
        """Whether there is such a file by now."""
        return self.transport.stat(self.path(name)) is not None

    def read_bytes(self, name: str) -> bytes:
        """What a file holds by now.

        :raises FileNotFoundError: it is not there.
        """
        return self.transport.read_bytes(self.path(name))

    def read_text(self, name: str, *, encoding: str = 'utf-8', errors: str = 'replace') -> str:
        """What a text file holds by now."""
        return self.read_bytes(name).decode(encoding, errors)

    def listdir(self, name: str = '') -> list[str]:
        """The names in its folder, or one below."""
        return self.transport.listdir(self.path(name) if name else self.folder)


def find_monitor(name: str) -> Callable[..., str | ExitCode | None]:
    """The function of that name; imports its module.

    :raises ConfigurationError: there is none.
    """
    module_name, _, path = name.partition(':')
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split('.'):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f'the monitor {name} cannot be found: {error}') from error
    if not callable(found):
        raise ConfigurationError(f'the monitor {name} is {found!r} and no function')
    function: Callable[..., str | ExitCode | None] = found
    return function


def _name_of(function: Any) -> str:
    module, name = getattr(function, '__module__', None), getattr(function, '__qualname__', '')
    if not callable(function) or not module or module == '__main__' or '<' in name:
        raise ConfigurationError(
            f'{function!r} cannot be a monitor: other engines must be able to import it; put it into a module, as a '
            f'plain function'
        )
    return f'{module}:{name}'
