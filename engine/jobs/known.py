"""The computers that a store knows."""

from __future__ import annotations

import difflib

from ..errors import ComputerNotFound, ConfigurationError
from ..store.jobs import save_computer, select_computer
from ..store.reader import Reader
from ..store.transaction import Transaction
from .computer import Computer
from .options import LOCALHOST

__all__ = ['define_computer', 'find_computer', 'known_computers']


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
    hint = f'; did you mean {near[0]!r}?' if near else f'; there is {", ".join(known)}'
    raise ComputerNotFound(f'there is no computer {name!r} in this store{hint} `treadle computer add` defines one')


def define_computer(transaction: Transaction, computer: Computer) -> None:
    """Make a computer known, or change what is known of it.

    :raises ConfigurationError: it would be sought elsewhere from now on, and jobs live where it was.
    """
    before, live = select_computer(transaction, computer.name)
    text = computer.to_text()
    if before == text:
        return
    if before is not None and live:
        moved = Computer.from_text(before).moved(computer)
        if moved:
            raise ConfigurationError(
                f'computer {computer.name!r} has {live} job(s) that live, so its {", ".join(moved)} cannot change; '
                f'wait for them, kill them, or use another name'
            )
    save_computer(transaction, computer.name, text)
