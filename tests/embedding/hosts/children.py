"""``multiprocessing``, with children that are forked, forked by a server, or started anew."""

import dataclasses
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import leftovers  # noqa: F401 - before Treadle
from work import Double, increment

from treadle.engine import Process, default_engine, register_exception, run, submit


@dataclasses.dataclass
class Number:
    """A value of the script's own; `multiprocessing` calls its module differently in children that it starts anew."""

    n: int


@register_exception
class TooLarge(ValueError):
    """An exception of the script's own."""


class InScript(Process):
    """A process of the script's own."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('number', valid_type=Number)
        spec.output('number', valid_type=Number)

    def run(self):
        if self.inputs.number.n > 1000:
            raise TooLarge(self.inputs.number.n)
        self.out('number', Number(2 * self.inputs.number.n))


def work(n):
    return run(Double, n=n)['n'] + increment(n)


def same(n):
    return run(InScript, number=Number(n), metadata={'key': f'same {n}'})['number'].n


def fails(n):
    try:
        run(InScript, number=Number(n))
    except TooLarge:
        return True


def submits(folder):
    """Submit and return at once: the child ends before its processes have."""
    for n in range(20):
        submit(InScript, number=Number(n))
    Path(folder, 'submitted').touch()


def main(method, what):
    context = multiprocessing.get_context(method)
    assert run(Double, n=1) == {'n': 2}  # the parent has a running engine
    if what == 'pools':
        with context.Pool(2) as pool:
            print(pool.map(work, range(6)))
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            print(list(pool.map(work, range(6))))
    elif what == 'key':
        with context.Pool(2) as pool:
            print(pool.map(same, [1, 2, 1, 2]), [same(n) for n in (1, 2)])
            print(pool.map(fails, [1001]))
            pool.close()
            pool.join()
        print(len(default_engine().query(process_label='InScript')))
    else:
        child = context.Process(target=submits, args=[sys.argv[3]])
        child.start()
        child.join()
        print('child', child.exitcode)
        engine = default_engine()
        print(sum(node.outputs.number.n for node in engine.wait(engine.query(process_label='InScript'))))


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2])
