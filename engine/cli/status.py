"""``treadle status``: the store, the engines on it, and how many processes stand where."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from ..states import ProcessState
from .engines import engine_data
from .options import OpenStore, json_option, open_store, store_option
from .output import clean, heading, iso, write_json

__all__ = ['status']


@click.command(short_help='Say which engines live on the store, and count its processes.')
@json_option
@store_option
def status(as_json: bool, store: str | None) -> None:
    """Say which engines live on the store, and how many processes it holds in which state."""
    with open_store(store) as opened:
        data = _as_data(opened)
    if as_json:
        write_json(data)
        return
    click.echo(heading(f'Store {clean(data["store"])}, {_size(data["size"])}'))
    if data['retired'] is not None:
        moved_to = clean(data['retired']['moved_to']) or 'another store'
        click.echo(f'  retired      {data["retired"]["at"]}: what was in it has moved to {moved_to}')
    counts = [f'{count} {state}' for state, count in data['processes'].items() if count]
    click.echo(f'  processes    {", ".join(counts) or "none"}')
    if data['paused']:
        click.echo(f'  paused       {data["paused"]}')
    if data['runnable']:
        click.echo(f'  runnable     {data["runnable"]} that no engine has claimed')
    for engine in data['engines']:
        lives = {True: 'alive', False: 'dead', None: 'it cannot be told from here whether it lives'}[engine['alive']]
        click.echo(
            f'  engine       {engine["id"]} ({clean(engine["name"])!r}) on {clean(engine["host"])}, OS process '
            f'{engine["os_pid"]}: {lives}, runs {engine["runs"]}'
        )
    if not data['engines']:
        click.echo('  engine       none')


def _as_data(store: OpenStore) -> dict[str, Any]:
    reader, retired = store.reader, store.reader.retirement()
    counts: Counter[str] = Counter({str(state): 0 for state in ProcessState})
    paused = 0
    for state, is_paused, count in reader.counts():
        counts[state] += count
        paused += count if is_paused else 0
    owned = reader.owned_counts()
    engines = [engine_data(store, engine.id) for engine in reader.live_engines()]
    return {
        'store': store.location.url,
        'size': store.location.size(),
        'retired': None if retired is None else {'at': iso(retired.at), 'moved_to': retired.moved_to},
        'processes': dict(counts),
        'paused': paused,
        'runnable': reader.runnable_count(),
        'engines': [{**each, 'runs': owned.get(each['id'], 0)} for each in engines if each is not None],
    }


def _size(count: int) -> str:
    return f'{count / 1024:.0f} KiB' if count < 2**20 else f'{count / 2**20:.1f} MiB'
