"""A coroutine host, on asyncio's loop or on uvloop's."""

import asyncio
import contextlib
import sys
from pathlib import Path

import leftovers  # noqa: F401 - before Treadle
import uvloop
from work import Double, Waits, increment

from treadle.engine import default_engine, run, submit


async def many():
    engine = default_engine()
    assert type(asyncio.get_running_loop()).__module__.startswith(sys.argv[1])
    awaited = await asyncio.gather(*(engine.run_async(Double, n=n) for n in range(50)))
    assert awaited == [{'n': 2 * n} for n in range(50)]
    nodes = [submit(Double, n=n) for n in range(10)]
    assert [node.outputs.n for node in await engine.wait_async(nodes)] == list(range(0, 20, 2))
    assert (await asyncio.wrap_future(engine.future(nodes[0]))).is_finished_ok
    assert run(Double, n=2) == {'n': 4}  # blocks the loop, and comes back
    assert await asyncio.to_thread(run, Double, n=3) == {'n': 6}
    assert await asyncio.to_thread(increment, 1) == 2
    print('done')


async def cancelled():
    engine, gate = default_engine(), Path(sys.argv[3])
    task = asyncio.create_task(engine.run_async(Waits, gate=gate))
    await asyncio.to_thread((gate / 'entered').read_text)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    (node,) = engine.query(process_label='Waits')
    assert not node.is_terminated
    print('cancelled', flush=True)
    print((await engine.wait_async(node)).state)


async def interrupted():
    await default_engine().run_async(Waits, gate=Path(sys.argv[3]))


main = {'many': many, 'cancelled': cancelled, 'interrupted': interrupted}[sys.argv[2]]
loops = {'asyncio': asyncio.new_event_loop, 'uvloop': uvloop.new_event_loop}
default_engine()  # in good time: a loop should not stand still for its start
with asyncio.Runner(loop_factory=loops[sys.argv[1]]) as runner:
    runner.get_loop().slow_callback_duration = 60.0  # this one blocks it on purpose
    try:
        runner.run(main())
    except KeyboardInterrupt:
        (node,) = default_engine().query(process_label='Waits')
        print('interrupted', node.is_terminated, flush=True)
        default_engine().wait(node)
        print(node.state)
