"""How a computer is reached: plain data, made by whoever knows computers."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from ..errors import ConfigurationError

__all__ = ['ConnectionSpec']


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSpec:
    """How a computer is reached; two specs that are equal share a connection.

    What is ``None`` is looked up for ``hostname`` in the user's ssh configuration, where the transport is ``ssh``.

    :ivar name: what errors and the log call the computer.
    :ivar transport: ``local`` is this machine, without a connection.
    :ivar hostname: a host's name or address, or a ``Host`` of the ssh configuration.
    :ivar user: the account there.
    :ivar port: of the ssh server.
    :ivar key_filename: the private key to use, before those of the agent.
    :ivar ssh_config: the configuration file to read instead of ``~/.ssh/config``.
    :ivar known_hosts: the file of host keys to read instead of what the configuration says.
    :ivar connect_timeout: seconds that an opening may take, from the first packet to the end of authentication.
    :ivar safe_interval: seconds between two openings, at least; uses of an open connection are not slowed down.
    :ivar max_sessions: commands and file sessions at the same time; sshd's ``MaxSessions`` is 10.
    :ivar idle_close: seconds after which a connection that nobody uses is closed.
    :raises ConfigurationError: a field makes no sense.
    """

    name: str
    transport: Literal['local', 'ssh'] = 'local'
    hostname: str | None = None
    user: str | None = None
    port: int | None = None
    key_filename: str | None = None
    ssh_config: str | None = None
    known_hosts: str | None = None
    connect_timeout: float | None = None
    safe_interval: float = 0.0
    max_sessions: int = 10
    idle_close: float = 60.0

    def __post_init__(self) -> None:
        if self.transport not in ('local', 'ssh'):
            raise ConfigurationError(
                f'computer {self.name!r}: transport must be local or ssh, not {self.transport!r}'
            )
        if self.transport == 'ssh' and not self.hostname:
            raise ConfigurationError(f'computer {self.name!r}: the transport ssh needs a hostname')
        if self.port is not None and not 0 < self.port < 65536:
            raise ConfigurationError(f'computer {self.name!r}: port must be 1 to 65535, not {self.port!r}')
        if self.max_sessions < 1:
            raise ConfigurationError(
                f'computer {self.name!r}: max_sessions must be at least 1, not {self.max_sessions}'
            )
        for field in ('safe_interval', 'idle_close', 'connect_timeout'):
            seconds = getattr(self, field)
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigurationError(
                    f'computer {self.name!r}: {field} must be a number of seconds, not {seconds!r}'
                )
