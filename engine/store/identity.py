"""What tells a store from every other one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .location import StoreLocation

__all__ = ['store_identity']


def store_identity(location: StoreLocation) -> str:
    """A text that is the same for all who use the store, and for no other store."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, location.url))
