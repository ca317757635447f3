"""``treadle computer``: the computers that jobs run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import StoreError, TransportError
from ..jobs.computer import SCHEDULERS, Computer
from ..jobs.known import define_computer, find_computer, known_computers
from ..jobs.options import LOCALHOST
from ..store.control import write_once
from ..store.jobs import count_jobs, forget_computer
from ..store.location import locate
from ..store.transaction import Transaction
from .completion import TextType
from .options import OpenStore, json_option, open_store, store_option
from .output import clean, write_json

if TYPE_CHECKING:
    from ..desk.checkup import Finding

__all__ = ['computer']

F = TypeVar('F', bound=Callable[..., Any])

#: How the fields of a computer are given on the command line, beside its name and transport.
_TEXTS = {
    'hostname': 'Its name or address, or a Host of the ssh configuration.',
    'user': 'The account there.',
    'key_filename': 'The private key to use.',
    'ssh_config': 'The ssh configuration to read instead of ~/.ssh/config.',
    'known_hosts': 'The file of host keys to read instead of ~/.ssh/known_hosts.',
    'work_directory': 'Where jobs get their folders; relative to the home directory. Default: treadle-jobs.',
    'shebang': 'The first line of job scripts.',
    'prepend_text': 'Shell commands before those of each job.',
    'mpirun_command': 'How to start MPI programs, with {tot_num_mpiprocs}.',
    'description': 'For people.',
}
_NUMBERS = {
    'port': (int, 'Of the ssh server.'),
    'max_jobs': (int, 'At most so many jobs in its queue and running.'),
    'max_queued': (int, 'At most so many jobs waiting to run.'),
    'poll_interval': (float, 'Seconds between two questions to the scheduler.'),
    'safe_interval': (float, 'Seconds between two openings of a connection.'),
    'default_mpiprocs_per_machine': (int, 'For jobs that do not say it.'),
}


class _Name(TextType):
    """The name of a computer that the store knows."""

    name = 'computer'

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Those that begin like that."""
        try:
            with open_store(ctx.params.get('store')) as opened:
                names = list(known_computers(opened.reader))
        except StoreError:
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _fields(command: F) -> F:
    for field, (kind, text) in reversed(_NUMBERS.items()):
        command = click.option(f'--{field.replace("_", "-")}', field, type=kind, help=text)(command)
    for field, text in reversed(_TEXTS.items()):
        command = click.option(f'--{field.replace("_", "-")}', field, help=text)(command)
    command = click.option('--scheduler', type=click.Choice(SCHEDULERS), help='Default: direct.')(command)
    return click.option(
        '--transport', type=click.Choice(('local', 'ssh')), help='Default: ssh with a hostname, else local.'
    )(command)


@click.group(short_help='Say which computers jobs run on, and try them.')
def computer() -> None:
    """Say which computers jobs run on, and try them."""


@computer.command(short_help='Define a computer, or define it anew.')
@click.argument('name', required=False)
@click.option(
    '--from',
    'file',
    metavar='FILE',
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='A TOML file with a table for each computer; without NAME, all of them.',
)
@_fields
@store_option
def add(name: str | None, file: Path | None, store: str | None, **fields: Any) -> None:
    """Define a computer, or define it anew; `treadle computer test NAME` tries it.

    The store is made if there is none.
    """
    given = {field: value for field, value in fields.items() if value is not None}
    if name is None and file is None:
        raise click.UsageError('give the NAME of the computer, or a file with --from')
    chosen = _chosen(name, file, given)
    location = locate(store)
    location.ensure_schema()
    for each in chosen:
        write_once(location, _defining(each))
        click.echo(f'computer {each.name} is known; `treadle computer test {each.name}` tries it')


def _chosen(name: str | None, file: Path | None, given: dict[str, Any]) -> list[Computer]:
    if file is None:
        if 'transport' not in given and 'hostname' in given:
            given['transport'] = 'ssh'
        return [Computer.from_dict({'name': name, **given})]
    found = Computer.from_toml(file)
    if name is None:
        if given:
            raise click.UsageError('fields can be added to one computer of a file only; give its NAME')
        return list(found.values())
    if name not in found:
        raise click.UsageError(f'{file} defines no computer {name!r}; it has {", ".join(found) or "none"}')
    return [dataclasses.replace(found[name], **given)]


def _defining(each: Computer) -> Callable[[Transaction], None]:
    return lambda transaction: define_computer(transaction, each)


@computer.command('list', short_help='List the computers and how many jobs they have.')
@json_option
@store_option
def list_(as_json: bool, store: str | None) -> None:
    """List the computers, and how many jobs live there."""
    with open_store(store) as opened:
        known = known_computers(opened.reader)
        counts = opened.reader.job_counts()
        rows = [_data(opened, each, counts) for each in known.values()]
    if as_json:
        write_json(rows)
        return
    for row in rows:
        where = row['hostname'] or 'this machine'
        jobs = ', '.join(f'{count} {state}' for state, count in row['jobs'].items()) or 'no jobs'
        trouble = f'; cannot be reached: {clean(row["trouble"])}' if row['trouble'] else ''
        click.echo(f'{row["name"]}: {row["scheduler"]} on {where}, {jobs}{trouble}')


def _data(opened: OpenStore, each: Computer, counts: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    jobs = {state: count for name, state, count in counts if name == each.name}
    return {
        **dataclasses.asdict(each),
        'jobs': dict(sorted(jobs.items())),
        'trouble': opened.reader.computer_note(each.name),
    }


@computer.command(short_help='Show how a computer is defined.')
@click.argument('name', type=_Name())
@json_option
@store_option
def show(name: str, as_json: bool, store: str | None) -> None:
    """Show how a computer is defined."""
    with open_store(store) as opened:
        data = _data(opened, find_computer(opened.reader, name), opened.reader.job_counts())
    if as_json:
        write_json(data)
        return
    width = max(map(len, data))
    for field, value in data.items():
        if value not in (None, '', {}):
            click.echo(f'{field:<{width}}  {clean(str(value))}')


@computer.command(short_help='Forget a computer.')
@click.argument('name', type=_Name())
@store_option
def remove(name: str, store: str | None) -> None:
    """Forget a computer; not while jobs of it live."""
    with open_store(store) as opened:
        find_computer(opened.reader, name)
        if name == LOCALHOST.name and name not in opened.reader.computers():
            raise click.ClickException(f'{name} is always there, and cannot be removed')
        live = write_once(opened.location, lambda transaction: _forget(transaction, name))
    if live:
        raise click.ClickException(
            f'computer {name} has {live} job(s) that live; wait for them, or kill their processes'
        )
    click.echo(f'computer {name} is forgotten')


def _forget(transaction: Transaction, name: str) -> int:
    live = count_jobs(transaction, name)
    if not live:
        forget_computer(transaction, name)
    return live


@computer.command(short_help='Try a computer: connection, scheduler, work directory, clock.')
@click.argument('name', type=_Name())
@json_option
@store_option
@click.pass_context
def test(context: click.Context, name: str, as_json: bool, store: str | None) -> None:
    """Try a computer: its connection, scheduler, work directory and clock; says what is wrong.

    Ends with 1 when something is.
    """
    with open_store(store) as opened:
        chosen = find_computer(opened.reader, name)
    findings = _try(chosen)
    if as_json:
        write_json([{'what': each.what, 'problem': each.problem, 'note': each.note} for each in findings])
    else:
        for each in findings:
            word = 'ok  ' if each.problem is None else 'BAD '
            click.echo(f'{word} {each.what}: {clean(each.problem or each.note or "fine")}')
    if any(each.problem for each in findings):
        context.exit(1)


def _try(chosen: Computer) -> list[Finding]:
    # What speaks with computers takes longer to import than all other commands need.
    from ..desk.checkup import Finding, examine  # noqa: PLC0415
    from ..transports import ConnectionAuthority  # noqa: PLC0415

    findings = []
    with ConnectionAuthority() as connections:
        try:
            lease = connections.lease(chosen.connection).result()
        except TransportError as error:
            return [Finding('connection', f'{error}')]
        try:
            findings.append(Finding('connection', note=chosen.hostname or 'this machine'))
            findings.extend(examine(chosen, lease.blocking))
        except TransportError as error:
            findings.append(Finding('connection', f'{error}'))
        finally:
            lease.release()
    return findings
