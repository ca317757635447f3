"""From the words of a command line to a process class and its inputs."""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from ..processes.functions import process_class_of
from ..values import File

__all__ = ['find_target', 'import_from_here', 'parse_inputs']


def import_from_here() -> None:
    """Let modules of the working directory be imported, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def find_target(name: str) -> Any:
    """The process class or process function that ``MODULE:NAME`` names; imports the module.

    :raises click.UsageError: the text has another form.
    :raises click.ClickException: there is no such thing, or it is no process.
    """
    module_name, colon, path = name.partition(':')
    if not colon or not module_name or not path or os.sep in module_name or module_name.endswith('.py'):
        raise click.UsageError(f'{name!r} does not name a process; write MODULE:NAME, such as my_package.chains:Relax')
    import_from_here()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        # Whatever the module's own code raises is a reason, not our crash.
        raise click.ClickException(
            f'{module_name} cannot be imported ({type(error).__name__}: {error}); {_remedy(module_name, error)}'
        ) from error
    try:
        target = functools.reduce(getattr, path.split('.'), module)
    except AttributeError as error:
        place = getattr(module, '__file__', None) or 'a package without a file'
        raise click.ClickException(
            f'module {module_name} has no {path!r}; {_processes_of(module)} (it lies at {place})'
        ) from error
    try:
        process_class_of(target)
    except TypeError as error:
        raise click.ClickException(f'{name} cannot be run: {error}') from error
    return target


def _remedy(module_name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if module_name == error.name or module_name.startswith(f'{error.name}.'):
            return 'start in its folder, install it, or put its folder on PYTHONPATH'
        return f'it needs {error.name}, which is not installed here'
    return 'mend what its own code does when it is imported'


def _processes_of(module: Any) -> str:
    names = [name for name, value in vars(module).items() if _is_process(value, module)]
    return f'its processes are {", ".join(names)}' if names else 'there is no process in it'


def _is_process(value: Any, module: Any) -> bool:
    try:
        process_class_of(value)
    except TypeError:
        return False
    return bool(getattr(value, '__module__', None) == module.__name__)


def parse_inputs(words: Iterable[str]) -> dict[str, Any]:
    """``key=value`` words as inputs; dots in the key lead into namespaces.

    The value is JSON, else the text itself; ``@path`` is the file of that path.

    :raises click.UsageError: a word has another form, or contradicts another one.
    """
    inputs: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition('=')
        *namespaces, last = key.split('.')
        if not equals or not all(namespaces) or not last:
            raise click.UsageError(f'{word!r} is no input; write key=value, such as n=3, or options.depth=2')
        place = inputs
        for name in namespaces:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise click.UsageError(f'{word!r}: {name!r} has a value already')
        if last in place:
            raise click.UsageError(f'the input {key!r} is given twice')
        place[last] = _value(word, text)
    return inputs


def _value(word: str, text: str) -> Any:
    if text.startswith('@'):
        try:
            return File(text[1:])
        except (OSError, ValueError) as error:
            raise click.UsageError(f'{word!r}: {error}') from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
