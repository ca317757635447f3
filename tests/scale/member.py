"""One member of a company whose members share a store: a worker, or one that submits and may work, too.

They are told all by an order (see ``forkserver.py``), and say in a file what they have submitted.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

import orders
from forkserver import serve

from treadle.engine import Engine, ProcessLauncher, StoreError
from treadle.engine.communication.communicator import final_answer
from treadle.engine.communication.messages import launch_body
from treadle.engine.errors import CommunicationError, UnroutableError

T = TypeVar('T')
#: Seconds between two tries of a call that the store could not take.
PAUSE = 0.05
#: Seconds after which an answer is taken for lost.
ANSWER = 2.0
_pause = threading.Event()


def _work(engine: Engine, order: dict[str, Any]) -> None:
    """Run what there is, and what tasks ask for, until SIGTERM."""
    if 'broker' in order['engine']:
        engine.communicator.add_task_subscriber(ProcessLauncher(engine))
    signal.sigwait({signal.SIGTERM})


def _submit(engine: Engine, order: dict[str, Any]) -> None:
    """Submit orders, by and by, then wait for their ends and look at the results.

    What has a key is tried until the store has taken it. What has none is tried once: nobody could tell whether an
    error came before or after the commit.
    """
    if order.get('idle'):
        engine.core.begin_no_step()  # it claims nothing
    pids: dict[int, int] = {}
    with open(order['submitted'], 'a', buffering=1) as book:
        for number in range(order['first'], order['first'] + order['count']):
            submit = functools.partial(engine.submit, orders.kind_of(number), n=number)
            if number % 2:
                pid = _insist(lambda submit=submit, key=f'order {number}': submit(metadata={'key': key}).pid)
            else:
                pid = _try_once(book, number, lambda submit=submit: submit().pid)
            if pid is not None:
                pids[number] = pid
                book.write(f'{number} {pid}\n')
            _pause.wait(order['pace'])
    _check(engine, pids)


def _send(engine: Engine, order: dict[str, Any]) -> None:
    """Have workers start processes, by messages, one after the other; then wait for their ends.

    What has a key is sent until there is an answer. What has none is sent once, where no message may be lost.
    """
    engine.core.begin_no_step()
    pids: dict[int, int] = {}
    with open(order['submitted'], 'a', buffering=1) as book:
        for number in range(order['first'], order['first'] + order['count']):
            inputs: dict[str, Any] = {'n': number}
            if order['all_keys'] or number % 2:
                inputs['metadata'] = {'key': f'order {number}'}
            task = launch_body(f'orders:{orders.kind_of(number).__name__}', inputs)
            pids[number] = _ask(engine, task, again='metadata' in inputs)
            book.write(f'{number} {pids[number]}\n')
            _pause.wait(order['pace'])
    _check(engine, pids)


def _ask(engine: Engine, task: Any, *, again: bool) -> int:
    while True:
        try:
            answer = engine.communicator.task_send(task)
            return int(final_answer(answer).result(ANSWER if again else None))
        except (CommunicationError, TimeoutError, UnroutableError) as error:
            if not again:
                raise
            sys.stderr.write(f'sent again: {error!r}\n')
            _pause.wait(PAUSE)


def _wait_at_gates(engine: Engine, order: dict[str, Any]) -> None:
    """Submit a few gates, have workers start many processes that wait for them, and wait for the answers: results."""
    engine.core.begin_no_step()
    first, count = order['first'], order['count']
    gates = [engine.submit(orders.Gate, n=first + count + each).pid for each in range(order['gates'])]
    numbers, answers = range(first, first + count), []
    with open(order['submitted'], 'a', buffering=1) as book:
        for number in numbers:
            inputs = {'n': number, 'gate': gates[number % len(gates)]}
            task = launch_body(f'orders:{orders.Patient.__name__}', inputs, nowait=False)
            answers.append(final_answer(engine.communicator.task_send(task)))
            book.write(f'{number} sent\n')
    results = [answer.result()['y'] for answer in answers]
    if results != [orders.result_of(number, orders.Patient) for number in numbers]:
        raise AssertionError(results)


def _check(engine: Engine, pids: dict[int, int]) -> None:
    nodes = _insist(lambda: engine.wait(pids.values()))
    for number, node in zip(pids, nodes, strict=True):
        expected = orders.result_of(number, orders.kind_of(number))
        if not node.is_finished_ok or _insist(lambda node=node: node.outputs.y) != expected:
            raise AssertionError(f'order {number}, process {node.pid}: {node.state}, {node.exception}')


def _insist(attempt: Callable[[], T]) -> T:
    while True:
        try:
            return attempt()
        except StoreError as error:
            sys.stderr.write(f'tried again: {error}\n')
            _pause.wait(PAUSE)


def _try_once(book: TextIO, number: int, attempt: Callable[[], int]) -> int | None:
    try:
        return attempt()
    except StoreError as error:
        sys.stderr.write(f'order {number} is left alone: {error}\n')
        book.write(f'{number} ?\n')
        return None


ROLES = {'work': _work, 'submit': _submit, 'send': _send, 'wait at gates': _wait_at_gates}


def _started(order: dict[str, Any]) -> Engine:
    """An engine, started when its store is there, whether its broker is or not."""

    def start() -> Engine:
        engine = Engine(order['store'], name=order['name'], **order['engine'])
        return engine.start(needs_broker=False)

    return _insist(start)


def main(order: dict[str, Any]) -> None:
    """One member, in one of the roles."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before there are threads: _work waits for it
    orders.open_book(order['book'], order['slowness'])
    engine = _started(order)
    try:
        if order.get('ready'):
            os.close(os.open(order['ready'], os.O_WRONLY | os.O_CREAT))
        ROLES[order['role']](engine, order)
    finally:
        engine.stop()


if __name__ == '__main__':
    serve(main)
