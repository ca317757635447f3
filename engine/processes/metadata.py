"""What can be said of a process beside its inputs: ``metadata={'label': ..., 'key': ...}``."""

from __future__ import annotations

from ..spec import InputPort, PortNamespace
from ..spec.process_spec import METADATA

__all__ = ['METADATA_NAMES', 'metadata_ports']

_HELP = {
    'label': 'a short name for this process, for people',
    'description': 'what this process is for, for people',
    'key': 'names this piece of work: with an equal key, class and inputs, the process that is there is meant',
    'call_link_label': 'taken for the sake of aiida; without effect',
}

METADATA_NAMES = tuple(_HELP)


def metadata_ports() -> PortNamespace:
    """The metadata as a namespace of ports."""
    namespace = PortNamespace(METADATA, required=False)
    for name, text in _HELP.items():
        namespace[name] = InputPort(name, valid_type=str, required=False, help=text)
    return namespace
