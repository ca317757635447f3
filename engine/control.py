"""What is asked of a process by message: every process of the store answers, whether anything runs it or not."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .communication.messages import Intent, IntentMessage, decode_intent
from .errors import InvalidMessage
from .states import ProcessState

if TYPE_CHECKING:
    from .communication import Communicator
    from .engine import Engine
    from .node import ProcessNode

__all__ = ['ProcessControl']

LOGGER = logging.getLogger(__name__)


class ProcessControl:
    """A process subscriber that answers as ``plumpy``'s processes do, by reading the store and writing intents.

    ``status`` is answered with a dictionary. The others are answered with a future of whether the process is now what
    was asked for: paused, going on, or killed; also if it was so before.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, communicator: Communicator, pid: int, message: Any) -> Any:
        """Answer one message.

        :raises InvalidMessage: it asks for nothing that there is.
        :raises ProcessNotFound: there is no such process.
        """
        try:
            asked = decode_intent(message)
        except InvalidMessage as error:
            LOGGER.warning('a message to process %d is rejected: %s', pid, error)
            raise
        if asked.intent is Intent.STATUS:
            return _status(self._engine.load(pid))
        answer: Future[bool] = Future()
        answer.set_result(self._enact(pid, asked))
        return answer

    def _enact(self, pid: int, asked: IntentMessage) -> bool:
        engine = self._engine
        if asked.intent is Intent.PAUSE:
            return engine.pause(pid, asked.message) or not engine.load(pid).is_terminated
        if asked.intent is Intent.PLAY:
            return engine.play(pid) or not engine.load(pid).is_terminated
        return engine.kill(pid, asked.message) or engine.load(pid).is_killed


def _status(node: ProcessNode) -> dict[str, Any]:
    state: ProcessState = node.state
    return {
        'ctime': node.created_at.timestamp(),
        'paused': node.paused,
        'process_string': f'<{node.process_label} pid={node.pid}>',
        'state': f'{ProcessState.__name__}.{state.name}',
    }
