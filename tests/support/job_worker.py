"""A worker that runs jobs until SIGTERM, or until it comes to grief: ``job_worker.py ORDER``, with an order in JSON."""

from __future__ import annotations

import json
import signal
import sys

from jobs import HASTY

from treadle.engine import Engine
from treadle.engine.testing import KillAt


def main() -> None:
    order = json.loads(sys.argv[1])
    faults = KillAt(*order['dies_at']) if 'dies_at' in order else None
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with Engine(
        order['store'], broker=order['broker'], claims='all', timing=HASTY, lease=order['lease'], faults=faults
    ):
        print('working', flush=True)
        signal.sigwait({signal.SIGTERM})


main()
