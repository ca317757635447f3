"""A user's tests; their folder is run by a pytest of their own, with pytest-asyncio."""

import asyncio

import pytest
from work import Double, increment

from treadle.engine import default_engine, run, submit


async def test_awaiting(engine):
    assert await engine.run_async(Double, n=2) == {'n': 4}


async def test_awaiting_many(engine):
    outputs = await asyncio.gather(*(engine.run_async(Double, n=n) for n in range(20)))
    assert [each['n'] for each in outputs] == list(range(0, 40, 2))


async def test_waiting_for_what_was_submitted(engine):
    node = engine.submit(Double, n=3)
    assert (await engine.wait_async(node)).outputs.n == 6
    assert (await asyncio.wrap_future(engine.future(node))).is_finished_ok


async def test_blocking_inside_a_coroutine(engine):
    assert engine.run(Double, n=4) == {'n': 8}
    assert await asyncio.to_thread(engine.run, Double, n=5) == {'n': 10}


async def test_the_default_engine():
    assert run(Double, n=6) == {'n': 12}
    assert increment(1) == 2
    assert default_engine().wait(submit(Double, n=7)).outputs.n == 14


@pytest.fixture
async def started(engine):
    return engine.submit(Double, n=8)


async def test_an_asynchronous_fixture(engine, started):
    assert (await engine.wait_async(started)).outputs.n == 16


async def test_giving_up(engine):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await engine.run_async(Double, n=9)


def test_a_synchronous_neighbour(engine):
    assert engine.run(Double, n=10) == {'n': 20}
