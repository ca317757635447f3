"""plumpy's controllers, in an OS process of their own, drive a worker as they drive workers of plumpy's."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import scripts

pytestmark = pytest.mark.timeout(180)

MODULE = """
import pathlib, time
from treadle.engine import Process

class Echo(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('y', valid_type=int)
    def run(self):
        self.out('y', self.inputs.x)

class Held(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('file', valid_type=str)
    def run(self):
        while not pathlib.Path(self.inputs.file).exists():
            time.sleep(0.01)

class Fails(Process):
    def run(self):
        raise ValueError('it is odd')
"""

CONTROLLER = """
import asyncio, json, pathlib, sys, time
import kiwipy.rmq, plumpy, jobs
from treadle.engine.communication.address import address_of
from treadle.engine.communication.rabbit import RabbitCommunicator

communicator = kiwipy.rmq.RmqThreadCommunicator.connect(connection_params={'url': sys.argv[1]})
thread = plumpy.RemoteProcessThreadController(communicator)
remote = plumpy.RemoteProcessController(communicator)
said = {}

def final(future):
    result = future.result(100)
    while isinstance(result, kiwipy.Future):
        result = result.result(100)
    return result

def until(pid, **wanted):
    deadline = time.monotonic() + 100
    while True:
        status = final(thread.get_status(pid))
        if all(status[key] == value for key, value in wanted.items()):
            return status
        assert time.monotonic() < deadline, (status, wanted)
        time.sleep(0.01)

inputs = {'inputs': {'x': 3}}
held = lambda name: {'inputs': {'file': name}}

heard = []
communicator.add_broadcast_subscriber(
    kiwipy.BroadcastFilter(lambda _, body, sender, subject, cid: heard.append((sender, subject)),
                           subject='state_changed.*.finished'))

# -- the controller whose calls return futures
said['launch'] = final(thread.launch_process(jobs.Echo, init_kwargs=inputs))
said['launch with positional inputs'] = final(thread.launch_process(jobs.Echo, init_args=({'x': 4},)))
pid = final(thread.launch_process(jobs.Echo, init_kwargs=inputs, nowait=True))
said['launch nowait'] = isinstance(pid, int)
said['continue'] = final(thread.continue_process(pid))
said['continue nowait'] = final(thread.continue_process(pid, nowait=True)) == pid
said['launch no reply'] = thread.launch_process(jobs.Echo, init_kwargs=inputs, no_reply=True)
# Over kiwipy's own communicator this call waits for itself: it sends the second task in a callback of the answer to the
# first, which runs on the very loop that is to send it.
ours = RabbitCommunicator(address_of(sys.argv[1]))
ours.start()
said['execute'] = final(plumpy.RemoteProcessThreadController(ours).execute_process(jobs.Echo, init_kwargs=inputs))
ours.close()
said['status of finished'] = until(pid, state='ProcessState.FINISHED')['process_string']
one = final(thread.launch_process(jobs.Held, init_kwargs=held('one'), nowait=True))
until(one, state='ProcessState.RUNNING')
said['pause'] = final(thread.pause_process(one, 'wait a moment'))
said['paused'] = until(one, paused=True)['paused']
said['play'] = final(thread.play_process(one))
said['played'] = until(one, paused=False)['paused']
said['kill'] = final(thread.kill_process(one, 'enough'))
said['killed'] = until(one, state='ProcessState.KILLED')['state']
said['kill again'] = final(thread.kill_process(one))
said['pause what has ended'] = final(thread.pause_process(one))
two, three = (final(thread.launch_process(jobs.Held, init_kwargs=held(name), nowait=True)) for name in ('two', 'three'))
thread.pause_all('all of you')
until(two, paused=True), until(three, paused=True)
thread.play_all()
until(two, paused=False), until(three, paused=False)
thread.kill_all('all of you')
said['kill all'] = [until(each, state='ProcessState.KILLED')['state'] for each in (two, three)]
for name, future in {
    'fails': thread.launch_process(jobs.Fails),
    'missing input': thread.launch_process(jobs.Echo),
    'unknown pid': thread.continue_process(999999),
    'status of unknown pid': thread.get_status(999999),
    'unknown task': thread.task_send({'task': 'dance', 'args': {}}),
}.items():
    try:
        said[name] = final(future)
    except kiwipy.RemoteException as error:
        said[name] = str(error)

# -- the controller whose calls are coroutines
async def main():
    said['async launch'] = await remote.launch_process(jobs.Echo, init_kwargs=inputs)
    said['async execute'] = await remote.execute_process(jobs.Echo, init_kwargs=inputs)
    pid = await remote.launch_process(jobs.Held, init_kwargs=held('four'), nowait=True)
    said['async status'] = (await remote.get_status(pid))['paused']
    said['async pause'] = await remote.pause_process(pid, 'wait')
    said['async play'] = await remote.play_process(pid)
    pathlib.Path('four').touch()
    said['async continue'] = await remote.continue_process(pid)
    pid = await remote.launch_process(jobs.Held, init_kwargs=held('five'), nowait=True)
    said['async kill'] = await remote.kill_process(pid, 'enough')
asyncio.run(main())

deadline = time.monotonic() + 100
while len({sender for sender, _ in heard}) < 8 and time.monotonic() < deadline:
    time.sleep(0.01)
said['heard of ends'] = len({sender for sender, _ in heard})
communicator.close()
for name in ('one', 'two', 'three', 'five'):  # whose steps execute still, though their processes were killed
    pathlib.Path(name).touch()
print('SAID', json.dumps(said))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'jobs.py').write_text(MODULE)
    return tmp_path


@pytest.fixture
def worker(folder: Path, broker: str) -> Iterator[scripts.Script]:
    """A worker on the broker, which takes tasks."""
    command = [Path(sys.executable).with_name('treadle'), 'worker', '--store', f'sqlite:///{folder}/store.db']
    with scripts.launch(command, folder=folder, TREADLE_BROKER=broker) as script:
        script.wait_for_log('works on')
        yield script


def test_every_call_of_both_controllers(folder: Path, broker: str, worker: scripts.Script) -> None:
    (folder / 'controller.py').write_text(CONTROLLER)
    with scripts.launch([sys.executable, 'controller.py', broker], folder=folder) as controller:
        said = json.loads(controller.wait_for('SAID'))
        assert controller.end().code == 0
    outputs = {'y': 3}
    assert said.pop('status of finished').startswith('<Echo pid=')
    assert said.pop('missing input').startswith('Echo: inputs.x: required')
    assert said.pop('unknown pid').startswith('there is no process 999999')
    assert 'there is no process 999999' in said.pop('status of unknown pid')
    assert said.pop('unknown task').startswith("'dance' is no task")
    assert said == {
        'launch': outputs,
        'launch with positional inputs': {'y': 4},
        'launch nowait': True,
        'continue': outputs,
        'continue nowait': True,
        'launch no reply': None,
        'execute': outputs,
        'pause': True,
        'paused': True,
        'play': True,
        'played': False,
        'kill': True,
        'killed': 'ProcessState.KILLED',
        'kill again': True,
        'pause what has ended': False,
        'kill all': ['ProcessState.KILLED'] * 2,
        'fails': 'ValueError: it is odd',
        'async launch': outputs,
        'async execute': outputs,
        'async status': False,
        'async pause': True,
        'async play': True,
        'async continue': {},
        'async kill': True,
        'heard of ends': 8,
    }
    os.kill(worker.process.pid, signal.SIGTERM)
    ended = worker.end()
    assert ended.code == 0 and 'guest:guest' not in ended.err
