"""``ProcessFuture`` on loops of the host's."""

from __future__ import annotations

import asyncio
import gc

import pytest

from communication import hosts
from treadle.engine import Engine, EngineStopped, ProcessFuture, ProcessNotFound, ProcessState

PATIENCE, GATES = hosts.PATIENCE, hosts.GATES


def run(coroutine):
    async def bounded():
        async with asyncio.timeout(PATIENCE):
            return await coroutine

    return asyncio.run(bounded())


def held(engine, gate):
    node = engine.submit(hosts.Echo, x=1, gate=gate)
    GATES.wait_entered(gate)
    return node


def registered(engine) -> int:
    return len(engine.core.terminations.awaited())


class TestResolving:
    def test_to_the_final_node(self, engine):
        node = held(engine, 'future')

        async def main():
            future = ProcessFuture(node.pid, engine)
            assert (future.pid, future.done()) == (node.pid, False)
            GATES.open('future')
            final = await future
            assert future.result() is final
            return final

        final = run(main())
        assert (final, final.state, final.outputs.y) == (node, ProcessState.FINISHED, 1)
        assert registered(engine) == 0

    def test_of_one_that_has_ended_before(self, engine):
        node = engine.run_get_node(hosts.Echo, x=1)[1]

        async def main():
            return [await ProcessFuture(process, engine) for process in (node, node.pid)]

        assert run(main()) == [node, node]
        assert registered(engine) == 0

    def test_however_it_ends(self, engine):
        node = held(engine, 'future killed')

        async def main():
            future = ProcessFuture(node, engine)
            await asyncio.to_thread(engine.kill, node, 'enough')
            return await future

        assert run(main()).is_killed
        GATES.open('future killed')

    def test_of_many_at_once(self, engine):
        async def main():
            nodes = [await asyncio.to_thread(engine.submit, hosts.Echo, x=number) for number in range(50)]
            ended = await asyncio.gather(*(ProcessFuture(node, engine) for node in nodes * 2))
            return [node.outputs.y for node in ended]

        assert run(main()) == [*range(50)] * 2

    def test_whoever_commits_the_end(self, make_engine):
        """The end is another engine's; the search of ours finds it."""
        runs, waits = make_engine(), make_engine()
        node = held(runs, 'elsewhere')

        async def main():
            future = ProcessFuture(node.pid, waits)
            GATES.open('elsewhere')
            return await future

        assert run(main()).outputs.y == 1
        assert registered(waits) == 0

    def test_on_a_loop_that_is_given_and_runs_later(self, engine):
        node = held(engine, 'later')
        loop = asyncio.new_event_loop()
        try:
            future = ProcessFuture(node, engine, loop=loop)
            GATES.open('later')
            engine.wait(node, PATIENCE)
            assert not future.done(), 'only its loop resolves it'
            assert loop.run_until_complete(asyncio.wait_for(future, PATIENCE)) == node
        finally:
            loop.close()

    def test_on_uvloop(self, engine):
        uvloop = pytest.importorskip('uvloop')
        node = held(engine, 'uvloop')

        async def main():
            future = ProcessFuture(node, engine)
            GATES.open('uvloop')
            return await asyncio.wait_for(future, PATIENCE)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(main()) == node

    def test_callbacks_are_called_on_the_loop(self, engine):
        node = held(engine, 'callbacks')

        async def main():
            loop = asyncio.get_running_loop()
            called = loop.create_future()
            ProcessFuture(node, engine).add_done_callback(
                lambda done: called.set_result((asyncio.get_running_loop() is loop, done.result()))
            )
            GATES.open('callbacks')
            return await called

        assert run(main()) == (True, node)


class TestLettingGo:
    def test_cancelling_leaves_the_process_alone_and_forgets_the_registration(self, engine):
        node = held(engine, 'cancelled future')

        async def main():
            future, other = ProcessFuture(node, engine), ProcessFuture(node, engine)
            assert future.cancel() and not future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            assert len(engine.core.terminations._futures[node.pid]) == 1
            GATES.open('cancelled future')
            return await other

        assert run(main()).is_finished_ok
        assert registered(engine) == 0

    def test_a_wait_that_times_out(self, engine):
        node = held(engine, 'timed out')

        async def main():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ProcessFuture(node, engine), 0.01)
            assert registered(engine) == 0

        run(main())
        GATES.open('timed out')
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_a_loop_that_is_closed_first(self, engine):
        node = held(engine, 'closed loop')
        loop = asyncio.new_event_loop()
        future = ProcessFuture(node, engine, loop=loop)
        loop.close()
        GATES.open('closed loop')
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert not future.done()

    def test_an_engine_that_stops_first(self, engine):
        node = engine.submit(hosts.Outputs, gate='stopped first')
        GATES.wait_entered('stopped first')
        engine.pause(node)

        async def main():
            future = ProcessFuture(node, engine)
            GATES.open('stopped first')
            await asyncio.to_thread(engine.stop)
            with pytest.raises(EngineStopped, match=f'before process {node.pid} ended'):
                await future

        run(main())


class TestMisuse:
    def test_unknown_pids(self, engine):
        async def main():
            with pytest.raises(ProcessNotFound, match='no process 987'):
                ProcessFuture(987, engine)

        run(main())
        gc.collect()
        assert registered(engine) == 0

    def test_no_loop(self, engine):
        with pytest.raises(RuntimeError, match='give one as loop='):
            ProcessFuture(1, engine)

    def test_an_engine_that_does_not_run(self, store):
        async def main():
            with pytest.raises(EngineStopped, match='not started'):
                ProcessFuture(1, Engine(store))

        run(main())
