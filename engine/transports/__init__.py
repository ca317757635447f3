"""Commands and files on other computers, and the connections that carry them."""

from __future__ import annotations

from .authority import ConnectionAuthority
from .breaker import Backoff
from .connection import ConnectionState, Lease
from .connection_spec import ConnectionSpec
from .local import LocalTransport
from .queue import TransportQueue, TransportRequest
from .transport import Account, AsyncTransport, CommandResult, FileStatus, Progress, Transport

__all__ = [
    'Account',
    'AsyncTransport',
    'Backoff',
    'CommandResult',
    'ConnectionAuthority',
    'ConnectionSpec',
    'ConnectionState',
    'FileStatus',
    'Lease',
    'LocalTransport',
    'Progress',
    'Transport',
    'TransportQueue',
    'TransportRequest',
]
