"""Forks: an inherited engine refuses at once, the default engine starts anew, and the parent's is untouched."""

from __future__ import annotations

PRELUDE = """
import os, sys, threading, time, warnings
from pathlib import Path
# From 3.12 on Python warns of every fork beside threads; what happens after one is what is looked at here.
warnings.filterwarnings('ignore', message='.*multi-threaded, use of fork', category=DeprecationWarning)
import treadle.engine
from treadle.engine import Engine, Process, calcfunction, default_engine, run, submit
from treadle.engine.processes.visit import current_visit
from treadle.threads import Forked

HERE = Path(__file__).parent

class Double(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)
    def run(self):
        self.out('n', 2 * self.inputs.n)

@calcfunction
def double(n: int) -> int:
    return 2 * n

def refusals(engine, node):
    async def in_coroutine(call):
        await call()
    import asyncio
    calls = dict(
        run=lambda: engine.run(Double, n=1),
        run_get_node=lambda: engine.run_get_node(Double, n=1),
        submit=lambda: engine.submit(Double, n=1),
        wait=lambda: engine.wait(1, timeout=1),
        future=lambda: engine.future(1),
        load=lambda: engine.load(1),
        query=lambda: engine.query(),
        kill=lambda: engine.kill(1),
        unfinished=lambda: engine.unfinished(),
        start=lambda: engine.start(),
        run_async=lambda: asyncio.run(engine.run_async(Double, n=1)),
        wait_async=lambda: asyncio.run(engine.wait_async(1)),
        call_function=lambda: engine.core.host.call_function(double, (1,), {}),
    )
    refused = []
    for name, call in calls.items():
        try:
            call()
        except Forked as error:
            assert 'engine' in str(error) and 'create and start an engine of its own' in str(error), error
            refused.append(name)
    assert len(refused) == len(calls), set(calls) - set(refused)
    assert not engine.is_running
    engine.stop()
    return len(refused)

def in_child(call):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_an_inherited_engine_refuses_every_call_at_once_and_the_parents_goes_on(scripts):
    ended = scripts.run(PRELUDE + """
with Engine(f'sqlite:///{HERE}/explicit.db', name='explicit') as engine:
    node = engine.run_get_node(Double, n=1)[1]
    assert in_child(lambda: print('refused', refusals(engine, node))) == 0
    lock = list((HERE / 'explicit.db').parent.rglob('*.lock'))
    print('locks', len(lock))
    assert engine.run(Double, n=2) == {'n': 4}
    # Another engine sees that the parent's lives: it takes nothing away from it.
    with Engine(f'sqlite:///{HERE}/explicit.db') as other:
        assert len(other.core.source.reader.live_engines()) == 2
""")
    assert (ended.code, ended.err) == (0, '')
    assert ended.out == 'refused 13\nlocks 1\n'


def test_a_child_that_exits_as_python_does_leaves_the_parents_engine_alone(scripts):
    ended = scripts.run(PRELUDE + """
engine = default_engine()
gate = threading.Event()
run(Double, n=1)
pid = os.fork()
if pid == 0:
    print('child', run(Double, n=2), default_engine() is engine, flush=True)
    sys.exit(0)  # with all of Python's finalization
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print('parent', run(Double, n=3), default_engine() is engine, len(engine.query()))
""")
    assert (ended.code, ended.err) == (0, '')
    assert ended.out == "child {'n': 4} False\nparent {'n': 6} True 3\n"


def test_forking_inside_a_step_clears_the_step(scripts):
    ended = scripts.run(PRELUDE + """
class Forks(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('code', valid_type=int)
    def run(self):
        def child():
            assert current_visit() is None
            try:
                self._visit.host.engine.submit(Double, n=1)
            except Forked:
                print('forked', run(Double, n=5), default_engine().query(process_label='Double')[0].parent)
        self.out('code', in_child(child))

with Engine(f'sqlite:///{HERE}/explicit.db') as engine:
    print('parent', engine.run(Forks))
""")
    assert (ended.code, ended.err) == (0, '')
    assert ended.out == "forked {'n': 10} None\nparent {'code': 0}\n"


def test_forking_while_the_engine_is_busy_hangs_no_child(scripts):
    ended = scripts.run(PRELUDE + """
engine = default_engine()
stop = threading.Event()
def client():
    while not stop.is_set():
        run(Double, n=1)
        engine.query(limit=5)
clients = [threading.Thread(target=client) for _ in range(4)]
for each in clients:
    each.start()
codes = []
for number in range(12):
    codes.append(in_child(lambda: run(Double, n=number)))
stop.set()
for each in clients:
    each.join()
print(set(codes), all(node.is_finished_ok for node in engine.query()))
""")
    assert ended.code == 0, ended.err
    assert ended.out == '{0} True\n'
