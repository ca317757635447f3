"""TLS to the database and to the broker as docs/deployment.rst has it: with its commands, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision import ports

pytestmark = pytest.mark.timeout(120)


def refused(done: Any, *parts: str) -> None:
    assert (done.returncode, done.stdout) == (1, ''), done
    assert done.stderr.startswith('treadle: ') and done.stderr.count('\n') == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_postgresql(
    treadle: Any, make_postgres: Callable[..., Any], certificates: Path, tls_settings: dict[str, str]
) -> None:
    server = make_postgres(settings=tls_settings)
    url = f'{server.url()}?sslmode=verify-full&sslrootcert={certificates}'
    place = f'127.0.0.1:{server.port}'
    assert treadle('status', store=f'{url}/ca.crt').stderr.count('is empty') == 1
    refused(treadle('status', store=f'{url}/other.crt'), f'TLS to the PostgreSQL server at {place} failed', 'verify')
    refused(treadle('status', store=f'{url}/no.crt'), place, 'no.crt', 'does not exist', 'sslrootcert')
    named = f'{url}/ca.crt&hostaddr=127.0.0.1'.replace('@127.0.0.1', '@database.example')
    refused(treadle('status', store=named), 'does not match host name "database.example"')


def test_rabbitmq(
    treadle: Any, make_rabbitmq: Callable[..., Any], certificates: Path, tmp_path: Path
) -> None:
    (port,) = ports.choose(1)
    files = {'cacertfile': 'ca.crt', 'certfile': 'server.crt', 'keyfile': 'server.key'}
    make_rabbitmq(
        settings={
            'listeners.ssl.1': f'127.0.0.1:{port}',
            **{f'ssl_options.{name}': str(certificates / file) for name, file in files.items()},
        }
    )

    def start(url: str) -> Any:
        # With a store that cannot be had the command ends, whatever the broker says; it is asked second.
        return treadle('worker', store=f'sqlite:///{tmp_path}/store.db', env={'TREADLE_BROKER': url})

    url = f'amqps://guest:guest@127.0.0.1:{port}/'
    refused(start(f'{url}?cafile={certificates}/other.crt'), f'127.0.0.1:{port}', 'TLS fails', 'cafile')
    refused(start(url), f'127.0.0.1:{port}', 'TLS fails', 'cafile')
    refused(start(f'{url}?cafile={certificates}/no.crt'), 'no.crt', 'No such file')
    refused(start(url.replace('amqps:', 'amqp:')), f'127.0.0.1:{port}', 'amqps://')
    refused(start(f'{url}nowhere?cafile={certificates}/ca.crt'), "virtual host 'nowhere'", 'add_vhost')
