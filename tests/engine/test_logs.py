"""Log streams: one for each process, whatever runs at the same time; the host's logging is its own."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading

import pytest

from treadle.engine import KilledError, Process, WorkChain, calcfunction, run
from treadle.engine.logging import CAPTURED

PATIENCE = 30.0


class Talks(WorkChain):
    """Logs in every way, while another one does the same."""

    together = threading.Barrier(2)

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('name', valid_type=str)
        spec.outline(cls.first, cls.second)

    def first(self):
        name = self.inputs.name
        for number in range(20):
            type(self).together.wait(PATIENCE)
            self.report('%s reports %d', name, number)
            self.logger.warning('%s warns %d', name, number)
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self.logger.error, '%s in a thread', name))
        thread.start()
        thread.join()

    async def second(self):
        self.report('%s on a loop', self.inputs.name)
        self.logger.warning('%s warns on a loop', self.inputs.name)


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    """Whatever a test does, its engines leave no handler and no level behind."""
    loggers = [logging.getLogger(name) for name in ('root', *CAPTURED, 'user', 'user.module')]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before


def messages(node):
    return [entry.message for entry in node.log]


def test_streams_of_processes_that_run_at_once_are_separate(engine):
    nodes = [engine.submit(Talks, name=name) for name in ('one', 'two')]
    for name, node in zip(('one', 'two'), engine.wait(nodes, PATIENCE), strict=True):
        assert node.is_finished_ok
        assert messages(node) == [
            *(line for number in range(20) for line in (f'{name} reports {number}', f'{name} warns {number}')),
            f'{name} in a thread',
            f'{name} on a loop',
            f'{name} warns on a loop',
        ]
        assert {entry.level for entry in node.log} == {23, logging.WARNING, logging.ERROR}


@calcfunction
def inner() -> int:
    logging.getLogger('treadle.process.inner').warning('inside')
    return 1


class Outer(Process):
    """Calls a function and runs a process, with lines of its own around them."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        self.report('before')
        inner()
        run(Quiet)
        self.logger.warning('after')


class Quiet(Process):
    """Says one thing."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        self.report('quiet')


def test_called_processes_have_streams_of_their_own(engine):
    node = engine.run_get_node(Outer)[1]
    assert messages(node) == ['before', 'after']
    assert [(each.process_label, messages(each)) for each in node.called] == [
        ('inner', ['inside']),
        ('Quiet', ['quiet']),
    ]


class Raises(Process):
    """Logs an exception, then raises one."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        try:
            raise LookupError('the first')
        except LookupError:
            self.logger.exception('caught')
        raise ValueError('the second')


def test_what_a_step_has_logged_before_it_raised_is_kept(engine):
    with pytest.raises(ValueError, match='the second'):
        engine.run(Raises)
    (node,) = engine.query(process_label='Raises')
    (entry,) = node.log
    assert entry.message.startswith('caught\nTraceback')
    assert 'LookupError: the first' in entry.message


class Unspeakable:
    """Something that cannot be shown."""

    def __repr__(self):
        raise LookupError('never')


#: What is reported, and what is kept of it.
CASES = {
    'mapping': (('%(a)s', {'a': 1}), '1'),
    'object': ((17,), '17'),
    'percent': (('100 %',), '100 %'),
    'wrong type': (('%d', 'x'), "%d ('x',) (TypeError('%d format: a real number is required, not str'))"),
    'surplus': (('one', 'two'), "one ('two',) (TypeError('not all arguments converted during string formatting'))"),
    'no text': ((Unspeakable(),), "<Unspeakable whose repr() raised LookupError> () (LookupError('never'))"),
    'no argument': (('%s', Unspeakable()), "%s <tuple whose repr() raised LookupError> (LookupError('never'))"),
    'surrogates': (('%s', '\udcff.txt'), '\\udcff.txt'),
    'not ascii': (('größer',), 'größer'),
}


class Reports(Process):
    """Reports what it is given."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('case', valid_type=str)

    def run(self):
        self.report(*CASES[self.inputs.case][0])


class Logs(Reports):
    """Logs what it is given."""

    def run(self):
        self.logger.warning(*CASES[self.inputs.case][0])


@pytest.mark.parametrize('case', CASES)
def test_whatever_is_reported_is_kept_and_fails_no_step(engine, case):
    node = engine.run_get_node(Reports, case=case)[1]
    assert node.is_finished_ok
    assert messages(node) == [CASES[case][1]]


@pytest.mark.parametrize('case', CASES)
def test_whatever_is_logged_is_kept_and_fails_no_step(engine, case, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), 'handlers', [])  # pytest's raise when things do not fit together
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    node = engine.run_get_node(Logs, case=case)[1]
    assert node.is_finished_ok
    assert messages(node) == [CASES[case][1]]


def test_a_report_is_kept_once_and_seen_by_the_host_from_where_it_was_written(engine, caplog):
    with caplog.at_level(logging.INFO, logger='treadle'):
        node = engine.run_get_node(Reports, case='mapping')[1]
    assert messages(node) == ['1']
    (record,) = [each for each in caplog.records if each.name == 'treadle.process.Reports']
    assert (record.getMessage(), record.levelname, record.pid, record.funcName) == ('1', 'REPORT', node.pid, 'run')
    assert record.pathname == __file__


@pytest.mark.parametrize('harm', ['disabled', 'removed', 'propagate'])
def test_reports_survive_what_a_host_does_to_loggers(engine, harm):
    logger = logging.getLogger('treadle.process.Reports')
    ours = logging.getLogger('treadle')
    taps = list(ours.handlers)
    if harm == 'disabled':
        logger.disabled = True  # what dictConfig does unless it is told not to
    elif harm == 'propagate':
        logger.propagate = False
    else:
        for tap in taps:
            ours.removeHandler(tap)
    try:
        assert messages(engine.run_get_node(Reports, case='object')[1]) == ['17']
    finally:
        logger.disabled, logger.propagate = False, True
        for tap in taps:
            ours.addHandler(tap)


LIBRARIES = [
    'asyncio',
    'aio_pika.robust_connection',
    'aiormq.connection',
    'kiwipy.rmq.communicator',
    'paramiko.transport',
]


class Libraries(WorkChain):
    """Has libraries log in both kinds of steps, beside another process."""

    in_threads = threading.Barrier(2)
    on_the_loop: asyncio.Barrier

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('name', valid_type=str)
        spec.outline(cls.in_a_thread, cls.on_a_loop)

    def in_a_thread(self):
        for name in LIBRARIES:
            type(self).in_threads.wait(PATIENCE)
            logging.getLogger(name).warning('%s of %s', name, self.inputs.name)

    async def on_a_loop(self):
        name = self.inputs.name
        for library in LIBRARIES:
            await type(self).on_the_loop.wait()
            logging.getLogger(library).error('%s of %s', library, name)
        # asyncio itself, in a task that the step has started
        await asyncio.create_task(self.complain())
        await asyncio.to_thread(logging.getLogger('paramiko').error, 'in a thread, of %s', name)

    async def complain(self):
        asyncio.get_running_loop().call_exception_handler({'message': f'trouble of {self.inputs.name}'})


def test_what_libraries_log_inside_a_step_is_that_processs(make_engine, caplog):
    Libraries.on_the_loop = asyncio.Barrier(2)
    engine = make_engine(workers=1)  # both on one loop
    nodes = engine.wait([engine.submit(Libraries, name=name) for name in ('one', 'two')], PATIENCE)
    for name, node in zip(('one', 'two'), nodes, strict=True):
        assert node.is_finished_ok, node.exception
        assert messages(node) == [
            *(f'{library} of {name}' for library in LIBRARIES),
            *(f'{library} of {name}' for library in LIBRARIES),
            f'trouble of {name}',
            f'in a thread, of {name}',
        ]
        assert {entry.logger for entry in node.log} == {*LIBRARIES, 'paramiko'}
        assert {entry.pid for entry in node.log} == {node.pid}
    caplog.clear()  # asyncio's complaints are on purpose


class Many(Process):
    """Logs a lot."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        for number in range(10_000):
            self.logger.error('line %d', number)


def test_ten_thousand_records_in_one_step(engine, caplog):
    with caplog.at_level(logging.CRITICAL + 1):  # without a host that prints them
        logging.getLogger('treadle').setLevel(logging.INFO)
        try:
            node = engine.run_get_node(Many)[1]
        finally:
            logging.getLogger('treadle').setLevel(logging.NOTSET)
    assert messages(node) == [f'line {number}' for number in range(10_000)]
    times = [entry.at for entry in node.log]
    assert times == sorted(times)


class Blocks(WorkChain):
    """Logs, then waits to be let go, and goes on logging; ends by what it is told."""

    begun, go = threading.Event(), threading.Event()

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('ends', valid_type=str)
        spec.outline(cls.block)

    def block(self):
        self.report('begun')
        type(self).begun.set()
        type(self).go.wait(PATIENCE)
        self.report('going')
        if self.inputs.ends == 'raises':
            raise ValueError('on purpose')


@calcfunction
def blocks(ends: str) -> int:
    logging.getLogger('treadle.process.blocks').warning('begun')
    Blocks.begun.set()
    Blocks.go.wait(PATIENCE)
    logging.getLogger('treadle.process.blocks').warning('going')
    if ends == 'raises':
        raise ValueError('on purpose')
    return 1


@pytest.mark.parametrize('ends', ['returns', 'raises'])
@pytest.mark.parametrize('target', [Blocks, blocks], ids=['step', 'function'])
def test_what_a_killed_step_had_logged_is_kept(make_engine, target, ends):
    engine = make_engine()
    Blocks.begun.clear()
    Blocks.go.clear()
    node = engine.submit(target, ends=ends)
    assert Blocks.begun.wait(PATIENCE)
    assert engine.kill(node.pid)
    assert messages(node) == []
    Blocks.go.set()
    engine.stop()  # which waits for the step
    assert messages(make_engine().load(node.pid)) == ['begun', 'going']


def test_a_function_called_by_plain_code_that_is_killed_keeps_its_log(make_engine):
    engine = make_engine()
    Blocks.begun.clear()
    Blocks.go.clear()
    raised = []

    def call():
        try:
            engine.run(blocks, ends='returns')
        except KilledError as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert Blocks.begun.wait(PATIENCE)
    (node,) = engine.query(process_label='blocks')
    engine.kill(node.pid)
    Blocks.go.set()
    caller.join(PATIENCE)
    assert len(raised) == 1
    engine.stop()
    assert messages(make_engine().load(node.pid)) == ['begun', 'going']


def test_a_step_that_is_cut_off_by_a_stop_logs_again_and_not_twice(make_engine, monkeypatch):
    monkeypatch.setattr('treadle.engine.stopping.CLOSING_LEAST', 20.0)
    engine = make_engine()
    node = engine.submit(Cut)
    assert Cut.begun.wait(PATIENCE)
    engine.stop(timeout=1)
    engine = make_engine()
    assert engine.wait(node.pid, PATIENCE).is_finished_ok
    assert messages(engine.load(node.pid)) == ['begun', 'over']


class Cut(Process):
    """Waits for ever, the first time."""

    begun, first = threading.Event(), True

    @classmethod
    def define(cls, spec):
        super().define(spec)

    async def run(self):
        self.report('begun')
        if type(self).first:
            type(self).first = False
            type(self).begun.set()
            await asyncio.Event().wait()
        self.report('over')


class LeavesBehind(Process):
    """Ends, and leaves something running that goes on logging."""

    go, over = threading.Event(), threading.Event()
    visit = None

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        logger = self.logger
        type(self).visit = self._visit

        def late():
            type(self).go.wait(PATIENCE)
            logger.warning('too late')
            type(self).over.set()

        self.logger.warning('in time')
        threading.Thread(target=contextvars.copy_context().run, args=(late,)).start()


def test_what_comes_after_the_step_is_not_gathered(engine, caplog):
    node = engine.run_get_node(LeavesBehind)[1]
    LeavesBehind.go.set()
    assert LeavesBehind.over.wait(PATIENCE)
    assert 'too late' in caplog.messages  # the host hears it
    assert messages(node) == ['in time']
    assert [entry.message for entry in LeavesBehind.visit.log] == ['in time'], 'it would grow for ever'
    LeavesBehind.visit = None


class Echo(logging.Handler):
    """A handler that logs again, as one does that sends records somewhere and complains."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def emit(self, record):
        if record.name != 'treadle.echo':
            self.count += 1
            logging.getLogger('treadle.echo').warning('echo of %s', record.getMessage())


class Prints:
    """Something whose text logs."""

    def __str__(self):
        logging.getLogger('treadle.inner').warning('inner')
        return 'outer'


class Nested(Process):
    """Logs what logs."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        self.logger.warning('%s', Prints())


def test_a_handler_that_logs_again(engine):
    echo = Echo()
    logging.getLogger('treadle').addHandler(echo)
    try:
        node = engine.run_get_node(Quiet)[1]
        assert (echo.count, messages(node)) == (0, ['quiet'])  # a REPORT, below the level of the host
        node = engine.run_get_node(Outer)[1]
    finally:
        logging.getLogger('treadle').removeHandler(echo)
    assert sorted(messages(node)) == ['after', 'before', 'echo of after']


def test_what_is_logged_logs(engine):
    node = engine.run_get_node(Nested)[1]
    assert set(messages(node)) == {'inner', 'outer'} and messages(node).count('outer') == 1


def test_the_hosts_handlers_are_left_alone(make_engine, caplog):
    root, ours = logging.getLogger(), logging.getLogger('treadle')
    before = list(root.handlers), root.level, list(ours.handlers), ours.level
    first, second = make_engine(), make_engine()
    assert (list(root.handlers), root.level, ours.level) == (*before[:2], before[3])
    first.run(Outer)
    assert 'after' in caplog.messages  # and the host sees warnings as it always does
    first.stop()
    assert len(second.run_get_node(Outer)[1].log) == 2  # one engine less does not end the streams
    second.stop()
    second.stop()
    assert (list(root.handlers), root.level, list(ours.handlers), ours.level) == before


def test_logging_can_be_configured_after_the_import_and_warnings_show_without(scripts):
    ended = scripts.run(
        """
        import logging, sys
        from treadle.engine import Process, run

        class Warns(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
            def run(self):
                self.logger.warning('first warning')

        run(Warns)
        logging.basicConfig(level=23, format='%(levelname)s:%(name)s:%(pid)s:%(message)s', stream=sys.stdout)

        class Reports(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
            def run(self):
                self.report('visible %s', 'report')

        run(Reports)
        """
    )
    assert (ended.code, ended.err) == (0, 'first warning\n')
    assert ended.out == 'REPORT:treadle.process.Reports:2:visible report\n'
