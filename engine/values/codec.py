"""The codec: values to JSON text and back, with their types kept exactly.

Text, 64-bit integers, finite floats, bools, None, lists and dicts with text keys are JSON's own. Everything
else is an object with the key ``$``, which names its type. Reading calls nothing that stored data names: Enum
members are looked up, dataclasses are put together from their fields, other types must have been registered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import CorruptValue, UnstorableValue
from .lifting import Lifter
from .lowering import Lowerer
from .objects import ObjectStore
from .registry import Reference

_NO_REFERENCES: Mapping[type, Reference] = {}


class Codec:
    """Writes and reads values. May be used by many threads at once.

    :param objects: where contents over 64 KiB, and all files, go; without it they stay in the text.
    :param references: how instances of the engine's own types (and of their subclasses) are written.
    :raises ValueError: if the tag of a reference is in use.
    """

    def __init__(
        self, *, objects: ObjectStore | None = None, references: Mapping[type, Reference] = _NO_REFERENCES
    ) -> None:
        self._lowerer = Lowerer(objects, references)
        self._careful_lowerer = Lowerer(objects, references, careful=True)
        self._fingerprint_lowerer = Lowerer(objects, references, careful=True, fingerprint=True)
        self._lifter = Lifter(objects, references)
        self._encoder = msgspec.json.Encoder()
        self._sorting_encoder = msgspec.json.Encoder(order='deterministic')
        self._decoder = msgspec.json.Decoder()

    def encode(self, value: Any, where: str = 'value') -> str:
        """Return ``value`` as JSON text; what it puts into the object store is durable by then.

        :param where: what the value is called; error messages begin with it.
        :raises UnstorableValue: if something in it cannot be stored, naming its path.
        :raises StoreError: if the object store does not take its contents.
        """
        tree = self._lowerer.lower(value, where)
        try:
            return self._encoder.encode(tree).decode()
        except UnicodeEncodeError:
            # Lone surrogates, as in odd names of files. Rare, so only now each text is looked at.
            return self._encoder.encode(self._careful_lowerer.lower(value, where)).decode()
        except RecursionError:
            raise UnstorableValue(
                f'{where}: nested too deep for the stack that is left; call it from fewer frames'
            ) from None

    def decode(self, text: str | bytes) -> Any:
        """Return the value of ``text``, made of new objects.

        :raises CorruptValue: if it has none, or names what is not known here; the message says what to do.
        """
        try:
            return self._lifter.lift(self._decoder.decode(text))
        except (msgspec.MsgspecError, UnicodeError) as exc:
            raise CorruptValue(f'stored data is not JSON ({exc}): {text[:80]!r}') from exc
        except RecursionError:
            raise CorruptValue('stored data is nested too deep for the stack that is left') from None
        except TypeError as exc:
            raise CorruptValue(f'stored data must be text, not {type(text).__name__}') from exc

    def fingerprint(self, value: Any, where: str = 'value') -> str:
        """Return a sha256 in hex that equal values share, in every OS process, whatever the order of dicts.

        Types count: 1, 1.0 and True differ. Nothing is put into the object store.

        :raises UnstorableValue: as :meth:`encode` does.
        """
        tree = self._fingerprint_lowerer.lower(value, where)
        try:
            return hashlib.sha256(self._sorting_encoder.encode(tree)).hexdigest()
        except RecursionError:
            raise UnstorableValue(f'{where}: nested too deep for the stack that is left') from None
