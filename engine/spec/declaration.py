"""What a process class declares, as lines of text that can be compared when the class has changed.

Only what a stored process depends on is in it: its ports with their types, and its outline. Values of defaults,
validators and help are not, since some of them read differently in every OS process.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator

from .outline import Outline
from .ports import PortNamespace

__all__ = ['declaration', 'difference', 'digest_of']

_INDENT = '  '
#: Lines of a difference, at most.
_LONGEST = 200


def declaration(inputs: PortNamespace, outputs: PortNamespace, outline: Outline | None) -> str:
    """The ports and the outline, one line each."""
    lines = [*_namespace(inputs, 'inputs', 0), *_namespace(outputs, 'outputs', 0)]
    if outline is not None:
        lines += ['outline', *(f'{_INDENT}{line}' for line in outline.text.splitlines())]
    return '\n'.join(lines)


def digest_of(text: str) -> str:
    """The name under which a declaration is kept; stores depend on it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(before: str, now: str, *, step: str = '', context: int = 1000) -> str:
    """How a text has changed, as a unified difference.

    :param step: the step or condition of the earlier outline that is marked as the one where the process stands.
    :param context: how many lines around a change are shown.
    :returns: the empty text when nothing has changed.
    """
    titles = 'as it began', 'as it is now'
    lines = [*difflib.unified_diff(before.splitlines(), now.splitlines(), *titles, lineterm='', n=context)]
    if step:
        forms = {step, f'if_({step})', f'elif_({step})', f'while_({step})'}
        places = [index for index, line in enumerate(lines) if line[:1] in '- ' and line[1:].strip() in forms]
        if len(places) == 1:
            lines[places[0]] += '    <- it stands here'
    if len(lines) > _LONGEST:
        lines[_LONGEST:] = [f'... and {len(lines) - _LONGEST} more lines']
    return '\n'.join(lines)


def _namespace(namespace: PortNamespace, title: str, depth: int) -> Iterator[str]:
    notes = [] if namespace.required else ['optional']
    if namespace.dynamic:
        check = namespace.type_check
        notes.append('dynamic' if check is None else f'dynamic: {check.text}')
    remark = f' ({", ".join(notes)})' if notes else ''
    yield f'{_INDENT * depth}{title}{remark}'
    for name, port in namespace.items():
        if isinstance(port, PortNamespace):
            yield from _namespace(port, f'{name}.', depth + 1)
            continue
        kind = 'any' if port.type_check is None else port.type_check.text
        needed = '' if port.required else ', has a default' if port.has_default() else ', optional'
        yield f'{_INDENT * (depth + 1)}{name}: {kind}{needed}'
