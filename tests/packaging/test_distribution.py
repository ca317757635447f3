"""What a user gets: the installed wheel, compared with what setup.cfg promises and the checkout holds."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ('engine', 'threads')
# import name -> distribution, for all that Treadle may import beside the standard library
ALLOWED_IMPORTS = {
    'alembic': 'alembic',
    'click': 'click',
    'disk_objectstore': 'disk-objectstore',
    'janus': 'janus',
    'kiwipy': 'kiwipy',
    'msgspec': 'msgspec',
    'paramiko': 'paramiko',
    'platformdirs': 'platformdirs',
    'psycopg': 'psycopg',
    'qtoolkit': 'qtoolkit',
    'rich': 'rich',
    'sqlalchemy': 'sqlalchemy',
}
# used where the user has it; and what kiwipy[rmq] rests on, which comes with it
OPTIONAL_IMPORTS = {'numpy', 'aio_pika', 'aiormq', 'yaml'}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / 'setup.cfg', encoding='utf-8')
    return parser


def installed_files() -> set[str]:
    files = metadata.files('treadle')
    assert files is not None
    return {str(file) for file in files if '__pycache__' not in file.parts}


def test_the_wheel_holds_every_module_and_nothing_else():
    expected = {
        str(PurePosixPath('treadle', path.relative_to(CHECKOUT).as_posix()))
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob('*')
        if path.name == 'py.typed' or path.suffix == '.py'
    }
    outside = {file for file in installed_files() if not re.match(r'treadle-[^/]*\.dist-info/', file)}
    scripts = {file for file in outside if PurePosixPath(file).name == 'treadle'}
    assert outside - scripts == expected
    assert len(scripts) == 1


def test_every_subpackage_is_listed():
    on_disk = {
        '.'.join(('treadle', *path.parent.relative_to(CHECKOUT).parts))
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob('__init__.py')
    }
    assert set(setup_cfg()['options']['packages'].split()) == on_disk


def test_the_version_stands_in_one_place():
    version = setup_cfg()['metadata']['version']
    assert metadata.version('treadle') == version
    elsewhere = [
        str(path.relative_to(CHECKOUT))
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob('*.py')
        if re.search(rf'[\'"]{re.escape(version)}[\'"]', path.read_text(encoding='utf-8'))
    ]
    assert elsewhere == []


def test_each_runtime_dependency_has_its_reason_beside_it():
    lines = (CHECKOUT / 'setup.cfg').read_text(encoding='utf-8').splitlines()
    first = lines.index('install_requires =') + 1
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith('    '))
    block = [line.strip() for line in lines[first:last]]
    names = []
    for above, line in zip(['', *block], block, strict=False):
        if not line.startswith('#'):
            assert above.startswith('# '), f'{line} has no reason above it'
            names.append(re.split(r'[<>=!~\[; ]', line)[0].lower())
    assert sorted(names) == sorted(ALLOWED_IMPORTS.values())


@pytest.mark.parametrize('package', PACKAGES)
def test_only_declared_dependencies_are_imported(package):
    undeclared = set()
    for path in (CHECKOUT / package).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                names = [node.module]
            for name in names:
                root = name.split('.')[0]
                if root not in sys.stdlib_module_names | ALLOWED_IMPORTS.keys() | OPTIONAL_IMPORTS:
                    undeclared.add(f'{path.relative_to(CHECKOUT)}: {name}')
    assert undeclared == set()


def test_importing_the_engine_imports_nothing_heavy():
    heavy = ['sqlalchemy', 'alembic', 'rich', 'disk_objectstore', 'numpy', 'kiwipy', 'paramiko', 'psycopg']
    program = f'import sys, treadle.engine; print([name for name in {heavy!r} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-P', '-c', program], capture_output=True, text=True, timeout=30)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')


def test_generic_names_do_not_reach_the_host(tmp_path):
    program = (
        'import importlib.util as u, treadle\n'
        'print(u.find_spec("engine"), u.find_spec("threads"), getattr(treadle, "__file__", None))'
    )
    done = subprocess.run(
        [sys.executable, '-P', '-c', program], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.strip(), done.stderr) == ('None None None', '')


def test_the_command_is_installed():
    (script,) = metadata.entry_points(group='console_scripts', name='treadle')
    assert script.value == 'treadle.engine.cli:main'
    assert callable(script.load())
