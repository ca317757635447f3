"""What the user's ssh configuration says of a host: where it is, who we are there, how it is known and reached."""

from __future__ import annotations

import dataclasses
import getpass
import os
import shlex
from pathlib import Path
from typing import Any

import paramiko

from ..errors import ConfigurationError
from .connection_spec import ConnectionSpec

__all__ = ['SshHost', 'hop_of', 'look_up']

DEFAULT_CONFIG = '~/.ssh/config'
DEFAULT_KNOWN_HOSTS = '~/.ssh/known_hosts ~/.ssh/known_hosts2'
GLOBAL_KNOWN_HOSTS = '/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2'
DEFAULT_KEYS = ('~/.ssh/id_ed25519', '~/.ssh/id_ecdsa', '~/.ssh/id_rsa')
#: Seconds that an opening may take, unless the configuration or the computer says something else.
CONNECT_TIMEOUT = 20.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SshHost:
    """Where and how to knock.

    :ivar alias: the name under which the configuration was asked.
    :ivar key_name: the name under which its host key is known.
    :ivar jumps: the hosts to go through, the nearest first, as in ``ProxyJump``.
    :ivar command: a program that is the way to it, as in ``ProxyCommand``.
    :ivar known_hosts: files of host keys that are there; the first one is where the user would add one.
    :ivar keys: files of private keys, those that must be there first.
    :ivar agent_only_keys: offer only those keys of the agent that are named in ``keys`` (``IdentitiesOnly``).
    """

    alias: str
    host: str
    port: int
    user: str
    key_name: str
    jumps: tuple[str, ...]
    command: str | None
    known_hosts: tuple[Path, ...]
    keys: tuple[Path, ...]
    use_agent: bool
    agent_only_keys: bool
    connect_timeout: float

    @property
    def where(self) -> str:
        """What errors call it."""
        port = '' if self.port == 22 else f':{self.port}'
        return f'{self.user}@{self.host}{port}'

    @property
    def known_as(self) -> str:
        """Its name in files of host keys."""
        return self.key_name if self.port == 22 else f'[{self.key_name}]:{self.port}'


def look_up(spec: ConnectionSpec) -> SshHost:
    """What is to be done to reach this computer.

    :raises ConfigurationError: the ssh configuration cannot be read, or says what makes no sense.
    """
    alias = spec.hostname or ''
    path = Path(spec.ssh_config or DEFAULT_CONFIG).expanduser()
    options = _options(path, alias, required=spec.ssh_config is not None)
    try:
        port = spec.port or int(options.get('port', 22))
        timeout = spec.connect_timeout or float(options.get('connecttimeout', CONNECT_TIMEOUT))
    except ValueError as error:
        raise ConfigurationError(f'{path}: Host {alias}: {error}') from error
    host = options.get('hostname', alias)
    jumps = _unless_none(options.get('proxyjump'))
    named = [*([spec.key_filename] if spec.key_filename else []), *options.get('identityfile', ())]
    return SshHost(
        alias=alias,
        host=host,
        port=port,
        user=spec.user or options.get('user') or getpass.getuser(),
        key_name=options.get('hostkeyalias', host),
        jumps=tuple(hop.strip() for hop in jumps.split(',')) if jumps else (),
        command=None if jumps else _unless_none(options.get('proxycommand')),
        known_hosts=_known_hosts(spec, options),
        keys=tuple(Path(each).expanduser() for each in named or DEFAULT_KEYS),
        use_agent=options.get('identityagent', '').lower() != 'none',
        agent_only_keys=options.get('identitiesonly', 'no').lower() == 'yes',
        connect_timeout=timeout,
    )


def hop_of(spec: ConnectionSpec, hop: str) -> ConnectionSpec:
    """The computer that a hop of ``ProxyJump`` names: ``[user@]host[:port]``, or an ssh URI.

    :raises ConfigurationError: it names none.
    """
    text = hop.removeprefix('ssh://')
    user, at, address = text.rpartition('@')
    host, colon, port = address.rpartition(':') if not address.endswith(']') else (address, '', '')
    if not colon:
        host, port = address, ''
    if not host.strip('[]') or (at and not user) or (colon and not port.isdecimal()):
        raise ConfigurationError(
            f'computer {spec.name!r}: ProxyJump {hop!r} is not of the form [user@]host[:port]'
        )
    return dataclasses.replace(
        spec,
        name=f'{spec.name} (by way of {hop})',
        hostname=host.strip('[]'),
        user=user or None,
        port=int(port) if port else None,
        key_filename=None,
    )


def _options(path: Path, alias: str, *, required: bool) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigurationError(f'there is no ssh configuration {str(path)!r}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f'the ssh configuration {str(path)!r} cannot be read: {error}') from error
    try:
        return dict(paramiko.SSHConfig.from_text(text).lookup(alias))
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ImportError, ValueError) as error:
        raise ConfigurationError(f'{path}: {error}; `ssh -G {alias}` shows what ssh makes of it') from error


def _unless_none(value: str | None) -> str | None:
    return None if value is None or value.lower() == 'none' else value


def _known_hosts(spec: ConnectionSpec, options: dict[str, Any]) -> tuple[Path, ...]:
    if spec.known_hosts is not None:
        return (Path(spec.known_hosts).expanduser(),)
    texts = (
        options.get('userknownhostsfile', DEFAULT_KNOWN_HOSTS),
        options.get('globalknownhostsfile', GLOBAL_KNOWN_HOSTS),
    )
    names = [name for text in texts for name in shlex.split(text) if name.lower() != 'none']
    return tuple(Path(os.path.expanduser(name)) for name in names)
