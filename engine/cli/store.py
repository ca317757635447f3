"""``treadle store``: moving, copying, upgrading and closing a store as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ..store.location import locate
from .options import patiently, store_option, wait_option, without_password
from .output import clean

if TYPE_CHECKING:
    from ..store.moving import Cut, Moved

__all__ = ['store']

NEEDS_UPGRADE: Final = 1

_UNITS: Final = ('bytes', 'KiB', 'MiB', 'GiB', 'TiB')


@click.group(short_help='Move, copy, upgrade or close a store as a whole.')
def store() -> None:
    """Move, copy, upgrade or close a store as a whole."""


@store.command(name='export', short_help='Write all that a store holds into one file.')
@click.argument('file', type=click.Path())
@click.option('--retire', is_flag=True, help='Close the store for good first, so that all goes on in another one.')
@click.option(
    '--to',
    'moved_to',
    metavar='URL',
    callback=without_password,
    help='With --retire: the other store, for whoever still comes here.',
)
@store_option
def export_command(file: str, retire: bool, moved_to: str | None, store: str | None) -> None:
    """Write all that a store holds into FILE: processes in every state, logs, files, keys.

    Engines may be at work; the file shows one moment. To move the store, add --retire: from then on it takes nothing
    any more, its engines end, and nothing is lost or run twice when the file is imported elsewhere.
    """
    # SQLAlchemy takes long to import.
    from ..store import moving  # noqa: PLC0415

    if moved_to is not None and not retire:
        raise click.UsageError('--to says where a store has moved to that is closed with --retire')
    destination = '' if moved_to is None else locate(moved_to).url
    location = locate(store)
    closed = False

    def close() -> None:
        nonlocal closed
        for each in moving.retire(location, destination):
            _tell_cut(each)
        closed = True

    try:
        done = moving.export_store(location, file, first=close if retire else None)
    except BaseException:
        if closed:
            click.echo(
                'treadle: the store is retired and the file is not written; run this again once that can be done, or '
                'take the store back with `treadle store reopen`',
                err=True,
            )
        raise
    click.echo(f'{_sentence(done)} in {file}{"" if done.retired else "; the store goes on"}')


def _tell_cut(engine: Cut) -> None:
    click.echo(
        f'treadle: engine {engine.id} ({clean(engine.name)!r}) on {clean(engine.host)}, OS process {engine.os_pid}, '
        f'is cut off; steps that it executes begin anew in the other store',
        err=True,
    )


@store.command(name='import', short_help='Fill a new store from a file that was exported.')
@click.argument('file', type=click.Path())
@click.option('--copy', 'copies', is_flag=True, help='Take also what a store had that was not retired.')
@store_option
def import_command(file: str, copies: bool, store: str | None) -> None:
    """Fill a new store with all that FILE has, which `treadle store export` has written.

    The store is made if need be, and must hold nothing. It gets all or nothing. What is unfinished goes on when an
    engine runs it here.
    """
    # SQLAlchemy takes long to import.
    from ..store import moving  # noqa: PLC0415

    location = locate(store)
    done = moving.import_store(location, file, copies=copies)
    click.echo(f'{_sentence(done)} in {location.url}')


def _sentence(done: Moved) -> str:
    return (
        f'processes: {done.processes} ({done.unfinished} unfinished), large contents: {done.objects} '
        f'({_size(done.bytes)}),'
    )


def _size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f'{count:.{min(unit, 1)}f} {_UNITS[unit]}'


@store.command(short_help='Take a retired store back into use.')
@click.option('--yes', is_flag=True, help='What was in it is in no other store.')
@store_option
def reopen(yes: bool, store: str | None) -> None:
    """Take a store back into use that was closed by `treadle store export --retire`.

    Only if what was exported was imported nowhere, or is gone there: else what is unfinished runs in both.
    """
    # SQLAlchemy takes long to import.
    from ..store import moving  # noqa: PLC0415

    if not yes:
        raise click.UsageError('what is unfinished would run twice if it is in another store by now; if not, add --yes')
    location = locate(store)
    was_retired = moving.reopen(location)
    click.echo(f'{location.url} is in use again' if was_retired else f'{location.url} was not retired')


@store.command(short_help='Bring a store of an older Treadle to the schema of this one.')
@click.option('--check', is_flag=True, help='Only say whether there is something to do; exit code 1 if so.')
@wait_option
@store_option
@click.pass_context
def upgrade(context: click.Context, check: bool, wait: float | None, store: str | None) -> None:
    """Bring a store of an older Treadle to the schema of this one, in one transaction.

    Engines of the older Treadle have to be stopped only if they would not understand what comes out; it says so then.
    """
    # Alembic takes long to import.
    from ..store import upgrading  # noqa: PLC0415

    location = locate(store)
    plan = patiently(wait, lambda: upgrading.plan_upgrade(location))
    if not check:
        plan = upgrading.upgrade_store(location)
        click.echo(
            f'{location.url} is at revision {plan.steps[-1]} of the schema, and was at {plan.revision}'
            if plan.steps
            else f'{location.url} is at revision {plan.revision} of the schema, which is ours'
        )
        return
    if not plan.steps:
        click.echo(f'{location.url} is at revision {plan.revision} of the schema, which is ours')
        return
    engines = 'engines may stay at work' if plan.beside_engines else 'stop the engines on it first'
    click.echo(
        f'{location.url} is at revision {plan.revision} of the schema, and ours is {plan.steps[-1]}: '
        f'`treadle store upgrade` brings it there; {engines}'
    )
    context.exit(NEEDS_UPGRADE)
