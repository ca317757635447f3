"""The revisions of a store's schema, which are the same for every database.

A database keeps the number of its revision; whether it is :data:`HEAD` is one plain query, for which neither Alembic
nor SQLAlchemy is imported. Since 0008 it also keeps, in the table ``compatibility``, from which revision on a Treadle
can go on that was at work when it was upgraded; that table stays as it is in all that come. How the revision is read,
and how the databases keep two OS processes from migrating at once, stands in their own packages.
"""

from __future__ import annotations

from typing import Final

from ...errors import StoreTooNew, StoreUnavailable

__all__ = ['APPLICATION_ID', 'HEAD', 'require_head', 'too_new']

#: The newest revision. A test keeps it equal to Alembic's head.
HEAD: Final = '0008'
#: What SQLite keeps in the file's header as ``application_id`` ('trdl'): tells our files from others'.
APPLICATION_ID: Final = 0x7472646C


def require_head(revision: str | None, *, store: str, remedy: str, since: str | None = None) -> None:
    """See to it that this Treadle can use a database as it is.

    :param revision: what the database is at; ``None`` when it is empty.
    :param store: the store's name, for people.
    :param remedy: what brings an older one to our revision.
    :param since: for a newer one, the oldest revision whose Treadle can go on with it; ``None`` for none.
    :raises StoreTooNew: a newer Treadle upgraded it.
    :raises StoreUnavailable: it holds no store, or one that has yet to be upgraded.
    """
    if revision == HEAD or (revision is not None and since is not None and since <= HEAD < revision):
        return
    if revision is None:
        raise StoreUnavailable(
            f'the database {store} is empty; it becomes a store when an engine first starts on it'
        )
    if revision > HEAD:
        raise too_new(store, revision)
    raise StoreUnavailable(
        f'the store {store} was made by an older Treadle (revision {revision}, ours is {HEAD}); {remedy}'
    )


def too_new(store: str, revision: str) -> StoreTooNew:
    """The error for a revision that this Treadle does not know."""
    return StoreTooNew(
        f'the store {store} is at revision {revision}, which a newer Treadle made; this one knows '
        f'revisions up to {HEAD}. Upgrade Treadle (pip install --upgrade treadle), or name another store'
    )
