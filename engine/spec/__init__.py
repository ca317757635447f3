"""What processes declare: ports, namespaces, exit codes and the checks that follow from them."""

from __future__ import annotations

from .checks import UNSPECIFIED, Problem
from .ports import InputPort, OutputPort, Port, PortNamespace
from .process_spec import METADATA, ProcessSpec

__all__ = [
    'METADATA',
    'UNSPECIFIED',
    'InputPort',
    'OutputPort',
    'Port',
    'PortNamespace',
    'Problem',
    'ProcessSpec',
]
