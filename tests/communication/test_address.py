"""The broker's URL: what it may say, what is wrong with others, and that the password is never shown."""

from __future__ import annotations

import pytest

from treadle.engine import ConfigurationError, Engine
from treadle.engine.communication.address import BROKER_VARIABLE, address_of


@pytest.mark.parametrize(
    ('url', 'host', 'port', 'user', 'password', 'vhost', 'secure'),
    [
        ('amqp://host', 'host', 5672, 'guest', 'guest', '/', False),
        ('amqp://host/', 'host', 5672, 'guest', 'guest', '/', False),
        ('amqps://host/%2F', 'host', 5671, 'guest', 'guest', '/', True),
        ('amqp://me:p%40ss%2Fword@10.0.0.1:1234/my%2Fhost', '10.0.0.1', 1234, 'me', 'p@ss/word', 'my/host', False),
        ('amqp://me:@[::1]:5672/v', '::1', 5672, 'me', '', 'v', False),
    ],
)
def test_what_a_url_says(url, host, port, user, password, vhost, secure):
    address = address_of(url)
    assert (address.host, address.port, address.user, address.password) == (host, port, user, password)
    assert (address.virtual_host, address.is_secure, address.source) == (vhost, secure, 'broker')


def test_options():
    address = address_of('amqp://host/v?heartbeat=30&connection_timeout=2.5')
    assert (address.heartbeat, address.connection_timeout) == (30, 2.5)


def test_the_environment(monkeypatch):
    monkeypatch.delenv(BROKER_VARIABLE, raising=False)
    assert address_of(None) is None and address_of('') is None
    monkeypatch.setenv(BROKER_VARIABLE, 'amqp://there')
    assert address_of(None).host == 'there' and address_of(None).source == BROKER_VARIABLE
    assert address_of('amqp://here').host == 'here'
    assert address_of('') is None


def test_the_password_from_a_file(tmp_path):
    path = tmp_path / 'password'
    path.write_text('geheim\n')
    assert address_of(f'amqp://me@host/v?password_file={path}').password == 'geheim'
    with pytest.raises(ConfigurationError, match='gives a password and a password_file'):
        address_of(f'amqp://me:other@host/v?password_file={path}')
    with pytest.raises(ConfigurationError, match=r'the password_file .*missing cannot be read: No such file'):
        address_of(f'amqp://me@host/v?password_file={tmp_path}/missing')


@pytest.mark.parametrize(
    ('url', 'why'),
    [
        ('http://me:geheim@host', 'does not begin with amqp:// or amqps://'),
        ('me:geheim@host', 'does not begin with amqp:// or amqps://'),
        ('amqp://me:geheim@', 'names no host'),
        ('amqp://me:geheim@host:port/v', 'is no URL'),
        ('amqp://me:geheim@host:99999/v', 'is no URL'),
        ('amqp://me:geh/eim@host/v', 'is no URL'),
        ('amqp://me:1/geheim@host', 'a character that must be quoted'),
        ('amqp://me:1?geheim@host', 'a character that must be quoted'),
        ('amqp://me:1?geheim=x@host', 'a character that must be quoted'),
        ('amqp://me:geheim@host/a/b', 'a character that must be quoted'),
        ('amqp://me:geheim@host/v#x', 'a character that must be quoted'),
        ('amqp://me:geheim@host/v?verify=no', 'unknown option verify; the options are cafile'),
        ('amqp://me:geheim@host/v?heartbeat=soon', 'heartbeat is a number of seconds from 1 to 3600'),
        ('amqp://me:geheim@host/v?connection_timeout=0', 'connection_timeout is a number of seconds from 1 to 3600'),
        (5, 'must be a URL, not a int'),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url, why):
    with pytest.raises(ConfigurationError, match=f'^broker.*{why}') as caught:
        address_of(url)
    assert 'geh' not in str(caught.value)
    with pytest.raises(ConfigurationError):
        Engine('sqlite:///unused.db', broker=url)


def test_files_for_tls_that_cannot_be_used(tmp_path):
    (tmp_path / 'odd.pem').write_text('no certificate')
    for option in (f'cafile={tmp_path}/missing.pem', f'cafile={tmp_path}/odd.pem', f'certfile={tmp_path}/odd.pem'):
        with pytest.raises(ConfigurationError, match=r'the files for TLS \(.*\) cannot be used'):
            address_of(f'amqps://host/v?{option}').tls()
    assert address_of('amqp://host').tls() is None


def test_it_never_shows_the_password():
    address = address_of('amqps://me:geheim@host:1/v')
    assert str(address) == 'amqps://me@host:1/v'
    assert 'geheim' not in repr(address) and 'geheim' not in f'{address} {[address]}'
