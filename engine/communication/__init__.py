"""Messages between engines and whoever controls them, in the vocabulary of ``kiwipy`` and ``plumpy``."""

from __future__ import annotations

from .communicator import BroadcastFilter, Communicator, final_answer
from .local import LocalCommunicator

__all__ = ['BroadcastFilter', 'Communicator', 'LocalCommunicator', 'final_answer']
