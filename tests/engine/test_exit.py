"""The end of the interpreter: bounded, quiet, and it says what has not ended and how it goes on."""

from __future__ import annotations

import re

HEADER = """
import os, sys, threading, time
from pathlib import Path
import treadle.engine
from treadle.engine import Engine, Process, WorkChain, calcfunction, default_engine, on_kill, run, submit

HERE = Path(__file__).parent

class Chain(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('block', valid_type=bool, default=False)
        spec.output('n', valid_type=int)
        spec.outline(cls.first, cls.second)
    def first(self):
        with open(HERE / 'effects', 'a') as file:
            file.write('first\\n')
        if self.inputs.block and not (HERE / 'unblocked').exists():
            print('blocking', flush=True)
            threading.Event().wait(60)
    def second(self):
        self.out('n', 1)
"""


def test_a_script_that_runs_and_ends(scripts):
    ended = scripts.run(HEADER + 'print(run(Chain))\n')
    assert (ended.code, ended.out, ended.err) == (0, "{'n': 1}\n", '')


def test_a_script_that_submits_and_ends_says_what_is_left_and_goes_on_when_run_again(scripts):
    text = HEADER + """
if len(sys.argv) == 1:
    for _ in range(400):
        node = submit(Chain, block=True)
    sys.stdout.flush()
else:
    (HERE / 'unblocked').touch()
    engine = default_engine()
    for node in engine.wait(engine.query(process_label='Chain')):
        assert node.is_finished_ok, node.state
    print('all', len(engine.query(process_label='Chain')))
"""
    text = text.replace('if len', 'treadle.engine.default.EXIT_PATIENCE = 0.5\nif len')
    ended = scripts.run(text)
    assert ended.code == 0
    assert re.search(r'treadle: 400 submitted process\(es\) have not ended: 1, 2, 3, 4, 5, .*, 10, \.\.\.', ended.err)
    assert 'go on when this script runs again' in ended.err
    assert scripts.store in ended.err
    assert 'Traceback' not in ended.err
    ended = scripts.run(text, 'again')
    assert (ended.code, ended.out, ended.err) == (0, 'all 400\n', '')


def test_a_script_that_ends_at_once_after_its_submission(scripts):
    text = HEADER + 'submit(Chain)\n'
    ended = scripts.run(text)
    assert ended.code == 0
    assert 'Traceback' not in ended.err
    ended = scripts.run(HEADER + 'engine = default_engine(); print(engine.wait(1).outputs.n)\n')
    assert (ended.code, ended.out) == (0, '1\n')


def test_exit_is_bounded_while_a_step_blocks_and_names_it(scripts):
    text = HEADER + """
treadle.engine.default.EXIT_PATIENCE = 0.5
node = submit(Chain, block=True)
while not (HERE / 'effects').exists():
    time.sleep(0.01)
print('exits', flush=True)
"""
    script = scripts.begin(text)
    script.wait_for('exits')
    ended = script.end(timeout=8)
    assert ended.code == 0
    assert re.search(r"'treadle-step-\d+' is at", ended.err)
    assert '1 submitted process(es) have not ended: 1.' in ended.err
    assert 'Traceback' not in ended.err


def test_a_subprocess_of_a_step_that_outlives_the_patience_is_ended_by_its_on_kill(scripts):
    text = HEADER + """
import subprocess
treadle.engine.default.EXIT_PATIENCE = 0.5

class Waits(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
    def run(self):
        with subprocess.Popen(['sleep', '60'], start_new_session=True) as child, on_kill(child.terminate):
            (HERE / 'pid').write_text(str(child.pid))
            child.wait()

submit(Waits)
while not (HERE / 'pid').exists() or not (HERE / 'pid').read_text():
    time.sleep(0.01)
"""
    ended = scripts.run(text)
    assert ended.code == 0
    assert '1 submitted process(es) have not ended: 1.' in ended.err
    assert not alive(int((scripts.folder / 'pid').read_text()))


def alive(pid):
    import os

    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_exit_with_a_blocking_run_in_a_daemon_thread(scripts):
    text = HEADER + """
treadle.engine.default.EXIT_PATIENCE = 0.5
threading.Thread(target=run, args=(Chain,), kwargs={'block': True}, daemon=True).start()
while not (HERE / 'effects').exists():
    time.sleep(0.01)
"""
    ended = scripts.run(text)
    assert ended.code == 0
    assert '1 submitted process(es) have not ended: 1.' in ended.err
    assert 'Fatal' not in ended.err


def test_sys_exit_in_a_thread_and_in_the_main_thread(scripts):
    ended = scripts.run(HEADER + """
thread = threading.Thread(target=lambda: (print(run(Chain)), sys.exit(5)))
thread.start()
thread.join()
sys.exit(3)
""")
    assert (ended.code, ended.out, ended.err) == (3, "{'n': 1}\n", '')


def test_threads_that_outlive_the_main_thread_go_on_using_the_engine(scripts):
    # From 3.12 on no thread can be started once the main thread has ended.
    ended = scripts.run(HEADER + """
default_engine()
def late():
    threading.main_thread().join()
    for _ in range(20):
        assert run(Chain)['n'] == 1
    print('late done')
threading.Thread(target=late).start()
""")
    assert ended.code == 0
    if 'late done' not in ended.out:
        assert sys_refuses_threads(ended.err)
    assert 'the store thread died' not in ended.err


def sys_refuses_threads(err):
    return "can't start new thread at interpreter shutdown" in err or 'have not ended' in err


def test_an_unstarted_and_an_unstopped_engine(scripts):
    ended = scripts.run(HEADER + """
unstarted = Engine(f'sqlite:///{HERE}/a.db')
unstopped = Engine(f'sqlite:///{HERE}/b.db').start()
print(unstopped.run(Chain))
""")
    assert (ended.code, ended.out, ended.err) == (0, "{'n': 1}\n", '')


def test_an_uncaught_exception_of_a_process_ends_the_script_as_python_does(scripts):
    ended = scripts.run(HEADER + """
@calcfunction
def fails(x: int) -> int:
    raise ZeroDivisionError('of the function')

fails(1)
""")
    assert ended.code == 1
    assert ended.err.rstrip().endswith('ZeroDivisionError: of the function')


def test_a_class_that_was_edited_is_not_run_under_the_old_process(scripts):
    text = HEADER + """
treadle.engine.default.EXIT_PATIENCE = 0.2
node = submit(Chain, block=True)
while not (HERE / 'effects').exists():
    time.sleep(0.01)
"""
    assert '1 submitted process(es) have not ended: 1.' in scripts.run(text).err
    look = """
(HERE / 'unblocked').touch()
engine = default_engine()
node = engine.load(1)
engine.run(Chain)
print(node.state, engine.core.claims.parked.get(1))
"""
    ended = scripts.run(HEADER.replace("self.out('n', 1)", "self.out('n', 2)") + look)
    assert ended.code == 0
    assert ended.out.startswith('running ')
    assert 'has been edited since the process began; restore the source' in ended.out
    assert 'process 1 waits for its class' in ended.err
    # With the source that it began with it goes on.
    ended = scripts.run(HEADER + look + 'print(engine.wait(1).outputs.n)\n')
    assert ended.code == 0
    assert ended.out.endswith('\n1\n')


def test_a_class_made_in_a_function_or_a_cell_is_parked_after_a_crash_with_the_reason(scripts):
    text = HEADER + """
import signal
CELL = '''
class FromACell(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('block', valid_type=bool, default=False)
    def run(self):
        if self.inputs.block:
            print('blocking cell', flush=True)
            threading.Event().wait(60)
'''
def local():
    class Local(Process):
        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.input('block', valid_type=bool, default=False)
        def run(self):
            if self.inputs.block:
                print('blocking local', flush=True)
                threading.Event().wait(60)
    return Local
exec(CELL)
if len(sys.argv) == 1:
    for process in (local(), FromACell):
        assert default_engine().run_get_node(process)[1].is_finished_ok
        submit(process, block=True)
    time.sleep(60)
else:
    engine = default_engine()
    blocked = [node for node in engine.query() if not node.is_terminated]
    run(Chain)
    for node in blocked:
        print(node.process_label, node.state, node.exception, engine.core.claims.parked[node.pid])
"""
    script = scripts.begin(text)
    script.wait_for('blocking local')
    script.wait_for('blocking cell')
    script.process.kill()
    script.end()
    ended = scripts.run(text, 'again')
    assert ended.code == 0, ended.err
    cell, local = sorted(ended.out.splitlines())
    assert cell.startswith('FromACell running None')
    assert local.startswith('Local running None')
    assert 'only the OS process that made it' in local
    assert ended.err.count('waits for its class') == 2
