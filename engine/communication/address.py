"""Where the broker is and how to get in: an ``amqp`` URL, read and checked in one place.

Nothing here, and no error, ever shows the password.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ..errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ['BROKER_VARIABLE', 'BrokerAddress', 'address_of', 'has_password']

#: The environment variable that names the broker where no argument does.
BROKER_VARIABLE: Final = 'TREADLE_BROKER'

_FORM: Final = 'write amqp://user:password@host:5672/vhost, or amqps://... for TLS'
_PORTS: Final = {'amqp': 5672, 'amqps': 5671}
_FILES: Final = ('cafile', 'capath', 'certfile', 'keyfile')
_OPTIONS: Final = (*_FILES, 'password_file', 'heartbeat', 'connection_timeout')
#: Options of a URL, of whatever kind, that are secrets.
_SECRETS: Final = frozenset({'password', 'sslpassword', 'oauth_client_secret', 'scram_client_key', 'scram_server_key'})
#: Seconds between signs of life, and seconds that connecting may take.
HEARTBEAT: Final = 15
CONNECTION_TIMEOUT: Final = 10.0


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Where the broker is; it shows itself without the password.

    :ivar source: the setting that it comes from, for messages.
    :ivar heartbeat: seconds between signs of life.
    :ivar connection_timeout: seconds that connecting may take.
    """

    host: str
    port: int
    user: str
    password: str
    virtual_host: str
    is_secure: bool
    source: str
    heartbeat: int = HEARTBEAT
    connection_timeout: float = CONNECTION_TIMEOUT
    cafile: str | None = None
    capath: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def __str__(self) -> str:
        scheme = 'amqps' if self.is_secure else 'amqp'
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{scheme}://{self.user}@{host}:{self.port}/{self.virtual_host}'

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self}>'

    def tls(self) -> ssl.SSLContext | None:
        """What a TLS connection is checked with; certificates and host names are always verified.

        :raises ConfigurationError: a file cannot be read, or is none.
        """
        if not self.is_secure:
            return None
        import ssl  # noqa: PLC0415 - takes a while, and few want it

        try:
            context = ssl.create_default_context(cafile=self.cafile, capath=self.capath)
            if self.certfile is not None:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            files = ', '.join(f'{name}={value}' for name in _FILES if (value := getattr(self, name)) is not None)
            raise ConfigurationError(
                f'{self.source}: the files for TLS ({files}) cannot be used: {error.strerror or error}'
            ) from error
        return context


def address_of(broker: str | None, *, environment: bool = True) -> BrokerAddress | None:
    """The broker that ``broker`` names, else ``TREADLE_BROKER``; ``None`` where neither names one.

    :param broker: the URL; an empty text means no broker, whatever the environment says.
    :raises ConfigurationError: the URL makes no sense; says what to write instead.
    """
    if broker is None:
        broker, source = (os.environ.get(BROKER_VARIABLE, '').strip() if environment else ''), BROKER_VARIABLE
    else:
        source = 'broker'
        if not isinstance(broker, str):
            raise ConfigurationError(f'broker must be a URL, not a {type(broker).__name__}; {_FORM}')
    return _parse(broker, source) if broker else None


def has_password(url: str) -> bool:
    """Whether a password stands in the URL itself, of a broker or of a store; or may, where it is not well written."""
    try:
        parts = urlsplit(url)
        options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        return '@' in url
    if not _SECRETS.isdisjoint(options):
        return True
    if not parts.netloc:
        return False  # a file, whose path may hold anything
    # Not what urlsplit takes for the password: one with a "/" or a "?" in it reaches beyond the first of them.
    base, _, query = url.partition('?')
    before = (base if '@' in base else f'{base}?{query}').rpartition('@')[0]
    return ':' in before.partition('//')[2]


def _parse(url: str, source: str) -> BrokerAddress:
    # The URL is never repeated: wherever the mistake is, a password may be part of it.
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ConfigurationError(f'{source} is no URL; {_FORM}') from None
    if parts.scheme not in _PORTS:
        raise ConfigurationError(f'{source} does not begin with amqp:// or amqps://; {_FORM}')
    if not host:
        raise ConfigurationError(f'{source} names no host; {_FORM}')
    # Of a password that has a "/" or a "?", the end would be taken for the virtual host or an option.
    if parts.fragment or not {'/', '@'}.isdisjoint(parts.path[1:]) or ('@' in parts.query and '@' not in parts.netloc):
        raise ConfigurationError(
            f'{source}: the password or the virtual host in it has a character that must be quoted (/ is %2F, '
            f'@ is %40, # is %23, ? is %3F); {_FORM}'
        )
    options = _options(parts.query, source)
    return BrokerAddress(
        host=host,
        port=_PORTS[parts.scheme] if port is None else port,
        user=unquote(parts.username) if parts.username is not None else 'guest',
        password=_password(parts.password, options.get('password_file'), source),
        virtual_host=unquote(parts.path[1:]) or '/',
        is_secure=parts.scheme == 'amqps',
        source=source,
        heartbeat=int(_number(options, 'heartbeat', HEARTBEAT, source)),
        connection_timeout=_number(options, 'connection_timeout', CONNECTION_TIMEOUT, source),
        **{name: options.get(name) for name in _FILES},
    )


def _password(quoted: str | None, path: str | None, source: str) -> str:
    if path is None:
        return 'guest' if quoted is None else unquote(quoted)
    if quoted is not None:
        raise ConfigurationError(f'{source} gives a password and a password_file; leave one out')
    try:
        with open(path, encoding='utf-8') as file:
            return file.read().rstrip('\r\n')
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is no text'
        raise ConfigurationError(f'{source}: the password_file {path} cannot be read: {reason}') from error


def _options(query: str, source: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            shown = name if name.isidentifier() else 'one of them'
            raise ConfigurationError(f'{source}: unknown option {shown}; the options are {", ".join(_OPTIONS)}')
        options[name] = value
    return options


def _number(options: dict[str, str], name: str, default: float, source: str) -> float:
    text = options.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 3600:
        raise ConfigurationError(f'{source}: {name} is a number of seconds from 1 to 3600')
    return value
