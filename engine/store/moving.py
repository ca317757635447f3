"""Moving what a store holds: out into an archive, in from one, and closing a store whose contents have moved.

Driven by the tables of :mod:`.schema`, so that what they come to hold is taken along. An archive is one moment of a
store, whatever its engines do meanwhile. It is read in all at once or not at all, into a store that holds nothing;
there no engine of the old store owns anything, and the epochs are higher than what any of them knows.

That a process runs in one store only is what :func:`retire` is for: from its commit on nothing is written to the old
store any more, so an archive that is made afterwards has everything, and nothing of it goes on there.

Imports SQLAlchemy, so commands import this only when they run.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from ..errors import BadArchive, StoreError, StoreTooNew
from ..states import TERMINAL_STATES
from ..values import ObjectStore
from .archive import Archive, ArchiveWriter, Row
from .contents import Contents
from .location import StoreLocation
from .migrations import HEAD
from .records import storable
from .schema import STAYS, counter, engine, metadata, process, retirement

__all__ = ['Cut', 'Moved', 'export_store', 'import_store', 'reopen', 'retire']

#: Rows that are read or written at once.
_PAGE: Final = 500


class Moved(msgspec.Struct, frozen=True):
    """What was written, or read in.

    :ivar processes: how many, and how many ``unfinished`` ones among them, which have not ended.
    :ivar objects: how many large contents, and ``bytes`` of them.
    :ivar retired: whether the store that they are of was closed for good before.
    """

    processes: int
    unfinished: int
    objects: int
    bytes: int
    retired: bool


class Cut(msgspec.Struct, frozen=True):
    """An engine that was at work when its store was retired."""

    id: int
    name: str
    host: str
    os_pid: int


def _moving() -> list[sa.Table]:
    return [table for table in metadata.sorted_tables if not table.info.get(STAYS)]


# -- out ---------------------------------------------------------------------------------------------------


def export_store(
    location: StoreLocation, path: str | PathLike[str], *, first: Callable[[], object] | None = None
) -> Moved:
    """Write what a store holds at one moment into an archive; engines may be at work.

    :param path: a file that is not there yet.
    :param first: called when the file has been begun, before anything is read: there the store may be retired.
    :raises StoreError: the store cannot be read.
    :raises BadArchive: the archive cannot be written; nothing of it is left then.
    """
    with ArchiveWriter(path, revision=HEAD) as archive:
        if first is not None:
            first()
        contents = location.contents()
        with contents.snapshot() as connection:
            archive.retired = _is_retired(connection)
            unfinished = _count_unfinished(connection)
            rows = {table.name: _write(contents, connection, table, archive) for table in _moving()}
        # After the rows, since what they name was durable before they were. Contents never change and never go, so the
        # snapshot, which keeps the database from cleaning up behind its engines, need not last for them.
        sizes = []
        with contextlib.closing(location.objects()) as objects:
            for sha256 in sorted(objects.hashes()):
                with contextlib.closing(objects.open(sha256)) as stream:
                    sizes.append(archive.write_object(sha256, stream))
    return Moved(
        processes=rows[process.name],
        unfinished=unfinished,
        objects=len(sizes),
        bytes=sum(sizes),
        retired=archive.retired,
    )


def _write(contents: Contents, connection: sa.Connection, table: sa.Table, archive: ArchiveWriter) -> int:
    number = 0 if table.autoincrement_column is None else contents.last_number(connection, table)
    return archive.write_table(table.name, _read(connection, table), last_number=number)


def _read(connection: sa.Connection, table: sa.Table) -> Iterator[Row]:
    query = sa.select(table).order_by(*table.primary_key.columns)
    for row in connection.execute(query.execution_options(yield_per=_PAGE)).mappings():
        yield dict(row)


def _is_retired(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(retirement.c.at)).first() is not None


def _count_unfinished(connection: sa.Connection) -> int:
    query = sa.select(sa.func.count()).select_from(process).where(process.c.state.not_in(sorted(TERMINAL_STATES)))
    return int(connection.execute(query).scalar_one())


# -- in ----------------------------------------------------------------------------------------------------


def import_store(location: StoreLocation, path: str | PathLike[str], *, copies: bool = False) -> Moved:
    """Fill a store, which holds nothing or is not there yet, with what an archive has: all of it or nothing.

    :param copies: take also what a store has that was not retired before, and whose processes may go on there as well.
    :raises BadArchive: the archive is none, is damaged, or was made of a store that was not retired.
    :raises StoreTooNew: a newer Treadle made the archive.
    :raises StoreError: the store holds something, or cannot be written.
    """
    with Archive(path) as archive:
        _check(archive, copies)
        location.ensure_schema()
        contents = location.contents()
        with contents.snapshot() as connection:
            _refuse_what_is_filled(location, connection)
        with contextlib.closing(location.objects()) as objects:
            _copy_objects(objects, archive)
        with contents.alone() as connection:
            _refuse_what_is_filled(location, connection)
            connection.execute(sa.delete(counter))
            for table in _moving():
                _load(contents, connection, table, archive)
            unfinished = _take_from_engines(connection)
        manifest = archive.manifest
        return Moved(
            processes=manifest.tables[process.name].rows,
            unfinished=unfinished,
            objects=manifest.objects.count,
            bytes=manifest.objects.bytes,
            retired=manifest.retired,
        )


def _check(archive: Archive, copies: bool) -> None:
    manifest = archive.manifest
    if manifest.revision > HEAD:
        raise StoreTooNew(
            f'{archive.path} has the revision {manifest.revision} of the schema, which a newer Treadle made; this one '
            f'knows revisions up to {HEAD}. Upgrade Treadle (pip install --upgrade treadle)'
        )
    if manifest.revision < HEAD:
        raise BadArchive(
            f'{archive.path} has the revision {manifest.revision} of the schema, and ours is {HEAD}; import it with '
            f'the Treadle that made it, upgrade that store (treadle store upgrade), and export again'
        )
    if set(manifest.tables) != {table.name for table in _moving()}:
        raise BadArchive(f'{archive.path} has other tables than revision {HEAD} of the schema; export again')
    if not manifest.retired and not copies:
        raise BadArchive(
            f'{archive.path} was made of a store that was not retired, so what is unfinished in it would run here and '
            f'there. Move with `treadle store export --retire`; or, if that store is gone or this is to be a copy, '
            f'import it with --copy'
        )


def _refuse_what_is_filled(location: StoreLocation, connection: sa.Connection) -> None:
    # First what says most. A counter has its rows from the beginning, and means nothing as long as there is no process.
    tables = dict.fromkeys((process, engine, *_moving(), retirement))
    for table in (each for each in tables if each is not counter):
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            raise StoreError(
                f'the store {location} is not empty: it has rows in its table {table.name!r}. What is imported goes '
                f'into a store that nothing has ever used; name another one'
            )


def _copy_objects(objects: ObjectStore, archive: Archive) -> None:
    # Before the rows that name them. If that is all that comes to pass, they stand in nobody's way.
    for sha256, _ in archive.objects():
        if not objects.has(sha256):
            with archive.open_object(sha256) as stream:
                found = objects.put(stream)  # type: ignore[arg-type]
            if found != sha256:
                raise BadArchive(f'{archive.path} is damaged: the content {sha256} has the hash {found}; copy it again')


def _load(contents: Contents, connection: sa.Connection, table: sa.Table, archive: Archive) -> None:
    rows = (_checked(table, row, archive) for row in archive.rows(table.name))
    while page := list(itertools.islice(rows, _PAGE)):
        connection.execute(sa.insert(table), page)
    if table.autoincrement_column is not None:
        contents.go_on_from(connection, table, archive.manifest.tables[table.name].last_number)


def _checked(table: sa.Table, row: Row, archive: Archive) -> dict[str, Any]:
    if row.keys() != set(table.columns.keys()):
        raise BadArchive(f'{archive.path} has a row of {table.name!r} with the columns {", ".join(row)}; export again')
    for column in table.columns:
        value = row[column.name]
        kind = column.type.python_type
        fits = column.nullable if value is None else type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            raise BadArchive(f'{archive.path} has a row of {table.name!r} whose {column.name!r} is {value!r}')
        if isinstance(value, str):
            row[column.name] = storable(value)
    return row


def _take_from_engines(connection: sa.Connection) -> int:
    """Let nothing be owned by an engine of the other store; returns how many processes are to go on."""
    unfinished = process.c.state.not_in(sorted(TERMINAL_STATES))
    connection.execute(
        sa.update(process)
        .where(unfinished)
        .values(owner=None, epoch=process.c.epoch + 1, version=process.c.version + 1)
    )
    connection.execute(sa.update(engine).where(engine.c.ended.is_(None)).values(ended='moved'))
    return _count_unfinished(connection)


# -- closing -----------------------------------------------------------------------------------------------


def retire(location: StoreLocation, moved_to: str = '') -> list[Cut]:
    """Close a store for good: from now on it takes nothing any more, and its engines end.

    What they are executing counts for nothing here. A store that is retired stays so, as it is.

    :param moved_to: where its contents go, for whoever still comes here.
    :returns: the engines that this has cut off.
    """
    with location.contents().alone() as connection:
        if _is_retired(connection):
            return []
        living = sa.select(engine.c.id, engine.c.name, engine.c.host, engine.c.os_pid).where(engine.c.ended.is_(None))
        cut = [Cut(*row) for row in connection.execute(living.order_by(engine.c.id))]
        _take_from_engines(connection)
        connection.execute(sa.insert(retirement).values(at=time.time(), moved_to=storable(moved_to)))
    return cut


def reopen(location: StoreLocation) -> bool:
    """Take a retired store back into use; whether it was retired.

    Right only if its contents are in no other store: else what is unfinished runs in both.
    """
    with location.contents().alone() as connection:
        return connection.execute(sa.delete(retirement)).rowcount > 0
