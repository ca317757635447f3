"""How a process says in one number whether it succeeded: :class:`ExitCode` and a namespace of them.

The vocabulary is that of ``aiida.engine``: status 0 is success, every other status is a failure that
the process' author foresaw and gave a label.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from .errors import SpecError

#: The statuses that every database can hold: whole numbers of 64 bits.
_LEAST, _MOST = -(2**63), 2**63 - 1


def check_status(label: str, status: Any) -> None:
    """See to it that a status can be stored.

    :raises TypeError: it is no int.
    :raises ValueError: it is too large.
    """
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f'{label}: the exit status must be an int, not {status!r}')
    if not _LEAST <= status <= _MOST:
        raise ValueError(f'{label}: the exit status {status} does not fit into 64 bits; give a smaller one')


class ExitCode(NamedTuple):
    """What a process ended with; immutable, comparable to and unpackable as a tuple.

    :param status: 0 for success, a positive integer for a failure.
    :param message: what happened, for people; may hold ``{placeholders}`` for :meth:`format`.
    :param invalidates_cache: the result must not be reused for a later process with equal inputs.
    """

    status: int = 0
    message: str | None = None
    invalidates_cache: bool = False

    def format(self, **kwargs: object) -> ExitCode:
        """Return a new exit code whose message has its placeholders filled in from ``kwargs``.

        :raises ValueError: there is no message, a placeholder has no argument, an argument has no
            placeholder to fill while another is missing, or a value does not fit its format.
        """
        if self.message is None:
            raise ValueError(f'exit code {self.status} has no message to format; define it with one')
        try:
            message = self.message.format(**kwargs)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError) as exc:
            given = ', '.join(sorted(kwargs)) or 'no arguments'
            raise ValueError(
                f'cannot format the message {self.message!r} of exit code {self.status} with {given}: '
                f'{type(exc).__name__}: {exc}; pass one keyword argument for each placeholder'
            ) from exc
        return self._replace(message=message)


class ExitCodesNamespace(Mapping[str, ExitCode]):
    """The exit codes of a process by label, as attributes or items; a call also looks up by status.

    ``codes.ERROR_X``, ``codes['ERROR_X']``, ``codes('ERROR_X')`` and ``codes(410)`` find the same code.
    Only :meth:`ProcessSpec.exit_code` adds to it.
    """

    __slots__ = ('_codes',)

    def __init__(self, codes: Iterable[tuple[str, ExitCode]] = ()) -> None:
        self._codes: dict[str, ExitCode] = dict(codes)

    def __getitem__(self, label: str) -> ExitCode:
        try:
            return self._codes[label]
        except KeyError:
            raise KeyError(self._unknown(label)) from None

    def __getattr__(self, label: str) -> ExitCode:
        # Reached only when normal lookup failed; private names are never labels, and answering them
        # here would recurse while an instance is being copied.
        if label.startswith('_'):
            raise AttributeError(label)
        try:
            return self._codes[label]
        except KeyError:
            raise AttributeError(self._unknown(label)) from None

    def __call__(self, identifier: int | str) -> ExitCode:
        """Find an exit code by its label or its status; of several with one status, the first defined.

        :raises ValueError: the process defines no such exit code.
        """
        if isinstance(identifier, str):
            try:
                return self._codes[identifier]
            except KeyError:
                raise ValueError(self._unknown(identifier)) from None
        for code in self._codes.values():
            if code.status == identifier:
                return code
        known = ', '.join(f'{code.status} {label}' for label, code in self._codes.items()) or 'none'
        raise ValueError(f'no exit code has the status {identifier!r}; defined are: {known}')

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def __len__(self) -> int:
        return len(self._codes)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._codes]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({list(self._codes.items())!r})'

    def with_code(self, label: Any, code: ExitCode) -> ExitCodesNamespace:
        """Return a namespace that also holds ``code``; an equal label is replaced in its place.

        :raises SpecError: the status, label, message or flag is not what it must be.
        """
        if not isinstance(label, str) or not label.isidentifier() or not label.isupper() or label[0] == '_':
            raise SpecError(
                f'exit code label {label!r} must be an upper-case identifier such as ERROR_NO_CONVERGENCE'
            )
        status: Any = code.status
        if not isinstance(status, int) or isinstance(status, bool) or status < 0:
            raise SpecError(f'exit code {label}: the status must be an int >= 0, not {status!r}')
        try:
            check_status(f'exit code {label}', status)
        except ValueError as error:
            raise SpecError(str(error)) from None
        if not isinstance(code.message, str):
            raise SpecError(f'exit code {label}: the message must be a str, not {code.message!r}')
        if not isinstance(code.invalidates_cache, bool):
            raise SpecError(
                f'exit code {label}: invalidates_cache must be True or False, not {code.invalidates_cache!r}'
            )
        return ExitCodesNamespace({**self._codes, label: code}.items())

    def _unknown(self, label: object) -> str:
        text = f'no exit code has the label {label!r}'
        near = difflib.get_close_matches(str(label).upper(), self._codes, n=3, cutoff=0.5)
        if near:
            return f'{text}; did you mean {" or ".join(near)}?'
        return f'{text}; defined are: {", ".join(self._codes) or "none"}'


#: What every process has; numbers and labels are aiida's, whose legacy code 2 has no counterpart here.
BASE_EXIT_CODES = ExitCodesNamespace(
    {
        'ERROR_UNSPECIFIED': ExitCode(1, 'The process failed and did not say why.', True),
        'ERROR_INVALID_OUTPUT': ExitCode(
            10, 'An output of the process does not fit its specification.', True
        ),
        'ERROR_MISSING_OUTPUT': ExitCode(11, 'The process ended without an output that is required.', True),
    }.items()
)
