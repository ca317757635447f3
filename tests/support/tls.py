"""Certificates, as docs/deployment.rst has them made, and a PostgreSQL server that has one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CURVE = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']


def openssl(*arguments: object, folder: Path) -> None:
    subprocess.run(['openssl', *map(str, arguments)], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope='session')
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


@pytest.fixture(scope='session')
def tls_settings(certificates: Path) -> dict[str, str]:
    """The settings of a PostgreSQL server that takes TLS, with the certificate for 127.0.0.1."""
    key = certificates / 'postgres.key'
    shutil.copy(certificates / 'server.key', key)
    key.chmod(0o600)
    if os.getuid() == 0:
        os.chown(key, pwd.getpwnam('postgres').pw_uid, -1)
    return {'ssl': 'on', 'ssl_cert_file': str(certificates / 'server.crt'), 'ssl_key_file': str(key)}
