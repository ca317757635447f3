"""The computers that a store knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ComputerNotFound, ConfigurationError
from ..spec import PortNamespace
from ..store.jobs import count_jobs, save_computer, select_computer
from ..store.reader import Reader
from ..store.transaction import Transaction
from .computer import Computer
from .options import COMPUTER_TYPES, LOCALHOST

__all__ = ['check_computers', 'define_computer', 'find_computer', 'known_computers']


def known_computers(reader: Reader) -> dict[str, Computer]:
    """All of them by name, the one included that is there without being defined."""
    known = {LOCALHOST.name: LOCALHOST}
    known.update((name, Computer.from_text(text)) for name, text in reader.computers().items())
    return dict(sorted(known.items()))


def find_computer(reader: Reader, name: str) -> Computer:
    """The computer of that name.

    :raises ComputerNotFound: there is none; says which there are.
    """
    known = known_computers(reader)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {near[0]!r}? ' if near else ''
    raise ComputerNotFound(
        f'there is no computer {name!r} in this store; {hint}known are: {", ".join(known)}; '
        f'`treadle computer add` defines another'
    )


def check_computers(label: str, ports: PortNamespace, inputs: Mapping[str, Any], reader: Reader) -> None:
    """Refuse inputs that name a computer which the store does not know; also those that a work chain passes on.

    :param label: of the process, for the message.
    :raises ComputerNotFound: says where it is named, and which there are.
    """
    for path, name in _named(ports, inputs, ''):
        if name != LOCALHOST.name:
            try:
                find_computer(reader, name)
            except ComputerNotFound as error:
                raise ComputerNotFound(f'{label}: {path}: {error}') from None


def _named(ports: PortNamespace, values: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    for name, port in ports.items():
        value = values.get(name)
        if isinstance(port, PortNamespace):
            if isinstance(value, Mapping):
                yield from _named(port, value, f'{place}{name}.')
        elif isinstance(value, str) and port.valid_type == COMPUTER_TYPES:
            yield f'{place}{name}', value


def define_computer(transaction: Transaction, computer: Computer) -> None:
    """Make a computer known, or change what is known of it.

    :raises ConfigurationError: it would be sought elsewhere from now on, and jobs live where it was.
    """
    before = select_computer(transaction, computer.name)
    text = computer.to_text()
    if before == text:
        return
    moved = [] if before is None else Computer.from_text(before).moved(computer)
    if moved:
        live = count_jobs(transaction, computer.name)
        if live:
            raise ConfigurationError(
                f'computer {computer.name!r} has {live} job(s) that live, so its {", ".join(moved)} cannot change; '
                f'wait for them, kill them, or use another name'
            )
    save_computer(transaction, computer.name, text)
