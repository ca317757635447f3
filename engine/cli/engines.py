"""Who runs a process: an engine's row, and whether it lives as far as that can be told from here."""

from __future__ import annotations

from typing import Any

from ..store.liveness import lives
from ..store.records import EngineRecord
from .options import OpenStore
from .output import iso

__all__ = ['describe_engine', 'engine_data', 'is_alive']


def is_alive(store: OpenStore, engine: EngineRecord) -> bool | None:
    """Whether the engine lives; ``None`` when it cannot be told, as for one of another host."""
    return lives(store.location, engine)


def engine_data(store: OpenStore, engine_id: int | None) -> dict[str, Any] | None:
    """An engine as plain data; ``None`` when there is none."""
    engine = None if engine_id is None else store.reader.engine(engine_id)
    if engine is None:
        return None
    return {
        'id': engine.id,
        'name': engine.name,
        'host': engine.host,
        'os_pid': engine.os_pid,
        'script': engine.script,
        'started_at': iso(engine.started_at),
        'ended': engine.ended,
        'alive': is_alive(store, engine),
        'lease': engine.lease,
        'heartbeat_at': None if engine.beat_at is None else iso(engine.beat_at),
    }


def describe_engine(engine: dict[str, Any]) -> str:
    """An engine in a line."""
    return (
        f'{engine["id"]} ({engine["name"]!r}) on {engine["host"]}, OS process {engine["os_pid"]}: '
        f'{_condition(engine)}'
    )


def _condition(engine: dict[str, Any]) -> str:
    if engine['ended'] is not None:
        return str(engine['ended'])
    if engine['alive'] is None:
        return 'it cannot be told from here whether it lives'
    return 'alive' if engine['alive'] else 'dead'
