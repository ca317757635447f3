"""Running migrations with Alembic; imported only when there are any to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from ..schema import compatibility
from . import HEAD, too_new

__all__ = ['compatible_since', 'migrate', 'script_directory']


def script_directory() -> ScriptDirectory:
    """Alembic's view of the ``versions`` beside this file, made from code: there is no alembic.ini."""
    folder = Path(__file__).parent
    return ScriptDirectory(str(folder), version_locations=[str(folder / 'versions')])


def migrate(connection: sqlalchemy.Connection, store: str, revision: str | None) -> None:
    """Run what lies between ``revision`` and ``HEAD``, inside the connection's transaction.

    :param store: the store's name, for people.
    :raises StoreTooNew: the revision is not one of ours.
    """
    directory = script_directory()
    if revision is not None and revision not in {script.revision for script in directory.walk_revisions()}:
        raise too_new(store, revision)

    def steps(current: Any, _context: MigrationContext) -> Any:
        # What `alembic.command.upgrade` does, without its files and its terminal output.
        return directory._upgrade_revs(HEAD, current)

    context = MigrationContext.configure(connection, opts={'fn': steps})
    with Operations.context(context):
        context.run_migrations()
    connection.execute(sqlalchemy.delete(compatibility))
    connection.execute(sqlalchemy.insert(compatibility).values(revision=HEAD, since=compatible_since(directory)))


def compatible_since(directory: ScriptDirectory) -> str:
    """The oldest revision whose engines can go on at ``HEAD``."""
    script = directory.get_revision(HEAD)
    while script.module.engines_go_on and isinstance(script.down_revision, str):
        script = directory.get_revision(script.down_revision)
    return script.revision
