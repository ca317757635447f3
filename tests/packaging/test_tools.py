"""The set-up scripts, where they can go wrong: no Python, an old one, no venv, a run that tested nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for PATH that holds what the scripts need, and no Python."""
    folder = tmp_path / 'a path'
    folder.mkdir()
    for name in ('bash', 'basename', 'cat', 'id', 'rm'):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def library(commands: Path, call: str) -> subprocess.CompletedProcess[str]:
    """Source tools/venv.sh with `commands` as the whole PATH, then run `call`."""
    return subprocess.run(
        ['bash', '-c', f'. "$1"; {call}', 'tools/test', CHECKOUT / 'tools' / 'venv.sh'],
        env={'PATH': str(commands)},
        executable=shutil.which('bash'),
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_no_python_is_an_error_that_says_what_to_install(commands):
    done = library(commands, 'find_python')
    assert done.returncode == 1
    assert done.stdout == ''
    assert 'needs Python >= 3.11' in done.stderr
    assert 'apt-get install python3 python3-venv' in done.stderr


def test_an_old_python3_is_passed_over(commands):
    executable(commands / 'python3', '#!/bin/sh\nexit 1\n')
    executable(commands / 'python3.12', f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    done = library(commands, 'find_python')
    assert (done.returncode, done.stderr) == (0, '')
    assert os.path.samefile(done.stdout.strip(), sys.executable)


def test_python3_is_preferred(commands):
    executable(commands / 'python3', '#!/bin/sh\necho "/the/chosen one"\n')
    executable(commands / 'python3.12', f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    assert library(commands, 'find_python').stdout == '/the/chosen one\n'


# A Python of Debian's without python3-venv: it can say its version, and has no ensurepip.
BARE_PYTHON = """\
#!/bin/sh
case "$*" in
    *ensurepip*) exit 1 ;;
    *version_info*) echo python3.11-venv ;;
    *) echo "not to be called: $*" >&2; exit 2 ;;
esac
"""


def test_without_venv_and_without_root_the_missing_line_is_printed(commands, tmp_path):
    python = executable(tmp_path / 'python3', BARE_PYTHON)
    done = library(commands, f'id() {{ echo 1000; }}; create_venv "{python}" "{tmp_path}/venv"')
    assert done.returncode == 1
    assert 'sudo apt-get install python3.11-venv' in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_without_venv_root_installs_it(commands, tmp_path):
    python = executable(tmp_path / 'python3', BARE_PYTHON)
    executable(commands / 'apt-get', f'#!/bin/sh\necho "$*" >>"{tmp_path}/asked"\n[ "$1" = install ]\n')
    done = library(commands, f'id() {{ echo 0; }}; create_venv "{python}" "{tmp_path}/venv"')
    update, install = (tmp_path / 'asked').read_text().splitlines()
    assert update.startswith('update')
    assert install.endswith('python3.11-venv')
    # The package lists that are there are used when they cannot be refreshed; the venv is then made.
    assert 'trying with the package lists that are there' in done.stderr
    assert f'not to be called: -m venv --clear {tmp_path}/venv' in done.stderr


@pytest.mark.parametrize(
    ('words', 'status', 'expected'),
    [
        ('3 passed in 1.0s', 0, 0),
        ('1 failed, 3 passed', 1, 1),
        ('cannot install', 3, 3),
        ('no tests ran in 0.01s', 0, 1),
        ('12 skipped in 0.1s', 0, 1),
        ('0 passed', 0, 1),
    ],
)
def test_ci_passes_on_the_status_and_refuses_a_run_without_tests(tmp_path, words, status, expected):
    for folder in ('.ci', 'tools'):
        (tmp_path / folder).mkdir()
    run = shutil.copy(CHECKOUT / '.ci' / 'run', tmp_path / '.ci' / 'run')
    executable(tmp_path / 'tools' / 'test', f'#!/bin/sh\necho "{words}"\nexit {status}\n')
    done = subprocess.run([run], capture_output=True, text=True, timeout=30)
    assert done.returncode == expected
    assert words in done.stdout


@pytest.mark.parametrize('script', ['.ci/run', 'tools/test', 'tools/demo', 'tools/venv.sh'])
def test_scripts_are_valid_and_name_no_registry(script):
    path = CHECKOUT / script
    subprocess.run(['bash', '-n', path], check=True, timeout=30)
    text = path.read_text()
    assert '://' not in text.replace('sqlite:///', '')
    assert 'index-url' not in text
    if script != 'tools/venv.sh':
        assert os.access(path, os.X_OK)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ('suite', 'options'),
    [('core', ['--processes', '50', '--rounds', '1']), ('control', ['--intents', '3', '--waiting', '50'])],
)
def test_the_benchmarks_measure_and_check_what_was_written(suite: str, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / 'tools' / 'benchmarks' / f'{suite}.py', '--json', *options],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) >= 6 and all(row['treadle'] >= 0 for row in rows)


@pytest.mark.soak  # it starts services of its own, and has two workers run for each kind of store
@pytest.mark.timeout(180)
def test_the_benchmark_of_scale_measures_on_services_of_its_own(services: Any) -> None:
    for name in ('postgres', 'rabbitmq'):
        services.ready(name)
    options = ['--processes', '40', '--rounds', '1', '--calls', '5', '--messages', '20', '--idle', '0.2']
    done = subprocess.run(
        [sys.executable, CHECKOUT / 'tools' / 'benchmarks' / 'scale.py', '--json', *options],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) >= 15 and all(row['treadle'] > 0 for row in rows)
    assert sum('work chains' in row['name'] for row in rows) == 3
