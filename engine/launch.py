"""From a process class and inputs to the record that is stored: everything that can be wrong is found here.

It runs in the thread that submits, so a mistake is raised at the call that made it and nothing is half-written.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from .errors import ValidationError
from .jobs.known import check_computers
from .processes.attributes import plain
from .processes.builder import ProcessBuilder, ProcessBuilderNamespace
from .processes.functions import process_class_of
from .processes.identity import identify, source_of
from .processes.metadata import METADATA_NAMES
from .states import ProcessState
from .store.reader import Reader
from .store.records import ProcessRecord, storable
from .values import Codec

__all__ = ['LONGEST_KEY', 'code_of', 'compose', 'resolve']

#: Bytes of a key: what stands in an index is limited, by PostgreSQL to some 2,700.
LONGEST_KEY: Final = 1000


def resolve(
    process: Any, inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The process class or function that is meant, and its inputs; a builder brings both along.

    As in aiida the mapping may be named, ``inputs={...}``, unless the process itself has an input of that name.

    :raises TypeError: an input is given twice.
    """
    if inputs is None and 'inputs' in kwargs and not _has_port(process, 'inputs'):
        kwargs = dict(kwargs)
        inputs = kwargs.pop('inputs')
    given = merge_inputs(inputs, kwargs)
    if not isinstance(process, ProcessBuilder):
        return process, given
    return process._target, merge_inputs(process._inputs(prune=True), given)


def _has_port(process: Any, name: str) -> bool:
    target = process._target if isinstance(process, ProcessBuilder) else process
    return name in process_class_of(target).spec().inputs


def merge_inputs(inputs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs given as a mapping and as keyword arguments, together."""
    if inputs is None:
        return dict(kwargs)
    if isinstance(inputs, ProcessBuilderNamespace):
        inputs = inputs._inputs(prune=True)
    if not isinstance(inputs, Mapping):
        raise TypeError(f'inputs are given as a mapping or as keyword arguments, not as {inputs!r}')
    twice = sorted(inputs.keys() & kwargs.keys())
    if twice:
        raise TypeError(f'the input {twice[0]!r} is given twice, in the builder or mapping and beside it')
    return {**inputs, **kwargs}


def compose(
    target: Any,
    given: Mapping[str, Any],
    *,
    codec: Codec,
    reader: Reader | None = None,
    pid: int,
    origin: int,
    nesting: int = 0,
    call: tuple[int, int, int] | None = None,
) -> ProcessRecord:
    """The record of a new process.

    :param target: a process class or process function.
    :param given: inputs, ``metadata`` among them.
    :param reader: tells which computers the store knows; ``None`` for a call that may be on record, which does not
        depend on that.
    :param call: parent, visit and call number, for a process that another one calls.
    :raises TypeError: ``target`` is no process.
    :raises ValidationError: the inputs do not fit the spec.
    :raises ComputerNotFound: an input names a computer that the store does not know.
    :raises UnstorableValue: an input cannot be written as data.
    """
    process_class = process_class_of(target)
    values = dict(given)
    metadata = process_class._split_metadata(values.pop('metadata', None), values)
    metadata = _check_metadata(process_class.__name__, metadata)
    spec = process_class.spec()
    inputs = spec.complete_inputs({name: plain(value) for name, value in values.items()})
    process_class._check_inputs(inputs)
    if reader is not None:
        check_computers(process_class.__name__, spec.inputs, inputs, reader)
    encoded = codec.encode(inputs, 'inputs')  # first of all, for what it raises names the input
    class_name, class_hash = identify(target)
    key = metadata.get('key')
    now = time.time()
    parent, visit, number = call if call is not None else (None, None, None)
    return ProcessRecord(
        pid=pid,
        uuid=str(uuid.uuid4()),
        parent=parent,
        call_visit=visit,
        call_number=number,
        nesting=nesting,
        driven=0,
        class_name=class_name,
        class_hash=class_hash,
        process_label=process_class.__name__,
        label=metadata.get('label', ''),
        description=metadata.get('description', ''),
        key=key,
        fingerprint=None if key is None and call is None else codec.fingerprint([class_name, inputs]),
        state=ProcessState.CREATED,
        paused=0,
        visit=0,
        step=None,
        exit_status=None,
        exit_message=None,
        exception=None,
        inputs=encoded,
        checkpoint=None,
        outputs=None,
        origin=origin,
        owner=None,
        epoch=0,
        version=0,
        wake_at=None,
        created_at=now,
        changed_at=now,
        code=spec.digest,
    )


def code_of(target: Any) -> dict[str, str]:
    """What the store keeps of a process's code, by digest: its declaration and, of a script's class, the source."""
    spec = process_class_of(target).spec()
    texts = {spec.digest: spec.declaration}
    _, class_hash = identify(target)
    source = None if class_hash is None else source_of(target)
    if class_hash is not None and source is not None:
        texts[class_hash] = source
    return texts


def _check_metadata(label: str, metadata: Any) -> Mapping[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ValidationError(f'{label}: metadata is a mapping such as {{"label": "..."}}, not {metadata!r}')
    for name, value in metadata.items():
        if name not in METADATA_NAMES:
            raise ValidationError(f'{label}: metadata.{name} is unknown; there is {", ".join(METADATA_NAMES)}')
        if not isinstance(value, str):
            raise ValidationError(f'{label}: metadata.{name} must be a str, not {value!r}')
        if storable(value) != value:
            what = 'the character NUL' if '\0' in value else 'half of a surrogate pair'
            raise ValidationError(
                f'{label}: metadata.{name} holds {what} ({value!r}), which is no text that can be stored; leave it out'
            )
    if metadata.get('key') == '':
        raise ValidationError(f'{label}: metadata.key is empty; give a key that names this piece of work, or none')
    size = len(metadata.get('key', '').encode())
    if size > LONGEST_KEY:
        raise ValidationError(
            f'{label}: metadata.key has {size} bytes ({metadata["key"][:40]!r}...), and {LONGEST_KEY} are the most; '
            f'give a hash of what makes it so long'
        )
    return metadata
