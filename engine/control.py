"""What is asked of a process by message: every process of the store answers, whether anything runs it or not."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .communication.messages import Intent, IntentMessage, decode_intent
from .errors import InvalidMessage
from .states import ProcessState
from .store import intents

if TYPE_CHECKING:
    from .communication import Communicator
    from .engine import Engine
    from .node import ProcessNode
    from .store.transaction import Transaction

__all__ = ['ProcessControl']

LOGGER = logging.getLogger(__name__)


class ProcessControl:
    """A process subscriber that answers as ``plumpy``'s processes do, by reading the store and writing intents.

    ``status`` is answered with a dictionary. The others are answered with a future of whether the process is now what
    was asked for: paused, going on, or killed; also if it was so before. Where all processes are meant, they are all of
    the store that have not ended.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, communicator: Communicator, pid: int | None, message: Any) -> Any:
        """Answer one message.

        :param pid: ``None`` for all processes.
        :raises InvalidMessage: it asks for nothing that there is.
        :raises ProcessNotFound: there is no such process.
        """
        try:
            asked = decode_intent(message)
        except InvalidMessage as error:
            LOGGER.warning('a message to process %s is rejected: %s', 'any' if pid is None else pid, error)
            raise
        if pid is None:
            return self._enact_on_all(asked)
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

    def _enact_on_all(self, asked: IntentMessage) -> None:
        live = self._engine.core.source.reader.summaries(
            states=[state for state in ProcessState if not state.is_terminal]
        )
        pids = {each.pid for each in live}
        # What these have called comes with them.
        roots = [each.pid for each in live if each.parent not in pids]

        def enact(transaction: Transaction) -> None:
            if asked.intent is Intent.PAUSE:
                intents.pause(transaction, roots, asked.message)
            elif asked.intent is Intent.PLAY:
                intents.play(transaction, sorted(pids))
            else:
                intents.kill(transaction, roots, asked.message or 'killed')

        self._engine.core.store.call(enact).result()


def _status(node: ProcessNode) -> dict[str, Any]:
    state: ProcessState = node.state
    return {
        'ctime': node.created_at.timestamp(),
        'paused': node.paused,
        'process_string': f'<{node.process_label} pid={node.pid}>',
        'state': f'{ProcessState.__name__}.{state.name}',
    }
