"""``InterruptableFuture`` and ``interruptable_task``: who is interrupted, who is told, and what is left running."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from treadle.engine import InterruptableFuture, interruptable_task
from treadle.threads import WrongThread


class Stop(Exception):
    pass


async def forever():
    await asyncio.Event().wait()


def in_loop(test):
    """Run a coroutine function as a test."""

    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20), debug=True)

    run.__name__ = test.__name__
    return run


class TestWithInterrupt:
    @in_loop
    async def test_nobody_interrupts(self):
        interruptable = InterruptableFuture()
        assert await interruptable.with_interrupt(asyncio.sleep(0, 'slept')) == 'slept'
        assert not interruptable.done()
        with pytest.raises(KeyError):
            await interruptable.with_interrupt(raising(KeyError('own')))

    @in_loop
    async def test_interrupted_from_outside(self):
        interruptable = InterruptableFuture()
        ended = []

        async def cut_off():
            try:
                await forever()
            finally:
                ended.append(True)

        asyncio.get_running_loop().call_soon(interruptable.interrupt, Stop('STOP'))
        with pytest.raises(Stop, match='STOP'):
            await interruptable.with_interrupt(cut_off())
        assert interruptable.done()
        assert ended == [True]

    @in_loop
    async def test_interrupted_from_inside(self):
        interruptable = InterruptableFuture()
        reached = asyncio.get_running_loop().create_future()

        async def inside():
            await asyncio.sleep(0)
            interruptable.interrupt(Stop('STOP'))
            reached.set_result(True)

        with pytest.raises(Stop):
            await interruptable.with_interrupt(inside())
        assert reached.result()

    @in_loop
    async def test_interrupted_before(self):
        interruptable = InterruptableFuture()
        interruptable.interrupt(Stop())
        with pytest.raises(Stop):
            await interruptable.with_interrupt(forever())

    @in_loop
    async def test_a_future_of_others_is_left_alone(self):
        interruptable, shared = InterruptableFuture(), asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(interruptable.interrupt, Stop())
        with pytest.raises(Stop):
            await interruptable.with_interrupt(shared)
        assert not shared.done()

    @in_loop
    async def test_a_result_from_elsewhere(self):
        interruptable = InterruptableFuture()
        asyncio.get_running_loop().call_soon(interruptable.set_result, 'not me')
        with pytest.raises(RuntimeError, match='not me'):
            await interruptable.with_interrupt(forever())

    @in_loop
    async def test_the_waiting_task_is_cancelled(self):
        interruptable, cancelled = InterruptableFuture(), asyncio.Event()

        async def inner():
            try:
                await forever()
            finally:
                cancelled.set()

        waiting = asyncio.create_task(interruptable.with_interrupt(inner()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await cancelled.wait()
        assert not interruptable.done()

    def test_an_error_while_ending_is_logged(self, caplog):
        async def main():
            interruptable = InterruptableFuture()

            async def clumsy():
                try:
                    await forever()
                finally:
                    raise KeyError('while ending')

            asyncio.get_running_loop().call_soon(interruptable.interrupt, Stop())
            asyncio.get_running_loop().call_soon(interruptable.interrupt, Stop('too late'))
            with pytest.raises(Stop):
                await interruptable.with_interrupt(clumsy())

        asyncio.run(main())
        assert 'while ending' in caplog.text

    @in_loop
    async def test_an_interruption_that_comes_too_late(self):
        interruptable = InterruptableFuture()
        assert interruptable.interrupt(Stop('first')) is True
        assert interruptable.interrupt(Stop('second')) is False
        with pytest.raises(Stop, match='first'):
            await interruptable


async def raising(error):
    raise error


class TestTask:
    @in_loop
    async def test_a_result(self):
        async def work(future):
            return await future.with_interrupt(asyncio.sleep(0, 'done'))

        task = interruptable_task(work)
        assert isinstance(task, InterruptableFuture)
        assert await task == 'done'

    @in_loop
    async def test_interrupted(self):
        went_on = asyncio.Event()

        async def work(future):
            with pytest.raises(Stop):
                await future.with_interrupt(forever())
            went_on.set()

        task = interruptable_task(work)
        asyncio.get_running_loop().call_soon(task.interrupt, Stop('STOP'))
        with pytest.raises(Stop, match='STOP'):
            await task
        await went_on.wait()

    @in_loop
    async def test_it_interrupts_itself(self):
        async def work(future):
            future.interrupt(Stop())

        with pytest.raises(Stop):
            await interruptable_task(work)

    @in_loop
    async def test_a_result_from_elsewhere_stays(self):
        async def work(future):
            future.set_result('not mine')
            return 'mine'

        assert await interruptable_task(work) == 'not mine'

    @pytest.mark.parametrize('reraised', [True, False])
    def test_what_it_raises_when_the_future_is_done(self, reraised, caplog):
        async def main():
            async def work(future):
                try:
                    await future.with_interrupt(forever())
                except Stop:
                    if reraised:
                        raise
                    raise KeyError('another') from None

            task = interruptable_task(work)
            asyncio.get_running_loop().call_soon(task.interrupt, Stop())
            with pytest.raises(Stop):
                await task
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

        asyncio.run(main())
        assert ('another' in caplog.text) is not reraised

    @in_loop
    async def test_an_error(self):
        error = KeyError('own')
        with pytest.raises(KeyError) as raised:
            await interruptable_task(lambda future: raising(error))
        assert raised.value is error

    @in_loop
    async def test_cancelling_the_future_cancels_the_coroutine(self):
        cancelled = asyncio.Event()

        async def work(future):
            try:
                await forever()
            finally:
                cancelled.set()

        task = interruptable_task(work)
        await asyncio.sleep(0)
        task.cancel()
        await cancelled.wait()

    @in_loop
    async def test_a_coroutine_that_is_cancelled_cancels_the_future(self):
        with pytest.raises(asyncio.CancelledError):
            await interruptable_task(lambda future: raising(asyncio.CancelledError()))

    def test_leaving_the_interpreter_resolves_the_future_too(self):
        loop = asyncio.new_event_loop()
        try:
            task = interruptable_task(lambda future: raising(SystemExit(3)), loop=loop)
            with pytest.raises(SystemExit):
                loop.run_until_complete(task)
            assert isinstance(task.exception(), SystemExit)
        finally:
            loop.close()

    @in_loop
    async def test_nobody_keeps_it(self):
        reached = asyncio.Event()

        async def work(future):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            reached.set()

        interruptable_task(work)
        await asyncio.sleep(0)
        gc.collect()
        await reached.wait()

    def test_which_loop(self):
        async def work(future):
            return threading.current_thread()

        with pytest.raises(RuntimeError, match='needs a loop'):
            interruptable_task(work)
        loop = asyncio.new_event_loop()
        try:
            assert loop.run_until_complete(interruptable_task(work, loop=loop)) is threading.current_thread()

            async def from_another_thread():
                with pytest.raises(WrongThread, match='another thread'):
                    await asyncio.to_thread(interruptable_task, work, loop)

            loop.run_until_complete(from_another_thread())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
