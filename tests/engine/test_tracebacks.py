"""What a traceback shows: the caller's code, and not how Treadle works inside."""

from __future__ import annotations

import pytest

from treadle.engine import Engine, ValidationError, WorkChain, calcfunction
from treadle.engine.tracebacks import SHORT_TRACEBACK, shorten


class Halves(WorkChain):
    """Raises for 0; has no output `third`."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int)
        spec.output('half', valid_type=float)
        spec.outline(cls.halve)

    def halve(self):
        if self.inputs.x == 3:
            self.out('third', 1.0)
        self.out('half', invert(self.inputs.x) / 2)


def invert(x):
    return 1 / x


@calcfunction
def inverted(x: int) -> float:
    return invert(x)


@pytest.fixture
def engine(tmp_path):
    with Engine(store=f'sqlite:///{tmp_path}/treadle.sqlite') as engine:
        yield engine


def frames(caught):
    """The names of the functions below the test's own."""
    return [entry.name for entry in caught.traceback[1:]]


def test_inputs_that_do_not_fit_point_at_the_call(engine):
    for call in (engine.run, engine.run_get_node, engine.submit):
        with pytest.raises(ValidationError) as caught:
            call(Halves, x='one')
        assert frames(caught) == []


def test_an_error_in_a_step_shows_the_step_and_what_it_called(engine):
    with pytest.raises(ZeroDivisionError) as caught:
        engine.run(Halves, x=0)
    assert frames(caught) == ['halve', 'invert']
    (node,) = engine.query(states=['excepted'])
    assert node.traceback.count('File "') == 2
    with pytest.raises(AttributeError, match=rf"outputs of process {node.pid} \(excepted\) holds no 'half'"):
        _ = node.outputs.half


def test_an_output_that_was_not_declared_shows_the_step(engine):
    with pytest.raises(ValidationError) as caught:
        engine.run(Halves, x=3)
    assert frames(caught) == ['halve']


def test_a_process_function_shows_itself(engine):
    with pytest.raises(ZeroDivisionError) as caught:
        engine.run(inverted, x=0)
    assert frames(caught) == ['inverted', 'invert']


def test_a_mistake_inside_treadle_shows_where_it_is():
    with pytest.raises(AttributeError) as caught, SHORT_TRACEBACK:
        shorten(None)
    assert frames(caught)[-2:] == ['shorten', 'shortened']


def test_what_is_raised_between_two_lines_stays_what_it_is():
    code = compile('raise SystemExit(143)', 'handler', 'exec').replace(co_linetable=b'')
    with pytest.raises(SystemExit) as caught, SHORT_TRACEBACK:
        exec(code, {})  # noqa: S102 - no other code has an instruction without a line at will
    trace = caught.value.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    assert trace.tb_lineno is None


def test_an_engine_and_its_states_name_themselves(engine, tmp_path):
    assert repr(engine) == f"<Engine 'engine', running, on sqlite:///{tmp_path}/treadle.sqlite>"
    with pytest.raises(ValueError, match="'done' is no process state; there is created, running, waiting, finished"):
        engine.query(states=['done'])
