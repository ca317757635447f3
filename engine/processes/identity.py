"""Which class a stored process belongs to, as text, and how to find that class again.

A class of an importable module is ``module:QualName``. A class of a script is ``/path/script.py:QualName``
together with a hash of its source, so that the same script finds its processes again after a crash and an edited class
does not silently take over the work of the old one. A class of a notebook or one made inside a function can only be
found in the process that made it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import linecache
import os
import sys
import weakref
from typing import Any

from ..errors import TreadleError
from ..values.classes import module_of

_MAIN = '__main__'


class ClassMissing(TreadleError):
    """This engine cannot find the class of a stored process; another engine, or a later one, may."""


class ClassEdited(ClassMissing):
    """The script has a class of that name, but not with the source that the process began with.

    :ivar source: the present source; ``None`` when it cannot be had.
    """

    def __init__(self, message: str, source: str | None) -> None:
        super().__init__(message)
        self.source = source


_identities: weakref.WeakKeyDictionary[Any, tuple[str, str | None]] = weakref.WeakKeyDictionary()
_known: weakref.WeakValueDictionary[tuple[str, str | None], Any] = weakref.WeakValueDictionary()


def identify(target: Any) -> tuple[str, str | None]:
    """The name and, where it counts, the source hash of a process class or process function.

    The target is remembered as long as it lives, so that :func:`find` finds it in this OS process.
    """
    identity = _identities.get(target)
    if identity is None:
        identity = _identities[target] = _identify(target)
        _known[identity] = target
    return identity


def find(name: str, source_hash: str | None) -> Any:
    """The class or function of that name.

    May import its module, hence runs code of the user's.

    :raises ClassMissing: with the reason and the remedy.
    """
    target = _known.get((name, source_hash))
    if target is not None:
        return target
    place, _, qualname = name.rpartition(':')
    if source_hash is not None:
        target = _find_in_script(name, place, qualname, source_hash)
    else:
        target = _find_in_module(name, place, qualname)
    _known[name, source_hash] = target
    return target


def is_known(name: str, source_hash: str | None) -> bool:
    """Whether :func:`find` finds it without importing anything."""
    return (name, source_hash) in _known


def script_of_main() -> str | None:
    """The absolute path of the running script, or ``None`` in an interactive session or a notebook."""
    path = getattr(sys.modules.get(_MAIN), '__file__', None) or _package_of_parent()
    return None if path is None else os.path.realpath(path)


def _package_of_parent() -> str | None:
    """The ``__main__.py`` that was run with ``-m``, in a child that `multiprocessing` has started anew without it.

    It leaves out such a main module, and hands on ``sys.argv``, which names it.
    """
    if 'multiprocessing.process' not in sys.modules:
        return None
    from multiprocessing.process import parent_process  # noqa: PLC0415 - who does not use it need not import it

    path = sys.argv[0] if parent_process() is not None and sys.argv else ''
    return path if os.path.basename(path) == '__main__.py' else None


def _identify(target: Any) -> tuple[str, str | None]:
    module, qualname = module_of(target), target.__qualname__
    if module == _MAIN:
        return f'{script_of_main() or _MAIN}:{qualname}', _source_hash(target)
    if '<locals>' in qualname:
        return f'{module}:{qualname}', _source_hash(target)
    return f'{module}:{qualname}', None


def _source_hash(target: Any) -> str:
    # Without a source it is found again in this OS process only.
    source = source_of(target) or f'no source: {os.getpid()}:{id(target)}'
    return hashlib.sha256(source.encode()).hexdigest()


def source_of(target: Any) -> str | None:
    """The source of a process class or process function; ``None`` when it cannot be had."""
    try:
        return None if _is_of_a_string(target) else inspect.getsource(inspect.unwrap(target))
    except (OSError, TypeError):
        return None


def _is_of_a_string(target: Any) -> bool:
    """Whether the code comes from no file; from Python 3.13 on ``inspect`` finds other lines of the module then."""
    members = vars(target).values() if isinstance(target, type) else [inspect.unwrap(target)]
    functions = (getattr(member, '__func__', member) for member in members)
    codes = (function.__code__ for function in functions if inspect.isfunction(function))
    file = next((code.co_filename for code in codes), '')
    return file.startswith('<') and not linecache.getlines(file)


def _find_in_module(name: str, module_name: str, qualname: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        # Whatever the module's own code raises while it is imported is a reason, not our crash.
        raise ClassMissing(
            f'{name} cannot be imported here ({type(error).__name__}: {error}); install it, or put its folder on '
            f'PYTHONPATH, and the process goes on. If the module has another name now, keep one of the old name that '
            f'imports from it'
        ) from error
    try:
        return _attribute(module, qualname)
    except AttributeError as error:
        place = getattr(module, '__file__', None) or module_name
        raise ClassMissing(
            f'{name} is not in its module any more ({place}){_near(qualname, module)}. If it has another name now, let '
            f'the old name lead to it, as in `{qualname.partition(".")[0]} = NewName`, and start again; the process '
            f'goes on then'
        ) from error


def _near(qualname: str, module: Any) -> str:
    classes = [name for name, value in vars(module).items() if hasattr(value, 'spec')]
    near = difflib.get_close_matches(qualname, classes, n=2, cutoff=0.4)
    return f', which has {" and ".join(near)}' if near else ''


def _find_in_script(name: str, path: str, qualname: str, source_hash: str) -> Any:
    if '<locals>' in qualname:
        raise ClassMissing(f'{name} was made inside a function; only the OS process that made it can run it')
    if path != (script_of_main() or _MAIN):
        raise ClassMissing(f'{name} belongs to another script; run that script again, and the process goes on')
    try:
        found = _attribute(sys.modules[_MAIN], qualname)
    except AttributeError:
        raise ClassMissing(f'{name} is not (or not yet) defined by the script that runs now') from None
    if _source_hash(found) != source_hash:
        raise ClassEdited(
            f'{name} has been edited since the process began; restore the source it began with to let it go on, or '
            f'kill the process (`treadle kill PID`) to begin anew',
            source_of(found),
        )
    return found


def _attribute(module: Any, qualname: str) -> Any:
    found = module
    for part in qualname.split('.'):
        found = getattr(found, part)
    return found
