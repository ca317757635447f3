"""A ``ThreadPoolExecutor`` whose threads block in ``run()``, and futures of both kinds side by side."""

import concurrent.futures
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import leftovers  # noqa: F401 - before Treadle
from work import Double, increment

from treadle.engine import default_engine, run, submit


def work(n):
    assert threading.current_thread() is not threading.main_thread()
    node = submit(Double, n=n)
    return run(Double, n=n)['n'] + increment(n) + default_engine().wait(node).outputs.n


if sys.argv[1] == 'map':
    with ThreadPoolExecutor(16) as pool:
        print(sum(pool.map(work, range(30))))
elif sys.argv[1] == 'futures':
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(run, Double, n=n) for n in range(5)]
        futures += [default_engine().future(submit(Double, n=n)) for n in range(5)]
        done, left = concurrent.futures.wait(futures)
        print(len(done), len(left), sorted(future.result()['n'] for future in futures[:5]))
        print(sorted(future.result().outputs.n for future in futures[5:]))
else:  # the interpreter's exit waits for the pool's threads first, then Treadle stops
    pool = ThreadPoolExecutor(4)
    for number in range(20):
        pool.submit(lambda n=number: sys.stdout.write(f'{run(Double, n=n)["n"]}\n'))
    print('main thread ends')
