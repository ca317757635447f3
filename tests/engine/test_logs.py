"""Log streams: one for each process, whatever runs at the same time; the host's logging is its own."""

from __future__ import annotations

import contextvars
import logging
import threading

import pytest

from treadle.engine import Process, WorkChain, calcfunction, run

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


def test_the_hosts_handlers_are_left_alone(make_engine, caplog):
    root, ours = logging.getLogger(), logging.getLogger('treadle')
    before = list(root.handlers), root.level, list(ours.handlers), ours.level
    first, second = make_engine(), make_engine()
    assert (list(root.handlers), root.level) == before[:2]
    first.run(Outer)
    assert 'after' in caplog.messages  # and the host sees warnings as it always does
    first.stop()
    assert len(second.run_get_node(Outer)[1].log) == 2  # one engine less does not end the streams
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
