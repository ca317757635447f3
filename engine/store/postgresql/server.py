"""The database of a store, as its URL names it.

libpq reads the rest: ``PGPASSWORD`` and the other variables of the environment, ``~/.pgpass`` and service files fill in
what the URL leaves out.
"""

from __future__ import annotations

import difflib
import getpass
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from ...errors import UnsupportedStore

__all__ = ['Server', 'parse_url']

_FORM: Final = 'write postgresql://user@host:port/database, with the password in PGPASSWORD or ~/.pgpass'
_QUOTE: Final = '(an "@", ":", "/" or "?" in a name or a password is written %40, %3A, %2F or %3F)'
_SECRET: Final = frozenset({'password', 'sslpassword', 'oauth_client_secret', 'scram_client_key', 'scram_server_key'})
#: What the URL may leave to the default, in seconds or as libpq says; a connection that died silently is noticed.
_DEFAULTS: Final = {
    'connect_timeout': '10',
    'keepalives_idle': '5',
    'keepalives_interval': '2',
    'keepalives_count': '3',
    'tcp_user_timeout': '10000',
}
#: Of several hosts one is the primary. Another one reads what was committed a while ago, and takes nothing.
_OF_SEVERAL: Final = {'target_session_attrs': 'read-write'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A database on a server.

    :ivar url: what was given, without passwords.
    :ivar host: for people, as are ``port``, ``database`` and ``user``: where a connection will lead.
    :ivar parameters: of a connection, passwords included; never shown.
    """

    url: str
    host: str
    port: str
    database: str
    user: str
    parameters: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def place(self) -> str:
        """Host and port."""
        return f'{self.host}:{self.port}'


def parse_url(url: str) -> Server:
    """Read the URL of a PostgreSQL database, in the form that libpq takes.

    :raises UnsupportedStore: with what to write instead. The message never repeats credentials.
    """
    scheme, _, rest = url.partition(':')
    if '+' in scheme:
        raise UnsupportedStore(f'{scheme}://...: no driver is named in a store URL; {_FORM}')
    if not rest.startswith('//'):
        raise UnsupportedStore(f'{scheme}:...: two slashes follow the colon; {_FORM}')
    base, _, query = rest.partition('?')
    if '#' in base or '#' in query:
        raise UnsupportedStore(f'{scheme}://...: a "#" in a name or a password is written %23; {_FORM}')
    authority, slash, path = base.removeprefix('//').partition('/')
    credentials, at, hosts = authority.rpartition('@')
    # Else libpq takes the beginning of a password for a host, and its end for the name of a database or of a host.
    if '@' in credentials or '@' in path or ('@' in query and not at):
        raise UnsupportedStore(f'{scheme}://...: an "@" comes only once, before the host; {_FORM} {_QUOTE}')
    try:
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UnsupportedStore(f'{scheme}://...?...: what follows the "?" is no option=value&option=value') from None
    # After an "&" or a "?" that is part of a password comes more of the password, not the name of an option.
    tellable = '@' not in query and _SECRET.isdisjoint(name for name, _ in options)
    _refuse_unknown([name for name, _ in options], scheme, tellable=tellable)
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(f'postgresql:{rest}').items()}
    except psycopg.Error:
        # What libpq says may hold the password.
        raise UnsupportedStore(
            f'{scheme}://...: this is no URL of a PostgreSQL database; {_FORM} {_QUOTE}'
        ) from None
    _check_numbers(given, scheme)
    public = [(name, value) for name, value in options if name not in _SECRET]
    resolved = {**_environment(), **given}
    user = resolved.get('user') or _user()
    name = credentials.partition(':')[0]
    is_one = ',' not in resolved.get('host', '') + resolved.get('hostaddr', '')
    is_chosen = resolved.get('target_session_attrs', 'any') != 'any'
    return Server(
        url=f'postgresql://{name}{"@" if name else ""}{hosts}{slash}{path}'
        + (f'?{urlencode(public, quote_via=quote)}' if public else ''),
        host=resolved.get('host') or resolved.get('hostaddr') or 'localhost',
        port=resolved.get('port') or '5432',
        database=resolved.get('dbname') or user,
        user=user,
        parameters={**_DEFAULTS, **({} if is_one or is_chosen else _OF_SEVERAL), **given},
    )


def _refuse_unknown(names: list[str], scheme: str, *, tellable: bool) -> None:
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name in names:
        if name in known and name != 'replication':
            continue
        if not tellable:
            raise UnsupportedStore(f'{scheme}://...?...: one of the options is none of libpq; {_FORM} {_QUOTE}')
        near = difflib.get_close_matches(name, sorted(known), n=1)
        meant = f'; did you mean {near[0]!r}?' if near else ''
        raise UnsupportedStore(
            f'{scheme}://...?{name}=...: there is no option {name!r}{meant} '
            'A store takes the options of libpq, such as sslmode, sslrootcert and connect_timeout'
        )


def _check_numbers(given: dict[str, str], scheme: str) -> None:
    for name in ('port', 'connect_timeout'):
        value = given.get(name, '')
        # Not repeated: it may be a password in a URL that lacks its "@".
        if value and not all(part.isascii() and part.isdecimal() for part in value.split(',') if part):
            raise UnsupportedStore(f'{scheme}://...: {name} is a number; {_FORM} {_QUOTE}')


def _environment() -> dict[str, str]:
    """What libpq takes where the URL says nothing, but for secrets."""
    return {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.get_defaults()
        if option.val and option.keyword.decode() not in _SECRET
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ''
