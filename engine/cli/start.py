"""``treadle run``, ``submit`` and ``worker``: the commands that import modules of the user's."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, Final

import click
import msgspec

from ..errors import StoreLost, TreadleError
from ..launch import code_of, compose
from ..store import notes
from ..store.control import write_once
from ..store.location import StoreLocation, locate
from ..store.records import Held, ProcessRecord, Unit
from ..store.transaction import Transaction
from ..store.units import apply
from ..values import Codec
from ..why import WORKER
from .completion import TARGET
from .display import as_data, describe_values, ending
from .logging import log_options, logging_of_command
from .options import broker_option, json_option, patiently, store_option, wait_option
from .output import clean, write_json
from .targets import find_target, import_from_here, parse_inputs

__all__ = ['run', 'submit', 'worker']

FAILED: Final = 1
#: What is submitted from the command line belongs to no engine: a worker takes it.
_NO_ENGINE: Final = 0
#: What tells a worker to leave.
_LEAVE: Final = (signal.SIGTERM, signal.SIGINT)
#: Seconds between two looks whether the worker's engine is well.
_LOOK: Final = 1.0

_target = click.argument('target', metavar='MODULE:NAME', type=TARGET)
_words = click.argument('words', metavar='[KEY=VALUE]...', nargs=-1)


@click.command(short_help='Run a process class or function to its end, here.')
@_target
@_words
@json_option
@log_options
@broker_option
@store_option
@click.pass_context
def run(
    context: click.Context,
    target: str,
    words: tuple[str, ...],
    as_json: bool,
    log_levels: dict[str, int],
    log_file: str | None,
    broker: str | None,
    store: str | None,
) -> None:
    """Run a process class or function to its end, here, and print its outputs.

    Values are JSON, else text; @path is a file; dots lead into namespaces (options.depth=2, metadata.key=a).
    Ctrl-C kills the process.
    """
    from ..engine import Engine  # noqa: PLC0415  (the parts of an engine take long to import)

    inputs = parse_inputs(words)
    found = find_target(target)
    with Engine(store, broker, name='run', logging=logging_of_command(log_levels, log_file)) as engine:
        calls, node = engine.core.take_call(), None
        try:
            # From here on a Ctrl-C finds the process, at whatever moment it comes: its steps may run before we look.
            node, ended = _checked(lambda: calls.starts.start(found, inputs))
            click.echo(f'process {node.pid} ({clean(node.process_label)})', err=True)
            calls.waits.wait_for(node, ended, None, 'run', 'treadle submit')
        except KeyboardInterrupt:
            if node is not None:
                calls.intents.interrupted(node.pid)
            raise
        record = engine.core.source.reader.process(node.pid)
    if as_json:
        write_json(
            {
                'pid': record.pid,
                'state': record.state,
                'exit_status': record.exit_status,
                'exit_message': record.exit_message,
                'outputs': as_data(record.outputs),
            }
        )
    else:
        for line in describe_values(record.outputs, None):
            click.echo(line)
    if record.exit_status != 0:
        click.echo(f'treadle: process {record.pid} {ending(record)}; `treadle show {record.pid}` says more', err=True)
        context.exit(FAILED)


@click.command(short_help='Put a process into the store, for a worker to run.')
@_target
@_words
@wait_option
@store_option
def submit(target: str, words: tuple[str, ...], wait: float | None, store: str | None) -> None:
    """Put a process into the store, for a worker to run, and print its pid.

    It is durable when the pid is printed. Values as for `treadle run`.
    """
    inputs = parse_inputs(words)
    found = find_target(target)
    location = locate(store)
    patiently(wait, location.ensure_schema)
    click.echo(_checked(lambda: _enqueue(location, found, inputs)))


def _enqueue(location: StoreLocation, target: Any, inputs: dict[str, Any]) -> int:
    with contextlib.closing(location.objects()) as objects, contextlib.closing(location.open_reader()) as reader:
        # The inputs are encoded, and files written, before the lock is taken.
        record = compose(target, inputs, codec=Codec(objects=objects), reader=reader, pid=0, origin=_NO_ENGINE)
    code = code_of(target)
    return write_once(location, lambda transaction: _insert(transaction, record, code))


def _insert(transaction: Transaction, record: ProcessRecord, code: dict[str, str]) -> int:
    notes.keep_code(transaction, code)
    pid = transaction.reserve_pids(1) - 1
    (verdict,) = apply(transaction, [Unit(create=(msgspec.structs.replace(record, pid=pid),))])
    attached = verdict.attached if isinstance(verdict, Held) else None
    return pid if attached is None else attached.pid


@click.command(short_help='Run whatever is in the store, until SIGTERM or Ctrl-C.')
@click.option('--workers', metavar='N', type=click.IntRange(min=1), default=2, show_default=True,
              help='Threads with a loop that drive processes.')  # fmt: skip
@click.option('--steps', metavar='N', type=click.IntRange(min=1),
              help='Synchronous steps that may execute at once. Default: by the number of cores.')  # fmt: skip
@click.option('--drain', metavar='SECONDS', type=click.FloatRange(min=0), default=60.0, show_default=True,
              help='How long steps that execute may take to end, once it is told to leave.')  # fmt: skip
@wait_option
@log_options
@broker_option
@store_option
def worker(
    workers: int,
    steps: int | None,
    drain: float,
    wait: float | None,
    log_levels: dict[str, int],
    log_file: str | None,
    broker: str | None,
    store: str | None,
) -> None:
    """Run whatever is in the store and can be imported from here, until SIGTERM or Ctrl-C.

    With a broker it also does the tasks that controllers send there. In the end each step that executes comes to its
    checkpoint, and what is unfinished is left for others. A second signal
    ends it at once, which loses nothing but the work of the present steps.
    """
    from ..engine import Engine  # noqa: PLC0415  (the parts of an engine take long to import)
    from ..launcher import ProcessLauncher  # noqa: PLC0415

    import_from_here()
    told = threading.Event()

    def leave(number: int, frame: Any) -> None:
        for each in _LEAVE:
            signal.signal(each, signal.SIG_DFL)
        told.set()

    def start() -> Engine:
        engine = Engine(
            store,
            broker,
            workers=workers,
            steps=steps,
            claims='all',
            name=WORKER,
            logging=logging_of_command(log_levels, log_file),
        )
        before = {number: signal.signal(number, leave) for number in _LEAVE}
        try:
            return engine.start(needs_broker=wait is None)
        except BaseException:
            for number, handler in before.items():
                signal.signal(number, handler)
            if told.is_set():
                raise click.Abort from None
            raise

    engine = patiently(wait, start)
    tasks = engine.communicator.add_task_subscriber(ProcessLauncher(engine))
    click.echo(f'treadle: engine {engine.core.membership.engine_id} works on {engine.location.url}', err=True)
    while not told.wait(_LOOK):
        if engine.core.dispatcher.is_closed:
            crash = engine.core.crash
            engine.stop(drain)
            if isinstance(crash, StoreLost):
                raise crash
            raise click.ClickException('the engine has failed; its log says why')
    engine.communicator.remove_task_subscriber(tasks)
    engine.core.begin_no_step()
    click.echo(f'treadle: leaving; steps that execute have {drain:g} s to come to their checkpoint', err=True)
    engine.stop(drain)


def _checked(start: Any) -> Any:
    """What ``start`` returns; a mistake in what the user has typed as a line and not as a traceback."""
    try:
        return start()
    except TreadleError:
        raise
    except TypeError as error:
        raise click.ClickException(str(error)) from error
