"""An engine that submits a job and dies: ``victim.py ORDER``, where the order is JSON, or many of a fork server."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

from treadle.engine import Computer, Engine, ShellJob
from treadle.engine.testing import BlockAt, KillAt


class StopAt(BlockAt):
    """Stops this OS process with SIGSTOP, while it is in the middle of no transaction: others must be able to write.

    :ivar may_stop: set when it has said what the test wants to hear of it.
    """

    def __init__(self, point: str, hit: int) -> None:
        super().__init__(point, hit=hit)
        self._stopped = False
        self.may_stop = threading.Event()

    def hit(self, point: Any) -> None:
        super().hit(point)
        if point == 'store.batch-answered' and self.is_reached and not self._stopped:
            self._stopped = True
            self.may_stop.wait()
            # To this very thread, which comes no further: one that is sent to the process may be taken by another.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            self.release()


class KillOnceSubmitted(KillAt):
    """Counts from when the process is in the store: how many commits come before that depends on the machine."""

    submitted = False

    def hit(self, point: Any) -> None:
        if self.submitted:
            super().hit(point)


def run(order: dict[str, Any]) -> None:
    kinds = {'kill': KillAt, 'kill-once-submitted': KillOnceSubmitted, 'stop': StopAt}
    faults = kinds[order['act']](*order['where'])
    computer = Computer.from_dict(order['computer'])
    with Engine(order['store'], faults=faults, lease=order.get('lease', 10.0)) as engine:
        node = engine.submit(
            ShellJob,
            command='sh',
            arguments=['-c', order['command']],
            retrieve=['result'],
            metadata={'options': {'computer': computer}},
        )
        _say(order, 'pid', node.pid)
        if isinstance(faults, KillOnceSubmitted):
            faults.submitted = True
        if isinstance(faults, StopAt):
            faults.may_stop.set()
        engine.wait(node, timeout=50)
        _say(order, 'ended', node.state)


def _say(order: dict[str, Any], *words: object) -> None:
    if 'said' in order:
        with open(order['said'], 'a') as said:
            print(*words, file=said)
    else:
        print(*words, flush=True)


if len(sys.argv) > 1:
    run(json.loads(sys.argv[1]))
else:
    # What every run would import, each for itself.
    import paramiko  # noqa: F401
    import qtoolkit.io.slurm  # noqa: F401
    from forkserver import serve

    serve(run)
