"""The processes that all hosts run."""

import os
import subprocess
from pathlib import Path

from treadle.engine import WorkChain, calcfunction, on_kill


@calcfunction
def increment(n: int) -> int:
    """Runs in the thread that calls it."""
    return n + 1


class Double(WorkChain):
    """Two steps, one of which calls a function."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)
        spec.outline(cls.begin, cls.end)

    def begin(self):
        self.ctx.n = increment(2 * self.inputs.n)

    def end(self):
        self.out('n', self.ctx.n - 1)


class Waits(WorkChain):
    """A step that takes until the test opens the gate, between two that take no time."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('gate', valid_type=Path, help='a folder that the test has made, see `Gate` in conftest.py')
        spec.output('n', valid_type=int)
        spec.outline(cls.begin, cls.wait, cls.end)

    def begin(self):
        self.note('begin')
        self.ctx.n = 1

    def wait(self):
        self.note('wait')
        gate, quiet = self.inputs.gate, {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        if not (gate / 'open').exists():
            return
        # In a session of its own, which it has when Popen() returns: no Ctrl-C reaches it.
        reader = subprocess.Popen(['cat', gate / 'open'], start_new_session=True, **quiet)
        with reader, on_kill(reader.terminate):
            (gate / 'entered').write_text(str(os.getpid()))  # a pipe: goes on when the test has read it
            reader.wait()

    def end(self):
        self.note('end')
        self.out('n', self.ctx.n)

    def note(self, step):
        with open(self.inputs.gate / 'effects', 'a') as effects:
            effects.write(f'{step}\n')
