"""Queues of loops, and the authority that they share: who shares an opening, who hears of its failure."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from transports.rig import QUICK, spec_of

from treadle.engine.errors import (
    AuthenticationFailed,
    CommandTimeout,
    ComputerUnreachable,
    ConfigurationError,
    ConnectionLost,
    TransportClosed,
    TransportError,
)
from treadle.engine.testing import FakeComputer, FakeComputers
from treadle.engine.transports import Backoff, ConnectionAuthority, ConnectionSpec, TransportQueue
from treadle.threads import Forked, LoopThread, WrongThread, wait

CLUSTER = ConnectionSpec(name='cluster', hostname='cluster')


@pytest.fixture
def computers(tmp_path: Path) -> FakeComputers:
    """Computers that are not there."""
    return FakeComputers(tmp_path / 'fake')


@pytest.fixture
def cluster(computers: FakeComputers) -> FakeComputer:
    """One of them."""
    return computers['cluster']


@pytest.fixture
def connections(
    make_connections: Callable[..., ConnectionAuthority], computers: FakeComputers
) -> ConnectionAuthority:
    """An authority that opens transports to them."""
    return make_connections(opener=computers)


async def ask(queue: TransportQueue, spec: ConnectionSpec = CLUSTER) -> str:
    """One short use of a transport."""
    async with queue.request_transport(spec) as request:
        transport = await request
        return (await transport.run(['echo', 'hello'])).stdout.decode().strip()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class TestLoops:
    def test_the_one_that_is_given(self, connections: ConnectionAuthority) -> None:
        loop = asyncio.new_event_loop()
        with TransportQueue(loop, connections=connections) as queue:
            assert queue.loop is loop
            assert loop.run_until_complete(ask(queue)) == 'hello'
        assert not loop.is_closed()
        loop.close()

    def test_the_one_that_runs(self, connections: ConnectionAuthority) -> None:
        async def main() -> None:
            queue = TransportQueue(connections=connections)
            assert queue.loop is asyncio.get_running_loop()
            assert await ask(queue) == 'hello'

        asyncio.run(main())

    def test_one_of_its_own(self, connections: ConnectionAuthority) -> None:
        with TransportQueue(connections=connections) as queue:
            assert queue.loop.run_until_complete(ask(queue)) == 'hello'
        assert queue.loop.is_closed()

    def test_another_one_is_refused(self, connections: ConnectionAuthority) -> None:
        with TransportQueue(connections=connections) as queue, pytest.raises(WrongThread, match='of its own'):
            asyncio.run(ask(queue))

    def test_connections_of_its_own(self) -> None:
        with TransportQueue() as queue:
            assert queue.loop.run_until_complete(ask(queue, ConnectionSpec(name='here'))) == 'hello'
        with pytest.raises(TransportClosed):
            queue.connections.lease(CLUSTER)


class TestSharing:
    def test_requests_before_the_opening_share_it(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        gate = cluster.hold('open')

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            tasks = [asyncio.create_task(ask(queue)) for _ in range(50)]
            await until(lambda: cluster.counts['open'] == 1)
            gate.open()
            assert await asyncio.gather(*tasks) == ['hello'] * 50

        asyncio.run(main())
        assert cluster.counts['open'] == 1

    def test_the_plain_form(self, connections: ConnectionAuthority, cluster: FakeComputer) -> None:
        async def main() -> None:
            queue = TransportQueue(connections=connections)
            with queue.request_transport(CLUSTER) as first, queue.request_transport(CLUSTER) as second:
                assert await first is await second

        asyncio.run(main())

    def test_a_computer_is_what_has_a_connection(self, connections: ConnectionAuthority) -> None:
        class Computer:
            connection = CLUSTER

        async def main() -> None:
            async with TransportQueue(connections=connections).request_transport(Computer()) as request:
                assert (await request).computer == 'cluster'

        asyncio.run(main())

    def test_cancelling_one_leaves_the_others(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        gate = cluster.hold('open')

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            tasks = [asyncio.create_task(ask(queue)) for _ in range(5)]
            await until(lambda: cluster.counts['open'] == 1)
            tasks[0].cancel()
            tasks[3].cancel()
            gate.open()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in results].count(asyncio.CancelledError) == 2
            assert results.count('hello') == 3

        asyncio.run(main())

    def test_cancelling_all_hands_back(self, connections: ConnectionAuthority, cluster: FakeComputer) -> None:
        gate = cluster.hold('open')

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            tasks = [asyncio.create_task(ask(queue)) for _ in range(5)]
            await until(lambda: cluster.counts['open'] == 1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            gate.open()
            await until(lambda: connections.states()[0].phase == 'open')
            assert connections.states()[0].users == 0
            assert await ask(queue) == 'hello'

        asyncio.run(main())
        assert cluster.counts['open'] == 1

    def test_a_failed_opening_reaches_every_waiter(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        gate = cluster.hold('open')
        cluster.fail('open')
        cluster.is_up = False

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            tasks = [asyncio.create_task(ask(queue)) for _ in range(20)]
            await until(lambda: cluster.counts['open'] == 1)
            gate.open()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in results] == [ComputerUnreachable] * 20

        asyncio.run(main())
        assert cluster.counts['open'] == 1

    def test_four_loops_share_one_connection(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        loops = [LoopThread(f'treadle-worker-{number}') for number in range(4)]
        for loop in loops:
            loop.start()
        try:

            async def work() -> int:
                queue = TransportQueue(connections=connections)
                return len(await asyncio.gather(*(ask(queue) for _ in range(25))))

            futures = [loop.bridge.submit(work) for loop in loops]
            assert [wait(future, 30.0) for future in futures] == [25] * 4
        finally:
            for loop in loops:
                loop.stop()
        assert (cluster.counts['open'], cluster.counts['run']) == (1, 100)

    def test_the_last_one_out_hands_back_and_it_is_closed_when_idle(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        spec = ConnectionSpec(name='cluster', hostname='cluster', idle_close=0.1)

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            assert await ask(queue, spec) == 'hello'
            await until(lambda: connections.states()[0].phase == 'closed')
            assert await ask(queue, spec) == 'hello'

        asyncio.run(main())
        assert cluster.counts['open'] == 2

    def test_misuse(self, connections: ConnectionAuthority) -> None:
        async def main() -> None:
            queue = TransportQueue(connections=connections)
            request = queue.request_transport(CLUSTER)
            with pytest.raises(RuntimeError, match='inside of its block'):
                await request
            async with request:
                with pytest.raises(RuntimeError, match='entered once'):
                    request.__enter__()
            queue.close()
            with pytest.raises(TransportClosed):
                await ask(queue)

        asyncio.run(main())


class TestCircuitBreaker:
    def test_one_probe_at_a_time_and_all_resume(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        cluster.is_up = False

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            with pytest.raises(ComputerUnreachable):
                await ask(queue)
            tasks = [asyncio.create_task(ask(queue)) for _ in range(100)]
            await until(lambda: cluster.counts['open'] >= 4)
            state = connections.states()[0]
            assert not [task for task in tasks if task.done()]
            assert isinstance(state.last_error, ComputerUnreachable)
            assert state.failures >= 3
            cluster.is_up = True
            assert await asyncio.gather(*tasks) == ['hello'] * 100
            assert connections.states()[0].phase == 'open'

        asyncio.run(main())

    def test_no_probe_without_anybody_who_waits(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        cluster.is_up = False

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            with pytest.raises(ComputerUnreachable):
                await ask(queue)
            task = asyncio.create_task(ask(queue))
            await until(lambda: connections.states()[0].parked == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda: connections.states()[0].next_attempt == 0)
            await asyncio.sleep(0)
            assert cluster.counts['open'] <= 2

        asyncio.run(main())

    def test_refusals_are_not_hammered(
        self, make_connections: Callable[..., ConnectionAuthority], computers: FakeComputers
    ) -> None:
        cluster = computers['cluster']
        cluster.fail('open', error=lambda: AuthenticationFailed('no'), times=None)
        connections = make_connections(opener=computers, backoff=Backoff(first=0.01, first_refused=1000.0))

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            with pytest.raises(AuthenticationFailed):
                await ask(queue)
            task = asyncio.create_task(ask(queue))
            await until(lambda: connections.states()[0].parked == 1)
            state = connections.states()[0]
            assert state.phase == 'waiting'
            assert 900 < (state.next_attempt or 0) <= 1250
            connections.forgive(CLUSTER)
            with pytest.raises(AuthenticationFailed):
                await task

        asyncio.run(main())
        assert cluster.counts['open'] == 2

    def test_a_connection_that_breaks_at_once_is_no_success(
        self, make_connections: Callable[..., ConnectionAuthority], computers: FakeComputers
    ) -> None:
        cluster = computers['cluster']
        connections = make_connections(opener=computers, backoff=Backoff(first=1000.0, stable=1000.0))
        cluster.fail('run')

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            with pytest.raises(ConnectionLost):
                await ask(queue)
            state = connections.states()[0]
            assert (state.phase, state.failures) == ('waiting', 1)

        asyncio.run(main())

    def test_a_break_reaches_those_who_use_it_and_one_reopening_is_made(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        gate = cluster.hold('run', times=3)

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            tasks = [asyncio.create_task(ask(queue)) for _ in range(3)]
            await until(lambda: cluster.counts['run'] == 3)
            cluster.is_up = False
            cluster.is_up = True
            gate.open()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in results] == [ConnectionLost] * 3
            assert await asyncio.gather(*(ask(queue) for _ in range(10))) == ['hello'] * 10

        asyncio.run(main())
        assert cluster.counts['open'] == 2

    def test_safe_interval_is_between_openings_only(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        spec = ConnectionSpec(name='cluster', hostname='cluster', safe_interval=0.5, idle_close=0.0)

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            begun = time.monotonic()
            async with queue.request_transport(spec) as request:
                transport = await request
                for _ in range(20):
                    await transport.stat('.')
            assert time.monotonic() - begun < 5  # and not 20 intervals
            await until(lambda: connections.states()[0].phase == 'closed')
            await ask(queue, spec)
            assert time.monotonic() - begun >= 0.5

        asyncio.run(main())
        assert cluster.counts['open'] == 2

    def test_a_setting_that_makes_no_sense_is_no_failure_of_the_computer(
        self, connections: ConnectionAuthority, cluster: FakeComputer
    ) -> None:
        cluster.fail('open', error=lambda: ConfigurationError('no such file'))

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            with pytest.raises(ConfigurationError):
                await ask(queue)
            assert await ask(queue) == 'hello'

        asyncio.run(main())


class TestFaults:
    def test_a_lost_reply(self, connections: ConnectionAuthority, cluster: FakeComputer) -> None:
        cluster.fail('run', moment='after')
        lease = wait(connections.lease(CLUSTER), 10.0)
        with pytest.raises(ConnectionLost):
            lease.blocking.run(['touch', 'done'])
        assert (cluster.folder / 'done').exists()
        assert not lease.blocking.is_alive()
        lease.release()

    def test_a_time_out(self, connections: ConnectionAuthority, cluster: FakeComputer) -> None:
        cluster.time_out()
        lease = wait(connections.lease(CLUSTER), 10.0)
        with pytest.raises(CommandTimeout):
            lease.blocking.run(['touch', 'done'])
        assert (cluster.folder / 'done').exists()
        assert lease.blocking.is_alive()
        lease.release()

    def test_in_the_middle_of_a_file(
        self, connections: ConnectionAuthority, cluster: FakeComputer, tmp_path: Path
    ) -> None:
        (tmp_path / 'large').write_bytes(b'x' * 3_000_000)
        cluster.fail('put_file', moment='middle')
        lease = wait(connections.lease(CLUSTER), 10.0)
        with pytest.raises(ConnectionLost):
            lease.blocking.put_file(tmp_path / 'large', 'large')
        assert os.listdir(cluster.folder) == []
        lease.release()


class TestEnds:
    def test_stopping_fails_who_waits_and_breaks_off_what_runs(
        self, connections: ConnectionAuthority, computers: FakeComputers
    ) -> None:
        computers['down'].is_up = False
        down = ConnectionSpec(name='down', hostname='down')
        with pytest.raises(ComputerUnreachable):
            wait(connections.lease(down), 10.0)
        parked = connections.lease(down)
        lease = wait(connections.lease(CLUSTER), 10.0)
        errors: Future[TransportError] = Future()

        def sleep() -> None:
            try:
                lease.blocking.run(['sleep', '50'])
            except TransportError as error:
                errors.set_result(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        while not connections.states()[-1].operations:
            threading.Event().wait(0.01)
        begun = time.monotonic()
        connections.stop(10.0)
        assert time.monotonic() - begun < 8
        assert isinstance(errors.result(10.0), TransportClosed)
        thread.join()
        with pytest.raises(TransportClosed):
            wait(parked, 10.0)
        with pytest.raises(TransportClosed):
            connections.lease(CLUSTER)

    def test_a_cancelled_operation_is_broken_off(self, connections: ConnectionAuthority) -> None:
        async def main() -> None:
            queue = TransportQueue(connections=connections)
            async with queue.request_transport(CLUSTER) as request:
                transport = await request
                task = asyncio.create_task(transport.run(['sleep', '50']))
                await until(lambda: connections.states()[0].operations == 1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: connections.states()[0].operations == 0)

        begun = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - begun < 20

    def test_operations_take_turns(self, make_connections: Callable[..., ConnectionAuthority]) -> None:
        spec = ConnectionSpec(name='here', max_sessions=3)
        connections = make_connections()
        most = 0

        async def main() -> None:
            nonlocal most
            queue = TransportQueue(connections=connections)
            async with queue.request_transport(spec) as request:
                transport = await request
                tasks = [asyncio.create_task(transport.run(['sleep', '0.05'])) for _ in range(12)]
                while not all(task.done() for task in tasks):
                    most = max(most, connections.states()[0].operations)
                    await asyncio.sleep(0.005)

        asyncio.run(main())
        assert most == 3

    def test_in_a_forked_child(self, connections: ConnectionAuthority) -> None:
        wait(connections.lease(CLUSTER), 10.0).release()
        pid = os.fork()
        if not pid:
            try:
                connections.lease(CLUSTER)
            except Forked:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


class TestSshd:
    def test_four_loops_log_in_once(
        self, make_connections: Callable[..., ConnectionAuthority], make_sshd: Callable[..., Any]
    ) -> None:
        sshd = make_sshd()
        before = sshd.accepted_logins()
        connections = make_connections()
        spec = spec_of(sshd)
        loops = [LoopThread(f'treadle-worker-{number}') for number in range(4)]
        for loop in loops:
            loop.start()
        try:

            async def work() -> int:
                queue = TransportQueue(connections=connections)
                return len(await asyncio.gather(*(ask(queue, spec) for _ in range(13))))

            futures = [loop.bridge.submit(work) for loop in loops]
            assert [wait(future, 50.0) for future in futures] == [13] * 4
        finally:
            for loop in loops:
                loop.stop()
        assert sshd.accepted_logins() - before == 1

    @pytest.mark.parametrize(('sessions', 'commands'), [(10, 50), (3, 30)])
    def test_more_commands_than_sessions(
        self,
        make_connections: Callable[..., ConnectionAuthority],
        make_sshd: Callable[..., Any],
        sessions: int,
        commands: int,
    ) -> None:
        # The second takes fewer than the computer is said to take, which is found out.
        sshd = make_sshd(settings={'MaxSessions': str(sessions)})
        before = sshd.accepted_logins()
        connections = make_connections()

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            assert await asyncio.gather(*(ask(queue, spec_of(sshd)) for _ in range(commands))) == ['hello'] * commands

        asyncio.run(main())
        assert sshd.accepted_logins() - before == 1

    def test_down_and_up(
        self, make_connections: Callable[..., ConnectionAuthority], make_sshd: Callable[..., Any]
    ) -> None:
        sshd = make_sshd()
        connections = make_connections(backoff=QUICK)
        spec = spec_of(sshd)

        async def persist(queue: TransportQueue) -> str:
            while True:
                try:
                    return await ask(queue, spec)
                except TransportError as error:
                    assert error.transient

        async def main() -> None:
            queue = TransportQueue(connections=connections)
            assert await ask(queue, spec) == 'hello'
            await asyncio.to_thread(sshd.stop)
            tasks = [asyncio.create_task(persist(queue)) for _ in range(20)]
            await until(lambda: connections.states()[0].failures >= 3)
            assert not [task for task in tasks if task.done()]
            await asyncio.to_thread(sshd.start)
            assert await asyncio.gather(*tasks) == ['hello'] * 20

        before = sshd.accepted_logins()
        asyncio.run(main())
        # One at first, one at the end, and the one by which the service sees that it is up.
        assert sshd.accepted_logins() - before <= 3
