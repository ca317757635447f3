"""Ports of 127.0.0.1 that nobody listens on."""

from __future__ import annotations

import random
import socket

# Below those from which Linux takes the ports of outgoing connections: a service that is down for a while must not
# find its port taken by somebody's connection when it comes back.
_RANGE = range(20000, 32000)


def is_free(port: int) -> bool:
    """Whether a service could listen there."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(('127.0.0.1', port))
        except OSError:
            return False
        return True


def choose(count: int) -> list[int]:
    """Different free ports."""
    chosen: list[int] = []
    for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
        if len(chosen) == count:
            break
        if is_free(port):
            chosen.append(port)
    return chosen
