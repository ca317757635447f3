"""Files by patterns, which the computer's own shell expands: what is asked for and copied is one command's business."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Final

from .archive import Readable
from .paths import checked_names

__all__ = ['MOST_READ', 'MatchError', 'Matches', 'find_and_pack', 'find_argv', 'parse_matches', 'read_matches']

#: So many names are packed by the command that has found them, at most; more of them are fetched in portions.
MOST_PACKED: Final = 200
#: Bytes of names that are read at most.
MOST_READ: Final = 64 * 1024 * 1024

# Goes through the patterns that are its arguments, and leaves the names that it has found in their place. Names, and
# patterns that stand for nothing, are printed with a letter before and a NUL behind them.
_FIND: Final = r"""
IFS= count=$#
for pattern; do
    found=
    for name in $pattern; do
        if [ -e "$name" ]; then
            found=1
            printf 'F%s\0' "$name"
            [ $# -gt $((count + MOST)) ] || set -- "$@" "$name"
        fi
    done
    [ -n "$found" ] || printf 'M%s\0' "$pattern"
done
shift "$count"
""".replace('MOST', str(MOST_PACKED))
_END: Final = r"printf 'E\0'"
_PACK: Final = rf"""
if [ $# -gt 0 ] && [ $# -le {MOST_PACKED} ]; then
    printf 'T\0'
    LC_ALL=C tar -chf - "$@"
else
    {_END}
fi
"""


class MatchError(Exception):
    """The list of names is not whole."""


class Matches:
    """What patterns stand for.

    :ivar names: below the folder, each once.
    :ivar missing: the patterns that stand for nothing.
    :ivar is_packed: whether an archive of them follows.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.missing: list[str] = []
        self.is_packed = False

    @property
    def names(self) -> list[str]:
        """In the order in which they were found."""
        return list(self._names)

    def take(self, item: bytes) -> bool:
        """Take one item of the list; whether it was the last."""
        text = item.decode(errors='surrogateescape')
        if text in ('E', 'T'):
            self.is_packed = text == 'T'
            return True
        name = text[1:].removeprefix('./')
        if text[:1] == 'F':
            self._names[name] = None
        else:
            self.missing.append(name)
        return False


def _arguments(patterns: Iterable[str]) -> list[str]:
    given = list(patterns)
    checked_names(given)
    return [f'./{pattern}' for pattern in given]  # a name may begin with a dash


def find_argv(patterns: Iterable[str]) -> list[str]:
    """The command that says what patterns stand for in the folder where it runs; see :func:`parse_matches`."""
    return ['sh', '-c', _FIND + _END, 'treadle-find', *_arguments(patterns)]


def find_and_pack(patterns: Iterable[str]) -> str:
    """The same as text for a shell, followed by an archive of what is found if that is not much."""
    return f'set -- {shlex.join(_arguments(patterns))}{_FIND}{_PACK.strip()}'


def parse_matches(stdout: bytes) -> Matches:
    """What :func:`find_argv` has printed.

    :raises MatchError: it is not whole.
    """
    matches = Matches()
    *items, rest = stdout.split(b'\0')
    ends = [matches.take(item) for item in items]
    if rest or not ends or not ends[-1] or any(ends[:-1]):
        raise MatchError
    return matches


def read_matches(stream: Readable) -> tuple[Matches, Readable]:
    """What :func:`find_and_pack` prints, and the stream of what follows.

    :raises MatchError: it breaks off.
    """
    matches, data = Matches(), b''
    while len(data) <= MOST_READ and (more := stream.read()):
        *items, data = (data + more).split(b'\0')
        for number, item in enumerate(items):
            if matches.take(item):
                return matches, _Joined(b'\0'.join([*items[number + 1 :], data]), stream)
    raise MatchError


class _Joined:
    """Bytes, and then a stream."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""
        if not self._head:
            return self._rest.read(size)
        taken, self._head = (self._head, b'') if size < 0 else (self._head[:size], self._head[size:])
        return taken
