"""Commands and files on other computers, and the connections that carry them."""

from __future__ import annotations

from .connection_spec import ConnectionSpec
from .transport import Account, AsyncTransport, CommandResult, FileStatus, Progress, Transport

__all__ = [
    'Account',
    'AsyncTransport',
    'CommandResult',
    'ConnectionSpec',
    'FileStatus',
    'Progress',
    'Transport',
]
