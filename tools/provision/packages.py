"""Debian packages: found, and installed when root may do so."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Daemons are in the folders of the administrator, which a user's PATH may lack.
_ADMINISTRATOR = ('/usr/local/sbin', '/usr/sbin', '/sbin')

#: The PATH on which programs are looked for, and which services get.
PATH = os.pathsep.join([*os.get_exec_path(), *_ADMINISTRATOR])

# Debian asks this program before it starts a service that it has installed; 101 is no.
_POLICY = Path('/usr/sbin/policy-rc.d')
_NO = '#!/bin/sh\nexit 101\n'


def find(program: str) -> Path | None:
    """A program by its name on PATH, or by a pattern of its path, of which the highest version is taken."""
    if os.sep not in program:
        found = shutil.which(program, path=PATH)
        return None if found is None else Path(found)
    matches = [path for path in map(Path, glob.glob(program)) if os.access(path, os.X_OK)]
    return max(matches, key=_version, default=None)


def _version(path: Path) -> list[tuple[int, str]]:
    return [(int(part), '') if part.isdecimal() else (0, part) for part in path.parts]


def may_install() -> bool:
    """Whether this user can install packages here."""
    return os.geteuid() == 0 and find('apt-get') is not None


def install(packages: Sequence[str]) -> str | None:
    """Install packages without a question and without starting a service; returns why that failed, or None."""
    with _nothing_started():
        update = _apt_get('update')
        done = _apt_get('install', '-y', '--no-install-recommends', *packages)
    if done.returncode == 0:
        return None
    # Package lists that could not be refreshed do not matter as long as the packages are found in the old ones.
    errors = [line for line in (update.stderr + done.stderr).splitlines() if line.startswith(('E:', 'Err'))]
    return '; '.join(errors or [f'apt-get ended with {done.returncode}'])


def _apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
    print(f'== apt-get {" ".join(arguments)}', file=sys.stderr, flush=True)
    return subprocess.run(
        ['apt-get', '-qq', '-o', 'Dpkg::Use-Pty=0', '-o', 'DPkg::Lock::Timeout=300', *arguments],
        env={**os.environ, 'DEBIAN_FRONTEND': 'noninteractive', 'PATH': PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    if _POLICY.exists():  # the machine has its own policy
        yield
        return
    _POLICY.write_text(_NO)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
