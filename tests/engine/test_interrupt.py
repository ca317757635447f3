"""Ctrl-C goes to the whole process group: the process is killed durably, and nothing outlives the script."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time

import pytest

from treadle.engine import Engine

HEADER = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
import treadle.engine
from treadle.engine import Engine, Process, WorkChain, calcfunction, default_engine, on_kill, run, submit

HERE = Path(__file__).parent
QUIET = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}

class Waits(Process):
    '''Waits for a subprocess with a session of its own, as a step that must end it in an orderly way does.'''
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('n', valid_type=int)
    def run(self):
        if (HERE / 'again').exists():
            self.out('n', 1)
            return
        with subprocess.Popen(['sleep', '60'], start_new_session=True, **QUIET) as child, on_kill(lambda: stop(child)):
            print('sleeping', child.pid, flush=True)
            child.wait()
        (HERE / 'unwound').touch()

def stop(child):
    child.terminate()
    child.wait()
    time.sleep(0.2)  # what a callback may have to tidy up
    (HERE / 'called').touch()

class Parent(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('n', valid_type=int)
        spec.outline(cls.first)
    def first(self):
        self.out('n', run(Waits)['n'])
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def states(store):
    with Engine(store, claims='own') as engine:
        return {node.process_label: node.state.value for node in engine.query()}


def test_ctrl_c_in_a_blocked_run_kills_durably_and_ends_what_the_steps_have_started(scripts, store):
    script = scripts.begin(HEADER + """
try:
    run(Parent, metadata={'key': 'work'})
except KeyboardInterrupt:
    engine = default_engine()
    print('interrupted', *[node.state.value for node in engine.query()], (HERE / 'called').exists(), flush=True)
    raise
""")
    child = int(script.wait_for('sleeping'))
    script.interrupt()
    assert script.wait_for('interrupted') == 'killed killed True'
    ended = script.end()
    assert ended.code == -signal.SIGINT
    assert ended.err.rstrip().endswith('KeyboardInterrupt')
    assert 'StopTimeout' not in ended.err
    assert 'have not ended' not in ended.err
    assert not alive(child)
    assert (scripts.folder / 'unwound').exists()  # the step was over before the interpreter was
    assert states(store) == {'Parent': 'killed', 'Waits': 'killed'}
    # Running again starts anew, though the key is the same.
    (scripts.folder / 'again').touch()
    ended = scripts.run(HEADER + "print(run(Parent, metadata={'key': 'work'}))\n")
    assert (ended.code, ended.out, ended.err) == (0, "{'n': 1}\n", '')


def test_ctrl_c_in_a_function_that_was_called_in_the_main_thread(scripts, store):
    script = scripts.begin(HEADER + """
@calcfunction
def computes() -> int:
    with subprocess.Popen(['sleep', '60'], start_new_session=True, **QUIET) as child, on_kill(lambda: stop(child)):
        print('sleeping', child.pid, flush=True)
        child.wait()

@calcfunction
def outer() -> int:
    return computes()

outer()
""")
    child = int(script.wait_for('sleeping'))
    script.interrupt()
    ended = script.end()
    assert ended.code == -signal.SIGINT
    assert ended.err.rstrip().endswith('KeyboardInterrupt')
    assert not alive(child)
    assert (scripts.folder / 'called').exists()
    assert states(store) == {'outer': 'killed', 'computes': 'killed'}


def test_ctrl_c_in_a_blocked_run_ends_its_jobs_on_this_machine(scripts, store):
    script = scripts.begin(HEADER + """
from treadle.engine import Computer, ShellJob

class Jobs(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.first)
    def first(self):
        here = Computer('here', work_directory=str(HERE / 'work'), max_jobs=5)
        command = f'echo $$ >>{HERE}/pids; exec sleep 120'
        for number in range(5):
            job = self.submit(ShellJob, command='sh', arguments=['-c', command], options={'computer': here})
            self.to_context(**{f'job_{number}': job})

def tell():
    while not (HERE / 'pids').exists() or len((HERE / 'pids').read_text().split()) < 5:
        time.sleep(0.05)
    print('all run', flush=True)

threading.Thread(target=tell, daemon=True).start()
run(Jobs)
""")
    script.wait_for('all run')
    jobs = [int(word) for word in (scripts.folder / 'pids').read_text().split()]
    try:
        assert len(jobs) == 5 and all(map(alive, jobs))
        script.interrupt()
        ended = script.end(20)
        assert ended.code == -signal.SIGINT
        assert [pid for pid in jobs if alive(pid)] == []
    finally:
        for pid in filter(alive, jobs):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_while_the_main_thread_waits_leaves_submitted_processes_alone(scripts, store):
    script = scripts.begin(HEADER + """
treadle.engine.default.EXIT_PATIENCE = 0.3
engine = default_engine()
engine.wait(submit(Waits))
""")
    child = int(script.wait_for('sleeping'))
    script.interrupt()
    ended = script.end()
    assert ended.code == -signal.SIGINT
    assert '1 submitted process(es) have not ended: 1.' in ended.err
    assert not alive(child)  # its step was given up at the exit, and goes on in the next engine


def test_a_step_that_cannot_be_ended_holds_up_neither_run_nor_the_exit_for_long(scripts, store):
    script = scripts.begin(HEADER + """
treadle.engine.intents.UNWINDING_PATIENCE = 60
class Burns(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
    def run(self):
        print('burning', flush=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
begun = None
try:
    run(Burns)
except KeyboardInterrupt:
    print('interrupted', flush=True)
    raise
""")
    script.wait_for('burning')
    begun = time.monotonic()
    script.interrupt()
    script.wait_for('interrupted')
    assert time.monotonic() - begun < 30
    ended = script.end()
    assert ended.code == -signal.SIGINT
    assert re.search(r"'treadle-step-\d+' is at", ended.err)
    assert states(store) == {'Burns': 'killed'}


@pytest.mark.parametrize('moment', ['while the store is locked', 'while a callback hangs'])
def test_a_second_ctrl_c_returns_at_once_whatever_is_locked(scripts, store, moment):
    locked = moment == 'while the store is locked'
    script = scripts.begin(HEADER + """
if 'hang' in sys.argv:
    def stop(child):
        print('in callback', flush=True)
        threading.Event().wait(60)
try:
    run(Waits)
except KeyboardInterrupt:
    print('interrupted', flush=True)
    raise
""", *([] if locked else ['hang']))
    child = int(script.wait_for('sleeping'))
    connection = sqlite3.connect(store.removeprefix('sqlite:///'), isolation_level=None)
    try:
        if locked:
            connection.execute('BEGIN IMMEDIATE')
        script.interrupt()
        if not locked:
            script.wait_for('in callback')
        # Long enough for the first one to be dealt with as far as it goes; it does not return by itself.
        with pytest.raises(AssertionError):
            quickly(script, 'interrupted')
        begun = time.monotonic()
        script.interrupt()
        script.wait_for('interrupted')
        ended = script.end()
        assert time.monotonic() - begun < 5
    finally:
        connection.close()
        if alive(child):
            os.kill(child, signal.SIGKILL)
    assert ended.code == -signal.SIGINT
    assert 'KeyboardInterrupt' in ended.err


def quickly(script, text):
    with script._grown:
        assert script._grown.wait_for(lambda: any(line.startswith(text) for line in script._lines), 0.5)
