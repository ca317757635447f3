"""Steps written as coroutine functions: they run on a worker's loop and end like any other step."""

from __future__ import annotations

import asyncio
import threading

import pytest

from treadle.engine import (
    Engine,
    ExitCode,
    KilledError,
    Process,
    ToContext,
    UnstorableValue,
    WorkChain,
    append_,
    calcfunction,
    if_,
    run,
    run_get_node,
)
from treadle.threads import WrongThread


class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('x', valid_type=int, default=1)
        spec.output('y')
        spec.outline(cls.only)

    async def only(self):
        await asyncio.sleep(0)
        self.out('y', self.inputs.x)


class Fails(Process):
    async def run(self):
        await asyncio.sleep(0)
        raise LookupError('in a coroutine')


@calcfunction
def double(x):
    return 2 * x


class TestSteps:
    def test_async_and_sync_steps_take_turns(self, engine: Engine):
        class Mixed(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('threads')
                spec.outline(cls.first, cls.second, if_(cls.yes)(cls.third), cls.end)

            async def first(self):
                self.ctx.threads = [threading.current_thread().name]
                await asyncio.sleep(0)

            def second(self):
                self.ctx.threads.append(threading.current_thread().name)
                return ToContext(child=self.submit(Child, x=3))

            def yes(self):
                return True

            async def third(self):
                self.ctx.threads.append(threading.current_thread().name)
                assert self.ctx.child.outputs.y == 3
                self.to_context(more=append_(self.submit(Child, x=4)))

            async def end(self):
                self.report('the end')
                assert self.ctx.more[0].outputs.y == 4
                self.out('threads', self.ctx.threads)

        outputs, node = run_get_node(Mixed)
        kinds = [name.rsplit('-', 1)[0] for name in outputs['threads']]
        assert kinds == ['treadle-worker', 'treadle-step', 'treadle-worker']
        assert [entry.message for entry in node.log] == ['the end']
        assert [child.outputs.y for child in node.called] == [3, 4]

    def test_run_of_a_plain_process(self, engine: Engine):
        class Plain(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('x')

            async def run(self):
                self.out('x', 1)

        assert run(Plain) == {'x': 1}

    def test_exit_codes(self, engine: Engine):
        class Gives(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only, cls.never)

            async def only(self):
                return ExitCode(7, 'seven')

            def never(self):
                raise AssertionError('not to be reached')

        assert run_get_node(Gives)[1].exit_code == ExitCode(7, 'seven')

    def test_errors(self, engine: Engine):
        with pytest.raises(LookupError, match='in a coroutine'):
            run(Fails)

    def test_errors_before_the_first_await(self, engine: Engine):
        raised = LookupError('at once')

        class Raises(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            async def only(self):
                raise raised

        with pytest.raises(LookupError) as caught:
            run(Raises)
        assert caught.value is raised

    def test_a_context_that_cannot_be_stored(self, engine: Engine):
        class Bad(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.first, cls.second)

            async def first(self):
                self.ctx.lock = threading.Lock()

            async def second(self):
                pass

        with pytest.raises(UnstorableValue, match=r'ctx\.lock'):
            run(Bad)

    def test_many_at_once_need_no_threads(self, make_engine):
        together = 50
        meeting = asyncio.Barrier(together)

        class Meets(Process):
            async def run(self):
                await meeting.wait()

        engine = make_engine(workers=1, steps=1)
        nodes = [engine.submit(Meets) for _ in range(together)]
        assert all(node.is_finished_ok for node in engine.wait(nodes, timeout=30))

    def test_a_cancelled_error_of_its_own_is_an_error(self, engine: Engine):
        class Cancels(Process):
            async def run(self):
                task = asyncio.ensure_future(asyncio.sleep(20))
                task.cancel()
                await task

        class CancelsInThread(Process):
            def run(self):
                raise asyncio.CancelledError('by hand')

        for each in (Cancels, CancelsInThread):
            node = engine.wait(engine.submit(each), timeout=20)
            assert node.is_excepted
            assert 'CancelledError' in node.exception


class TestCallsOfTheEngine:
    def test_blocking_calls_say_what_to_await_instead(self, engine: Engine):
        said = []

        class Blocks(Process):
            async def run(self):
                for call in (
                    lambda: engine.run(Child),
                    lambda: run(Child),
                    lambda: engine.wait(1),
                    lambda: engine.submit(Child),
                    lambda: double(1),
                ):
                    with pytest.raises(WrongThread) as caught:
                        call()
                    said.append(str(caught.value))

        assert run_get_node(Blocks)[1].called == []
        assert 'await engine.run_async()' in said[0]
        assert 'treadle-worker' in said[0]
        assert 'await engine.wait_async()' in said[2]
        assert 'await asyncio.to_thread(double, ...)' in said[4]

    def test_run_async(self, engine: Engine):
        class Parent(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y')

            async def run(self):
                outputs = await engine.run_async(Child, x=5)
                self.out('y', outputs['y'] + await engine.run_async(double, x=1))

        outputs, node = run_get_node(Parent)
        assert outputs == {'y': 7}
        assert [child.process_label for child in node.called] == ['Child', 'double']
        assert all(child.parent == node for child in node.called)

    def test_several_at_once(self, engine: Engine):
        class Parent(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('ys')

            async def run(self):
                runs = await asyncio.gather(*(engine.run_async(Child, x=x) for x in range(10)))
                self.out('ys', [outputs['y'] for outputs in runs])

        assert run(Parent) == {'ys': list(range(10))}

    def test_errors_of_children(self, engine: Engine):
        class Parent(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('said')

            async def run(self):
                with pytest.raises(LookupError) as caught:
                    await engine.run_async(Fails)
                self.out('said', str(caught.value))

        assert run(Parent) == {'said': 'in a coroutine'}

    def test_waiting(self, engine: Engine):
        node = engine.submit(Child, x=8)

        class Parent(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y')

            async def run(self):
                ended = await engine.wait_async(node)
                self.out('y', ended.outputs.y)

        assert run(Parent) == {'y': 8}

    def test_waiting_for_a_child_that_has_not_begun_is_refused(self, engine: Engine):
        class Parent(Process):
            async def run(self):
                await engine.wait_async(self.submit(Child))

        with pytest.raises(RuntimeError, match='would wait for ever'):
            run(Parent)

    def test_from_a_hosts_loop(self, engine: Engine):
        async def host():
            outputs = await asyncio.gather(*(engine.run_async(Child, x=x) for x in range(5)))
            node = engine.submit(Child, x=9)
            return outputs, (await engine.wait_async([node]))[0].outputs.y

        assert asyncio.run(host()) == ([{'y': x} for x in range(5)], 9)

    def test_a_host_that_gives_up_leaves_the_process_alone(self, engine: Engine):
        begun, go_on = threading.Event(), threading.Event()

        class Slow(Process):
            def run(self):
                begun.set()
                go_on.wait(20)

        async def host():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    running = asyncio.ensure_future(engine.run_async(Slow))
                    await asyncio.to_thread(begun.wait, 20)
                    limit.reschedule(asyncio.get_running_loop().time())
                    await running

        asyncio.run(host())
        go_on.set()
        (node,) = engine.query(process_label='Slow')
        assert engine.wait(node, timeout=20).is_finished_ok

    def test_killed(self, engine: Engine):
        """The coroutines are cancelled, the parent's and the child's, and say no more."""
        reached, over = threading.Event(), threading.Semaphore(0)

        class Waits(Process):
            async def run(self):
                try:
                    await engine.run_async(Never)
                finally:
                    over.release()

        class Never(Process):
            async def run(self):
                reached.set()
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    over.release()

        node = engine.submit(Waits)
        assert reached.wait(20)
        engine.kill(node, 'enough')
        assert over.acquire(timeout=20)
        assert over.acquire(timeout=20)
        with pytest.raises(KilledError, match='enough'):
            engine.run(Reads, node=node)


class Reads(Process):
    """Raises what became of another process."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('node')

    async def run(self):
        node = self.inputs.node
        assert node.is_killed
        raise KilledError(node.exit_message)


class TestStopping:
    def test_every_wait_of_a_gathering_step_is_unwound(self, make_engine):
        """A short run ends first, then the engine stops: the long one must not keep the step."""
        reached, go_on = threading.Event(), threading.Event()
        starts = []

        class Long(Process):
            def run(self):
                starts.append('long')
                reached.set()
                go_on.wait(20)

        class Parent(Process):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('y')

            async def run(self):
                from treadle.engine.processes.visit import current_visit

                host = current_visit().host.engine
                starts.append('parent')
                async with asyncio.TaskGroup() as group:
                    short = group.create_task(host.run_async(Child, x=6))
                    group.create_task(host.run_async(Long))
                self.out('y', short.result()['y'])

        engine = make_engine()
        node = engine.submit(Parent)
        assert reached.wait(20)
        short = next(child for child in node.called if child.process_label == 'Child')
        engine.wait(short, timeout=20)
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        go_on.set()
        stopper.join(20)
        assert not stopper.is_alive()
        engine = make_engine()
        ended = engine.wait(node.pid, timeout=20)
        assert (ended.state, dict(ended.outputs)) == ('finished', {'y': 6})
        assert [child.process_label for child in ended.called] == ['Child', 'Long']

    def test_a_step_that_never_ends_is_cancelled_in_time(self, make_engine, monkeypatch):
        monkeypatch.setattr('treadle.engine.stopping.CLOSING_LEAST', 20.0)
        reached = threading.Event()

        class Never(Process):
            async def run(self):
                reached.set()
                await asyncio.get_running_loop().create_future()

        engine = make_engine()
        node = engine.submit(Never)
        assert reached.wait(20)
        engine.stop(timeout=1.0)
        engine = make_engine(claims='own')
        assert not engine.load(node.pid).is_terminated
        assert engine.kill(node.pid)
