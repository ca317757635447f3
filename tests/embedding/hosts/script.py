"""A plain script: the default engine, or one of its own, and no thought about either's end."""

import sys

import leftovers  # noqa: F401 - before Treadle
from work import Double, increment

from treadle.engine import Engine, default_engine, run, submit

if sys.argv[1] == 'default':
    assert run(Double, n=1) == {'n': 2}
    node = submit(Double, n=2)
    assert default_engine().wait(node).outputs.n == 4
    assert increment(1) == 2
    submit(Double, n=3)  # and not waited for: the exit brings it to a checkpoint
else:
    engine = Engine(sys.argv[2])
    if sys.argv[1] == 'context':
        with engine:
            assert engine.run(Double, n=1) == {'n': 2}
    else:  # started, and never stopped
        outputs, node = engine.start().run_get_node(Double, n=1)
        assert node.is_finished_ok
print('done')
