"""Bringing a database to the schema that this Treadle knows."""

from __future__ import annotations

#: The newest revision. A test keeps it equal to Alembic's head.
HEAD = '0001'
#: What SQLite keeps in the file's header as ``application_id``: 'trdl'.
APPLICATION_ID = 0x7472646C
