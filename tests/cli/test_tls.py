"""TLS to the database and to the broker as docs/deployment.rst has it: with its commands, and what they refuse."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision import ports

CURVE = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

pytestmark = pytest.mark.timeout(120)


def openssl(*arguments: object, folder: Path) -> None:
    subprocess.run(['openssl', *map(str, arguments)], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope='module')
def certificates() -> Iterator[Path]:
    """A folder with an authority (ca), another one (other), and a certificate of the first for 127.0.0.1 (server)."""
    if shutil.which('openssl') is None:
        pytest.skip('no openssl here')
    # Not in pytest's own folder: the database server may be another user, who cannot get in there.
    folder = Path(tempfile.mkdtemp(prefix='treadle-tls-'))
    folder.chmod(0o755)
    for name in ('ca', 'other'):
        openssl('req', '-x509', *CURVE, '-days', 2, '-subj', f'/CN=Treadle {name}', '-keyout', f'{name}.key',
                '-out', f'{name}.crt', folder=folder)  # fmt: skip
    names = 'subjectAltName=IP:127.0.0.1'
    openssl('req', *CURVE, '-subj', '/CN=server', '-addext', names, '-keyout', 'server.key', '-out', 'server.csr',
            folder=folder)  # fmt: skip
    openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', 2,
            '-copy_extensions', 'copy', '-out', 'server.crt', folder=folder)  # fmt: skip
    yield folder
    shutil.rmtree(folder)


def refused(done: Any, *parts: str) -> None:
    assert (done.returncode, done.stdout) == (1, ''), done
    assert done.stderr.startswith('treadle: ') and done.stderr.count('\n') == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_postgresql(treadle: Any, make_postgres: Callable[..., Any], certificates: Path) -> None:
    key = certificates / 'postgres.key'
    shutil.copy(certificates / 'server.key', key)
    key.chmod(0o600)
    if os.getuid() == 0:
        os.chown(key, pwd.getpwnam('postgres').pw_uid, -1)
    server = make_postgres(
        settings={'ssl': 'on', 'ssl_cert_file': str(certificates / 'server.crt'), 'ssl_key_file': str(key)}
    )
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
