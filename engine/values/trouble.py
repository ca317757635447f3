"""A value that cannot be stored: how its path in the value is found."""

from __future__ import annotations

from ..errors import UnstorableValue

MAX_DEPTH = 100
"""Levels of nesting. Each takes up to three in JSON, and reading must fit Python's recursion limit."""


class Trouble(Exception):
    """A value that cannot be lowered; on its way up it collects where it happened."""

    def __init__(self, reason: str, *, too_deep: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.too_deep = too_deep
        self.trail: list[tuple[int, str]] = []

    def at(self, container: object, piece: str) -> None:
        """Note that it happened in ``container`` (from the inside out)."""
        self.trail.append((id(container), piece))

    def as_error(self, where: str) -> UnstorableValue:
        """Return the error for the user, whose message begins with the path."""
        pieces: list[str] = []
        seen: set[int] = set()
        for identity, piece in reversed(self.trail):
            if identity in seen:
                return UnstorableValue(f'{where}{"".join(pieces)}: contains itself and cannot be stored')
            seen.add(identity)
            pieces.append(piece)
        if self.too_deep:
            pieces = [*pieces[:8], '...']
        return UnstorableValue(f'{where}{"".join(pieces)}: {self.reason}')


def too_deep_trouble() -> Trouble:
    """Return what to raise when a value has too many levels."""
    return Trouble(f'nested deeper than {MAX_DEPTH} levels; store it flatter, or as a File', too_deep=True)


def piece_of(key: object) -> str:
    """Return how ``key`` is shown in a path."""
    if type(key) is str and key.isidentifier():
        return f'.{key}'
    if type(key) in (str, int, float, bool, bytes, type(None)):
        text = repr(key)
        return f'[{text if len(text) <= 60 else text[:57] + "..."}]'
    return f'[<{type(key).__qualname__}>]'
