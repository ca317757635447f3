"""From a row to a process that can take its next step; and if it cannot, why, and what has changed in its class.

It runs where user code may run: a class is looked for by importing its module, and its validators are asked again
when it has changed.
"""

from __future__ import annotations

from typing import Any

from .errors import CodeChanged, CorruptValue, StoreError, ValidationError
from .node import ProcessNode, Source
from .processes.functions import process_class_of
from .processes.identity import ClassEdited, ClassMissing, find
from .processes.process import Process
from .spec.declaration import difference
from .store.reader import Reader
from .store.records import ProcessRecord

__all__ = ['load', 'why_missing', 'why_not_loaded']

#: Lines around a change in a class's source; a declaration is shown as a whole.
_CONTEXT = 3


def load(record: ProcessRecord, source: Source, *, outputs: str | None, checkpoint: str | None) -> Process:
    """The process of a row, as it stands after its last commit.

    :raises ClassMissing: its class cannot be found.
    :raises CodeChanged: its class is not what it was, and the process does not fit it.
    :raises CorruptValue: what is stored does not decode.
    :raises StoreError: what is stored cannot be read now.
    """
    process_class = process_class_of(find(record.class_name, record.class_hash))
    codec = source.codec
    given = codec.decode(record.inputs)
    produced = {} if outputs is None else codec.decode(outputs)
    if record.code is not None and record.code != process_class.spec().digest:
        given = _fitted(process_class, given, produced)
    process = process_class(node=ProcessNode(record.pid, source, record), inputs=given, outputs=produced)
    if checkpoint is not None:
        process._restore(codec.decode(checkpoint))
    return process


def _fitted(process_class: type[Process], inputs: Any, outputs: Any) -> dict[str, Any]:
    """The inputs of a process whose class has changed since it began, with the defaults of ports that are new."""
    spec = process_class.spec()
    try:
        for name, value in outputs.items():
            spec.check_output(name, value)
        return spec.complete_inputs(inputs)
    except ValidationError as error:
        raise CodeChanged(f'what it holds does not fit its class any more: {error}') from error


def why_not_loaded(error: BaseException, record: ProcessRecord, reader: Reader) -> str:
    """What :func:`load` raised, for people: with the difference, if the class has changed."""
    if isinstance(error, CorruptValue):
        return (
            f'what is stored of it does not decode: {error}. It is left as it is; it goes on once it can be read, as '
            f'from a backup'
        )
    if isinstance(error, CodeChanged):
        remedy = f'restore the code it began with and start again, or kill it (`treadle kill {record.pid}`)'
        return f'{error}; {remedy}{_difference(record, reader, error.step)}'
    if isinstance(error, ClassMissing):
        return str(error)
    return f'loading it raised {type(error).__name__}: {error}{_difference(record, reader)}'


def _difference(record: ProcessRecord, reader: Reader, step: str = '') -> str:
    """What its class declared when it began, and what it declares now; empty where there is nothing to compare."""
    try:
        before = None if record.code is None else reader.code(record.code)
        now = process_class_of(find(record.class_name, record.class_hash)).spec().declaration
    except BaseException:  # it is the class itself, or the store, that fails: the reason says so
        return ''
    if before is None:
        return f'\nIt is now:\n{now}'
    changed = difference(before, now, step=step)
    return f'\n{changed}' if changed else ''


def why_missing(class_name: str, class_hash: str | None, reader: Reader) -> str | None:
    """Why the class cannot be found here; ``None`` when it can. Imports its module."""
    try:
        find(class_name, class_hash)
    except ClassEdited as error:
        before = _kept(class_hash, reader)
        if before is None or error.source is None:
            return str(error)
        return f'{error}\n{difference(before, error.source, context=_CONTEXT)}'
    except ClassMissing as error:
        return str(error)
    return None


def _kept(digest: str | None, reader: Reader) -> str | None:
    try:
        return None if digest is None else reader.code(digest)
    except StoreError:
        return None
