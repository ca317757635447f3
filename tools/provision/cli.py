"""The command ``tools/services``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .group import KINDS, Group
from .service import Service, ServiceError

_CHECKOUT = Path(__file__).resolve().parents[2]
#: Where the services of this checkout are.
FOLDER = _CHECKOUT / '.services'


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code, which is 1 when a service is not as it was to be."""
    options = _parser().parse_args(arguments)
    names = options.names or [kind.name for kind in KINDS]
    group = Group(options.folder)
    commands = {'up': _up, 'down': _down, 'status': _status, 'env': _env}
    return commands[options.command](group, names, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tools/services',
        description='Private services for trying Treadle and for its tests, on free ports of 127.0.0.1.',
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, words in {
        'up': 'install (as root, from Debian) and start services, and wait until each answers',
        'down': 'stop them; their data stay',
        'status': 'show which are up; exits with 1 when one of them is not',
        'env': 'print where those that are up can be reached: eval "$(tools/services env)"',
    }.items():
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument('names', metavar='NAME', nargs='*', type=_name, help=f'default: {_NAMES}')
        command.add_argument(
            '--folder', type=Path, default=FOLDER, help='where they keep what they need (default: %(default)s)'
        )
        if name == 'down':
            command.add_argument('--remove', action='store_true', help='remove their data, too')
            command.add_argument('--except', dest='spared', metavar='NAMES', default='', help='leave these as they are')
        if name == 'status':
            form = command.add_mutually_exclusive_group()
            form.add_argument('--json', action='store_true', help='for machines')
            form.add_argument('--running', action='store_true', help='only the names of those that are not down')
    return parser


_NAMES = ' '.join(kind.name for kind in KINDS)


def _name(text: str) -> str:
    if text not in _NAMES.split():
        raise argparse.ArgumentTypeError(f'there is no service {text!r}; there are: {_NAMES}')
    return text


def _up(group: Group, names: Sequence[str], options: argparse.Namespace) -> int:
    failed = False
    for name in names:
        began = time.monotonic()
        before = group[name].state
        try:
            was_up = group.up(name)
        except ServiceError as error:
            failed = True
            print(f'{name}: cannot be had: {error}', file=sys.stderr, flush=True)
            continue
        if was_up:
            did = 'was up'
        else:
            did = f'{"started again" if before == "crashed" else "started"} in {time.monotonic() - began:.1f} s'
        print(f'{name}: {did}, {_where(group[name])}', flush=True)
    return int(failed)


def _down(group: Group, names: Sequence[str], options: argparse.Namespace) -> int:
    failed = False
    spared = options.spared.split()
    for name in reversed([name for name in names if name not in spared]):
        try:
            stopped = group.down(name, remove=options.remove)
        except ServiceError as error:
            failed = True
            print(f'{name}: stopped, but: {error}', file=sys.stderr, flush=True)
            continue
        if stopped or name in options.names:
            print(f'{name}: {"stopped" if stopped else "was down"}', flush=True)
    for orphan in group.end_orphans():
        print(f'{orphan}: stopped and removed, since the tests that had it have ended', flush=True)
    return int(failed)


def _status(group: Group, names: Sequence[str], options: argparse.Namespace) -> int:
    rows = [_row(group[name]) for name in names]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.running:
        print(' '.join(row['name'] for row in rows if row['state'] != 'down'))
        return 0
    else:
        for row in rows:
            details = ', '.join(
                [
                    *(f'{variable}={value}' for variable, value in row['environment'].items()),
                    *(f'{daemon} is pid {pid}' for daemon, pid in row['pids'].items()),
                ]
            )
            print(f'{row["name"]:<10} {row["state"]:<8} {details}'.rstrip())
    return int(any(row['state'] != 'up' for row in rows))


def _row(service: Service) -> dict[str, Any]:
    state = service.state
    return {
        'name': service.name,
        'state': state,
        'environment': service.environment() if state == 'up' else {},
        'ports': service.ports,
        'pids': service.pids,
        'folder': str(service.folder),
    }


def _env(group: Group, names: Sequence[str], options: argparse.Namespace) -> int:
    missing = False
    for name in names:
        service = group[name]
        if service.state != 'up':
            missing = True
            print(f'{name}: {service.state}; start it with: tools/services up {name}', file=sys.stderr)
            continue
        for variable, value in service.environment().items():
            print(f'export {variable}={shlex.quote(value)}')
    return int(missing)


def _where(service: Service) -> str:
    return ', '.join(f'{name} {port}' for name, port in service.ports.items())
