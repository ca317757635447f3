"""``BaseRestartWorkChain`` and its handlers: who is asked, in which order, and what follows."""

from __future__ import annotations

import threading

import pytest

from treadle.engine import (
    BaseRestartWorkChain,
    ExitCode,
    Process,
    ProcessHandlerReport,
    SpecError,
    ValidationError,
    calcfunction,
    process_handler,
    run,
    run_get_node,
    while_,
)

TEAPOT = ExitCode(418, 'I am a teapot')


class Scripted(Process):
    """Ends with the exit status that the script has for the attempt; 'raise' and 'kill' are possible too."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('script', valid_type=list)
        spec.input('attempt', valid_type=int, default=0)
        spec.output('attempt', valid_type=int, required=False)
        spec.output('inner.twice', valid_type=int, required=False)
        spec.exit_code(300, 'ERROR_KNOWN', message='known')
        spec.exit_code(100, 'ERROR_UNKNOWN', message='unknown')

    def run(self):
        status = self.inputs.script[self.inputs.attempt]
        if status == 'raise':
            raise RuntimeError('as the script says')
        self.out('attempt', self.inputs.attempt)
        self.out('inner.twice', 2 * self.inputs.attempt)
        return status


class Restart(BaseRestartWorkChain):
    """The attempt is the number of the iteration."""

    _process_class = Scripted

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.expose_inputs(Scripted, namespace='sub', exclude=('attempt',))
        spec.expose_outputs(Scripted)
        spec.output('considered', valid_type=list, required=False)
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.prepare, cls.run_process, cls.inspect_process, cls.show),
            cls.results,
        )

    def setup(self):
        super().setup()
        self.ctx.inputs = self.exposed_inputs(Scripted, namespace='sub')

    def prepare(self):
        self.ctx.inputs.attempt = self.ctx.iteration

    def show(self):
        self.out('considered', self.ctx.considered_handlers)

    @process_handler(priority=300, exit_codes=Scripted.exit_codes.ERROR_KNOWN)
    def known(self, node):
        return ProcessHandlerReport()

    @process_handler(priority=200)
    def teapot(self, node):
        if node.exit_status == 400:
            return ProcessHandlerReport(exit_code=TEAPOT)

    @process_handler(priority=100)
    def silent(self, node):
        return None

    @process_handler(priority=100, enabled=False)
    def objecting(self, node):
        return ProcessHandlerReport(do_break=True)

    def no_handler(self, node):
        return None


def go(*script, process=Restart, **inputs):
    return run_get_node(process, sub={'script': list(script)}, **inputs)


@pytest.mark.usefixtures('engine')
class TestCourse:
    def test_at_once(self):
        outputs, node = go(0)
        assert node.is_finished_ok
        assert outputs == {
            'attempt': 0,
            'inner': {'twice': 0},
            'considered': [[['known', None], ['teapot', None], ['silent', None]]],
        }

    def test_again_until_it_succeeds(self):
        outputs, node = go(300, 300, 0)
        assert (outputs['attempt'], outputs['inner']) == (2, {'twice': 4})
        assert outputs['considered'][0][0] == ['known', {'do_break': False, 'exit_status': 0}]
        assert [child.exit_status for child in node.called] == [300, 300, 0]
        assert [child.label for child in node.called] == ['iteration_01', 'iteration_02', 'iteration_03']
        assert sum('wants it to be run again' in entry.message for entry in node.log) == 2

    def test_as_often_as_allowed(self):
        for most in (1, 2, 3):
            _, node = go(*[300] * 9, max_iterations=most)
            assert node.exit_code == Restart.exit_codes.ERROR_MAXIMUM_ITERATIONS_EXCEEDED
            assert len(node.called) == most
        assert len(go(*[300] * 9)[1].called) == 5
        assert go(300, 300, 0, max_iterations=3)[1].is_finished_ok

    def test_a_problem_that_cannot_be_solved(self):
        _, node = go(400, max_iterations=1)
        assert node.exit_code == TEAPOT
        assert len(node.called) == 1

    def test_a_child_that_ended_well_is_run_again_if_a_handler_wants_it(self):
        overrides = {'objecting': {'enabled': True}}
        _, node = go(0, 0, max_iterations=2, handler_overrides=overrides)
        assert node.exit_status == 401
        assert any('ended well, but a handler wants' in entry.message for entry in node.log)

    @pytest.mark.parametrize(
        'inputs', [{}, {'on_unhandled_failure': 'abort'}, {'on_unhandled_failure': None}]
    )
    def test_an_unhandled_failure(self, inputs):
        _, node = go(100, 0, **inputs)
        assert node.exit_code == Restart.exit_codes.ERROR_UNHANDLED_FAILURE
        assert len(node.called) == 1

    @pytest.mark.parametrize(
        ('script', 'status'),
        [
            ((100, 0), 0),
            ((100, 100, 0), 402),
            ((100, 300, 100, 0), 0),  # handled in between, so not twice in a row
            ((100, 300, 100, 100), 402),
            ((100, 400), 418),
        ],
    )
    def test_an_unhandled_failure_may_be_tried_once_more(self, script, status):
        _, node = go(*script, on_unhandled_failure='restart_once')
        assert node.exit_status == status

    def test_once_more_is_not_more_than_allowed(self):
        _, node = go(100, 0, on_unhandled_failure='restart_once', max_iterations=1)
        assert (node.exit_status, len(node.called)) == (401, 1)

    def test_an_excepted_child(self):
        assert go('raise')[1].exit_code == Restart.exit_codes.ERROR_SUB_PROCESS_EXCEPTED

    def test_a_killed_child(self, engine):
        entered = threading.Event()

        class Slow(Process):
            def run(self):
                entered.set()
                released.wait(30)

        released = threading.Event()

        class RestartSlow(BaseRestartWorkChain):
            _process_class = Slow

            def setup(self):
                super().setup()
                self.ctx.inputs = {}

        node = engine.submit(RestartSlow)
        try:
            assert entered.wait(30)
            engine.kill(node.called[0])
            assert engine.wait(node, 30).exit_status == 302
        finally:
            released.set()

    def test_a_handler_that_says_it_is_finished(self):
        class GoodEnough(Restart):
            @process_handler(priority=400)
            def good_enough(self, node):
                self.ctx.is_finished = True
                self.results()
                return ProcessHandlerReport(do_break=True, exit_code=ExitCode(42, 'good enough'))

        outputs, node = go(300, process=GoodEnough, max_iterations=1)
        assert node.exit_code == ExitCode(42, 'good enough')
        assert outputs == {'attempt': 0, 'inner': {'twice': 0}}

    def test_finished_and_well(self):
        class WellEnough(Restart):
            @process_handler(priority=400)
            def well_enough(self, node):
                self.ctx.is_finished = True
                return ProcessHandlerReport(do_break=True)

        outputs, node = go(300, process=WellEnough, max_iterations=1)
        assert node.is_finished_ok
        assert outputs['attempt'] == 0


class Gated(Restart):
    reached, opened = threading.Event(), threading.Event()

    def prepare(self):
        super().prepare()
        if self.ctx.iteration == 1:
            self.reached.set()
            self.opened.wait(20)


def test_it_goes_on_after_a_restart_of_the_engine(make_engine):
    engine = make_engine()
    node = engine.submit(Gated, sub={'script': [100, 300, 100, 0]}, on_unhandled_failure='restart_once')
    try:
        assert Gated.reached.wait(20)
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        while engine.is_running:
            stopper.join(0.001)
    finally:
        Gated.opened.set()
    stopper.join(20)
    node = make_engine().wait(node.pid, timeout=20)
    assert node.is_finished_ok
    assert node.outputs.attempt == 3
    assert [child.exit_status for child in node.called] == [100, 300, 100, 0]
    assert [[name for name, told in each if told] for each in node.outputs.considered] == [
        [],
        ['known'],
        [],
        [],
    ]


def until_paused(node):
    """Wait until the process has paused, for which there is no event."""
    never = threading.Event()
    for _ in range(3000):
        if node.paused:
            return
        assert not node.is_terminated, node.exit_code
        never.wait(0.01)
    pytest.fail(f'process {node.pid} does not pause')


class TestPausing:
    def submit(self, engine, *script, **inputs):
        return engine.submit(Restart, sub={'script': list(script)}, **inputs)

    def play(self, engine, node):
        until_paused(node)
        assert engine.play(node)

    def test_an_unhandled_failure(self, engine):
        node = self.submit(engine, 100, 100, 0, on_unhandled_failure='pause', max_iterations=1)
        self.play(engine, node)
        self.play(engine, node)
        assert engine.wait(node, 30).is_finished_ok
        assert len(node.called) == 3
        assert any(f'treadle play {node.pid}' in entry.message for entry in node.log)

    def test_a_second_unhandled_failure(self, engine):
        node = self.submit(engine, 100, 100, 100, 100, 0, on_unhandled_failure='restart_and_pause')
        until_paused(node)
        assert len(node.called) == 2
        assert engine.play(node)
        until_paused(node)
        assert len(node.called) == 4
        assert engine.play(node)
        assert engine.wait(node, 30).is_finished_ok

    def test_after_the_last_iteration(self, engine):
        class Counting(Restart):
            def prepare(self):  # the iterations are counted anew
                self.ctx.inputs.attempt = len(self.ctx.get('children', []))

        node = engine.submit(
            Counting, sub={'script': [300, 300, 300, 300, 0]}, max_iterations=2, pause_on_max_iterations=True
        )
        self.play(engine, node)
        self.play(engine, node)
        assert engine.wait(node, 30).is_finished_ok
        assert (len(node.called), node.outputs.attempt) == (5, 4)


@pytest.mark.usefixtures('engine')
class TestSubclasses:
    def test_the_shortest_one_and_a_function(self):
        calls = []

        @calcfunction
        def fetch(x: int):
            calls.append(x)
            return {'value': x} if x > 1 else ExitCode(7, 'too small')

        class Fetch(BaseRestartWorkChain):
            _process_class = fetch

            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.expose_inputs(fetch)
                spec.output('value', valid_type=int)

            def setup(self):
                super().setup()
                self.ctx.inputs = self.exposed_inputs(fetch)

            @process_handler(exit_codes=[ExitCode(7)])
            def larger(self, node):
                self.ctx.inputs.x += 1
                return ProcessHandlerReport()

            def get_outputs(self, node):
                return node.outputs

        assert run(Fetch, x=0) == {'value': 2}
        assert calls == [0, 1, 2]

    def test_a_missing_output_is_reported(self):
        class Missing(Restart):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('energy')

        _, node = go(0, process=Missing)
        assert node.exit_status == 11
        assert any("has no output 'energy'" in entry.message for entry in node.log)

    def test_no_inputs(self):
        class Forgetful(BaseRestartWorkChain):
            _process_class = Scripted

        with pytest.raises(
            AttributeError, match=r'Forgetful has no inputs for Scripted: put them into self\.ctx\.inputs'
        ):
            run(Forgetful)

    def test_metadata_of_the_child(self):
        class Labelled(Restart):
            def prepare(self):
                super().prepare()
                self.ctx.inputs.metadata = {'label': 'mine', 'description': 'D'}

        _, node = go(0, process=Labelled)
        assert (node.called[0].label, node.called[0].description) == ('mine', 'D')

    @pytest.mark.parametrize('given', [None, 3, int])
    def test_no_process_to_run(self, given):
        class Empty(BaseRestartWorkChain):
            _process_class = given

        with pytest.raises(SpecError, match='Empty: set _process_class'):
            run(Empty)

    def test_the_base_class(self):
        assert BaseRestartWorkChain.exit_codes.ERROR_UNHANDLED_FAILURE.status == 402
        with pytest.raises(SpecError, match='set _process_class'):
            run(BaseRestartWorkChain)

    def test_a_handler_that_returns_something_else(self):
        class Wrong(Restart):
            @process_handler(priority=400)
            def wrong(self, node):
                return True

        with pytest.raises(TypeError, match='the handler wrong of Wrong returned True'):
            go(0, process=Wrong)


class TestHandlers:
    def test_which_there_are(self):
        names = ['known', 'objecting', 'silent', 'teapot']
        assert [handler.__name__ for handler in Restart.get_process_handlers()] == names
        assert Restart.is_process_handler('silent')
        assert not Restart.is_process_handler('no_handler')
        assert not Restart.is_process_handler('nowhere')

    def test_one_that_is_overridden_without_the_decorator(self):
        class Without(Restart):
            def silent(self, node):
                return None

        assert not Without.is_process_handler('silent')

    @pytest.mark.usefixtures('engine')
    @pytest.mark.parametrize(
        ('overrides', 'order'),
        [
            (None, ['known', 'teapot', 'silent']),
            ({}, ['known', 'teapot', 'silent']),
            ({'known': {'priority': 0}}, ['teapot', 'silent', 'known']),
            ({'known': {'priority': 100}}, ['teapot', 'known', 'silent']),
            ({'known': {'enabled': False}}, ['teapot', 'silent']),
            ({'objecting': {'enabled': True}}, ['known', 'teapot', 'objecting']),  # do_break
            ({'objecting': {'enabled': True, 'priority': 301}}, ['objecting']),
        ],
    )
    def test_their_order(self, overrides, order):
        class Once(Restart):
            def inspect_process(self):
                super().inspect_process()
                self.ctx.is_finished = True

        inputs = {} if overrides is None else {'handler_overrides': overrides}
        outputs, _ = go(0, process=Once, **inputs)
        assert [name for name, _ in outputs['considered'][0]] == order
        assert (Restart.known.priority, Restart.known.enabled, Restart.objecting.enabled) == (
            300,
            True,
            False,
        )

    @pytest.mark.usefixtures('engine')
    @pytest.mark.parametrize(
        ('inputs', 'message'),
        [
            (
                {'handler_overrides': {'nowhere': {}}},
                "'nowhere' is no process handler of Restart; there is known",
            ),
            ({'handler_overrides': {'no_handler': {}}}, "'no_handler' is no process handler"),
            ({'handler_overrides': {3: {}}}, '3 is no process handler'),
            ({'handler_overrides': {'known': False}}, 'must be a dictionary such as'),
            ({'handler_overrides': {'known': {'prio': 1}}}, "'prio' is unknown"),
            ({'handler_overrides': {'known': {'priority': '1'}}}, 'priority must be an int'),
            ({'handler_overrides': {'known': {'enabled': 1}}}, 'enabled must be True or False'),
            ({'max_iterations': 0}, 'at least 1'),
            ({'on_unhandled_failure': 'panic'}, 'must be one of abort, pause, restart_once'),
        ],
    )
    def test_inputs_that_do_not_fit(self, inputs, message):
        with pytest.raises(ValidationError, match=message):
            go(0, **inputs)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ((400,), 'give its options by name'),
            ((ExitCode(),), 'give its options by name'),
            ((True,), 'give its options by name'),
        ],
    )
    def test_options_are_given_by_name(self, arguments, message):
        with pytest.raises(SpecError, match=message):
            process_handler(*arguments)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'priority': '400'}, 'priority must be an int'),
            ({'enabled': 'yes'}, 'enabled must be True or False'),
            *(({'exit_codes': wrong}, 'must be an ExitCode or a list') for wrong in ('x', ['x'], 400, [400])),
        ],
    )
    def test_options_that_do_not_fit(self, options, message):
        with pytest.raises(SpecError, match=message):

            @process_handler(**options)
            def handler(self, node):
                return None

    def test_signatures(self):
        for wrong in (lambda self: None, lambda self, node, more: None, lambda self, *, node: None):
            with pytest.raises(SpecError, match=r'must be defined as .*\(self, node\)'):
                process_handler(wrong)

        async def handler(self, node):
            return None

        with pytest.raises(SpecError, match='coroutine'):
            process_handler(handler)

    def test_exit_codes(self):
        class Node:
            exit_status = 400

        class Chain(BaseRestartWorkChain):
            @process_handler(exit_codes=ExitCode(400, 'message'))
            def one(self, node):
                return ProcessHandlerReport()

            @process_handler(exit_codes=[ExitCode(401), ExitCode(400)])
            def several(self, node):
                return ProcessHandlerReport()

            @process_handler(exit_codes=ExitCode(401))
            def another(self, node):
                return ProcessHandlerReport()

            @process_handler(exit_codes=[])
            def never(self, node):
                raise AssertionError

        called = {handler.__name__: handler(None, Node()) for handler in Chain.get_process_handlers()}
        report = ProcessHandlerReport(False, ExitCode(0))
        assert called == {'one': report, 'several': report, 'another': None, 'never': None}
