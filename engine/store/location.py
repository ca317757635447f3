"""Where a store is, whatever database keeps it: ``locate()`` reads its URL, and what it gives opens everything else.

Nobody outside of ``treadle.engine.store`` knows which database there is. Each has a package of its own here, with its
dialect of SQL, its connections and what its errors mean; the statements, the transactions and the records are the same.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..config import STORE_VARIABLE
from ..errors import UnsupportedStore
from .sqlite.file import default_url
from .sqlite.location import locate_file

if TYPE_CHECKING:
    from ..values import ObjectStore
    from .changes import Changes
    from .contents import Contents
    from .database import Database
    from .reader import Reader
    from .statements import Statements  # which imports SQLAlchemy

__all__ = ['StoreLocation', 'locate']


class StoreLocation(Protocol):
    """One store: how it is named, and everything by which it is read and written."""

    @property
    def url(self) -> str:
        """The URL that opens this store from any working directory; it never holds the password."""

    def ensure_schema(self) -> None:
        """Make the store where there is none, and see to it that this Treadle can use it.

        An older store in a file is upgraded. An older one that others may share is not; see :meth:`upgrade`.

        :raises StoreError: it cannot be used; says what to do.
        """

    def upgrade(self) -> None:
        """Bring the store to this Treadle's schema, or make it.

        :raises StoreError: it cannot be upgraded; nothing of it has changed.
        """

    def open_reader(self, *, patience: float = 0.0) -> Reader:
        """A reader, whether an engine runs or not.

        :param patience: seconds for which a query waits for a database that is away.
        :raises StoreError: once it is used: there is no store of this Treadle's schema that can be read.
        """

    def make_database(self, *, name: str = 'treadle', lease: float = 10.0) -> Database:
        """A writing connection, for one thread; not open yet.

        :param name: what a database server shows it as.
        :param lease: seconds after which others may take over from a writer that stands still; what it holds in the
            database it has lost long before.
        """

    def statements(self) -> Statements:
        """What is run on it."""

    def changes(self) -> Changes:
        """What tells when somebody has committed, for those who look without an engine.

        :raises StoreError: the store cannot be reached.
        """

    def objects(self, *, patience: float = 0.0) -> ObjectStore:
        """The large contents that belong to the store.

        :param patience: as for :meth:`open_reader`.
        """

    def contents(self) -> Contents:
        """Everything that the store holds, for those who deal with it as a whole."""

    def identity(self) -> str:
        """What is the same for all who use the store, however their URLs name it, and for no other store.

        :raises StoreError: the store has to be asked for it, and cannot be reached.
        """

    def lock_folder(self) -> Path:
        """The folder with the lock files of this host's engines on the store; it need not exist.

        :raises StoreError: the store has to be asked for it, and cannot be reached.
        """

    def size(self) -> int:
        """How large the store is, in bytes, without the large contents.

        :raises StoreError: the store cannot be reached.
        """


def locate(url: str | os.PathLike[str] | None = None) -> StoreLocation:
    """Find the store that ``url`` names, or the default one. Nothing is made or opened.

    :param url: ``sqlite:///path`` or ``postgresql://user:password@host:port/database?option=value``; ``None`` is what
        ``TREADLE_STORE`` says, else a file in the user's data directory.
    :raises UnsupportedStore: the URL is not one of a store, or the database cannot be trusted there.
    """
    if url is not None:
        return _locate(url)
    chosen = os.environ.get(STORE_VARIABLE, '').strip()
    try:
        return _locate(chosen or default_url())
    except UnsupportedStore as error:
        if not chosen:
            raise
        raise UnsupportedStore(f'{error} (from {STORE_VARIABLE})') from None


def _locate(url: str | os.PathLike[str]) -> StoreLocation:
    if isinstance(url, str) and re.match('postgres(ql)?([+][^:]*)?:', url, re.IGNORECASE):
        # The driver takes a while to import, and who has a file needs none.
        from .postgresql.location import locate_server  # noqa: PLC0415

        return locate_server(url)
    return locate_file(url)
