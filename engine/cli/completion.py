"""What the shell offers when the tab key is pressed: pids with what they are, and processes of modules that are here.

Nothing of the user's is imported, no store is made, and what goes wrong offers nothing.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from ..errors import TreadleError
from ..states import TERMINAL_STATES, ProcessState
from ..store.records import ProcessSummary
from .options import open_store
from .output import clean

__all__ = ['PAUSED_PID', 'PID', 'PLAYING_PID', 'RUNNING_PID', 'TARGET', 'PidType', 'TextType']

#: The newest processes that are offered, and the files that are searched for process classes.
_MANY: Final = 200
_LIVE: Final = tuple(str(state) for state in ProcessState if state not in TERMINAL_STATES)
_DECORATORS: Final = frozenset({'calcfunction', 'workfunction'})
_METHODS: Final = frozenset({'define', 'run'})


if TYPE_CHECKING:
    _IntType: TypeAlias = click.ParamType[int]
    TextType: TypeAlias = click.ParamType[str]
else:
    _IntType = TextType = click.ParamType  # generic only in newer versions


class PidType(_IntType):
    """A pid on the command line.

    :param states: only processes in these states are offered; an empty collection stands for all.
    :param wanted: and of these only those of which this is true.
    """

    name = 'pid'

    def __init__(
        self, *, states: Collection[str] = (), wanted: Callable[[ProcessSummary], bool] = lambda row: True
    ) -> None:
        self._states = states
        self._wanted = wanted

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        try:
            return int(value)
        except ValueError:
            self.fail(f'{value!r} is no pid; a pid is a whole number, and `treadle ps` lists them', param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The newest processes, with what they are and how they stand."""
        given = ctx.params.get(param.name or '') or ()
        before = {str(pid) for pid in given} if isinstance(given, tuple) else set()
        try:
            with open_store(ctx.params.get('store')) as store:
                rows = store.reader.summaries(states=self._states, limit=_MANY)
        except TreadleError:
            return []
        return [
            CompletionItem(str(row.pid), help=_describe(row))
            for row in rows
            if self._wanted(row) and str(row.pid).startswith(incomplete) and str(row.pid) not in before
        ]


def _describe(row: ProcessSummary) -> str:
    paused = ' (paused)' if row.paused else ''
    # The shells take the text apart at commas and line ends.
    return clean(f'{row.process_label} {row.label}'.strip()).replace(',', ' ') + f' {row.state}{paused}'


PID = PidType()
RUNNING_PID = PidType(states=_LIVE)
PLAYING_PID = PidType(states=_LIVE, wanted=lambda row: not row.paused)
PAUSED_PID = PidType(states=_LIVE, wanted=lambda row: bool(row.paused))


class TargetType(TextType):
    """``MODULE:NAME`` on the command line."""

    name = 'target'

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What looks like a process in the modules below the working directory."""
        found = (f'{module}:{name}' for module, path in _modules() for name in process_names(path))
        return [CompletionItem(target) for target in found if target.startswith(incomplete)]


TARGET = TargetType()


def _modules() -> Iterator[tuple[str, Path]]:
    here, count = Path.cwd(), 0
    for folder, inner, files in os.walk(here):
        inner[:] = sorted(name for name in inner if (Path(folder) / name / '__init__.py').is_file())
        package = Path(folder).relative_to(here).parts
        for file in sorted(files):
            stem, dot_py = os.path.splitext(file)
            if dot_py == '.py' and stem.isidentifier():
                count += 1
                if count > _MANY:
                    return
                yield '.'.join(package if stem == '__init__' else (*package, stem)), Path(folder) / file


def process_names(path: Path) -> list[str]:
    """The classes and functions of a source file that look like processes, read and not imported."""
    try:
        text = path.read_text(encoding='utf-8')
        tree = ast.parse(text) if 'treadle' in text else None
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    return [] if tree is None else [node.name for node in tree.body if _is_process(node)]  # type: ignore[attr-defined]


def _is_process(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        methods = {each.name for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}
        return bool(node.bases) and not methods.isdisjoint(_METHODS)
    if isinstance(node, ast.FunctionDef):
        return any(_last_name(each) in _DECORATORS for each in node.decorator_list)
    return False


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ''


#: What bash has in variables that our function does not export: the line, the cursor, and where words are taken apart.
_PASSED: Final = ('COMP_LINE', 'COMP_POINT', 'COMP_WORDBREAKS')


class _Bash(BashComplete):
    """Bash, which takes words apart at colons and equals signs, as in a store's URL; so the line itself is taken."""

    source_template = BashComplete.source_template.replace(
        'env COMP_WORDS=', 'env ' + ''.join(f'{name}="${name}" ' for name in _PASSED) + 'COMP_WORDS='
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that one as far as the cursor."""
        line = os.environ.get('COMP_LINE')
        if line is None:
            return super().get_completion_args()
        line = line[: int(os.environ.get('COMP_POINT') or len(line))]
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ''
        # What bash puts in for the last of its own words has no room for the part before it.
        breaks = ''.join(each for each in os.environ.get('COMP_WORDBREAKS', '') if each in ':=')
        self._before = max((incomplete.rfind(each) for each in breaks), default=-1) + 1
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """The item without what bash has already."""
        return f'{item.type},{item.value[self._before :]}'

    _before = 0


add_completion_class(_Bash)
