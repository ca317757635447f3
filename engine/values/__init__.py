"""Values as data: what a process takes, returns and keeps, written as JSON text and read back with its types.

Importing this package imports neither numpy nor SQLAlchemy: numpy is met only when a value or stored data
needs it, disk-objectstore (and SQLAlchemy with it) at the first write of an object.
"""

from __future__ import annotations

from .codec import Codec
from .exceptions import describe_exception, dump_exception, load_exception, register_exception
from .files import File, Folder
from .objects import DiskObjects, ObjectStore
from .registry import Reference, register_codec

__all__ = [
    'Codec',
    'DiskObjects',
    'File',
    'Folder',
    'ObjectStore',
    'Reference',
    'describe_exception',
    'dump_exception',
    'load_exception',
    'register_codec',
    'register_exception',
]
