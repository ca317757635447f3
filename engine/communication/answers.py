"""Answers on the wire, in the form of ``kiwipy``'s: a result, an error, or that the answer is still to come."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any, Final

from kiwipy.rmq import utils

from ..errors import InvalidMessage, RemoteException, TaskInvalid, TaskRejected, UnroutableError
from .wire import decode, encode

__all__ = ['Kind', 'failed', 'pending', 'read', 'result']

#: Characters of an error's text that are sent.
LONGEST_REASON: Final = 64 * 1024
#: Beside the text of an error, what Treadle's own senders raise it as; others leave it unread.
_KIND: Final = 'treadle_kind'
_KINDS: Final[Mapping[str, type[Exception]]] = {
    each.__name__: each for each in (TaskInvalid, TaskRejected, UnroutableError)
}


class Kind(enum.Enum):
    """What an answer says."""

    PENDING = 'pending'
    RESULT = 'result'
    FAILED = 'failed'


def result(value: Any, *, instead: str = '') -> bytes:
    """The answer that is ``value``; if that is no data, or too large, an error that says so.

    :param instead: what that says besides.
    """
    body = utils.result_response(value)
    utils.add_host_info(body)
    try:
        return encode(body)
    except InvalidMessage as error:
        return failed(InvalidMessage(f'{error}; {instead}') if instead else error)


def failed(error: BaseException) -> bytes:
    """The answer that something went wrong."""
    text = f'CancelledError: {error}' if isinstance(error, CancelledError) else str(error)
    if len(text) > LONGEST_REASON:
        text = f'{text[:LONGEST_REASON]}...'
    # No reader takes a lone surrogate, as names of files may hold them.
    body = {utils.EXCEPTION_KEY: text.encode('utf-8', 'backslashreplace').decode('utf-8')}
    body[_KIND] = type(error).__name__
    utils.add_host_info(body)
    return encode(body)


def pending() -> bytes:
    """The answer that the message was taken, and that another one follows."""
    body = utils.pending_response()
    utils.add_host_info(body)
    return encode(body)


def read(body: bytes) -> tuple[Kind, Any]:
    """What an answer says: its kind, with the result or the error. What cannot be read is an error too."""
    try:
        answer = decode(body)
    except InvalidMessage as error:
        return Kind.FAILED, RemoteException(f'an answer came that cannot be read: {error}')
    if isinstance(answer, Mapping):
        if utils.CANCELLED_KEY in answer:
            return Kind.FAILED, RemoteException(f'CancelledError: {answer[utils.CANCELLED_KEY]}')
        if utils.EXCEPTION_KEY in answer:
            kind = answer.get(_KIND)
            known = _KINDS.get(kind, RemoteException) if isinstance(kind, str) else RemoteException
            return Kind.FAILED, known(str(answer[utils.EXCEPTION_KEY]))
        if utils.RESULT_KEY in answer:
            return Kind.RESULT, answer[utils.RESULT_KEY]
        if utils.PENDING_KEY in answer:
            return Kind.PENDING, None
    return Kind.FAILED, RemoteException('an answer came that is none: neither a result nor an error')
