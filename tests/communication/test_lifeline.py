"""Keeping a session: what is asked for in the moment in which one is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from treadle.engine.communication.connection import unless_stuck
from treadle.engine.communication.lifeline import Lifeline


class Line:
    """A session that is there until somebody loses it."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Nothing is open."""


async def ask_in_the_moment_of_the_loss() -> bool:
    lines: list[Line] = []

    async def open_line() -> Any:
        lines.append(Line())
        return lines[-1]

    async def set_up(session: Any) -> None:
        """Nobody subscribes."""

    lifeline = Lifeline('the broker', open_session=open_line, set_up=set_up)
    keeping = asyncio.create_task(lifeline.run(None))  # type: ignore[arg-type]
    first = await lifeline.session(None)
    first.lost.set_result('cut')
    # Nobody else has come to know of the loss by now.
    second = await lifeline.session(None)
    is_next = second is lines[1] and not second.lost.done()
    keeping.cancel()
    await asyncio.wait([keeping])
    return is_next


def test_who_asks_in_the_moment_of_the_loss_gets_the_next_session() -> None:
    assert asyncio.run(ask_in_the_moment_of_the_loss())


def a_cancelled_future() -> asyncio.Future[None]:
    """What the library below makes of each future that waits for a connection that is stuck."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


async def get_stuck_while_set_up() -> bool:
    lines: list[Line] = []

    async def open_line() -> Any:
        lines.append(Line())
        return lines[-1]

    async def set_up(session: Any) -> None:
        if len(lines) == 1:
            await a_cancelled_future()

    lifeline = Lifeline('the broker', open_session=open_line, set_up=set_up)
    lifeline.is_patient = True
    keeping = asyncio.create_task(lifeline.run(None))  # type: ignore[arg-type]
    asking = asyncio.create_task(lifeline.session(None))
    await asyncio.wait([keeping, asking], return_when=asyncio.FIRST_COMPLETED)
    is_next = asking.done() and asking.result() is lines[1]
    for task in (keeping, asking):
        task.cancel()
    await asyncio.wait([keeping, asking])
    return is_next


def test_one_that_gets_stuck_while_it_is_set_up_is_followed_by_another() -> None:
    assert asyncio.run(get_stuck_while_set_up())


def test_a_stuck_connection_is_told_from_the_wish_to_end() -> None:
    async def wait_in_vain() -> None:
        with unless_stuck():
            await asyncio.get_running_loop().create_future()

    async def both() -> None:
        with pytest.raises(ConnectionError, match='has not been heard of'), unless_stuck():
            await a_cancelled_future()
        task = asyncio.create_task(wait_in_vain())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wait_in_vain()

    asyncio.run(both())


async def lose_each_session_at_once(count: int) -> None:
    lines: list[Line] = []
    last = asyncio.Event()

    async def open_line() -> Any:
        lines.append(Line())
        if len(lines) <= count:
            lines[-1].lost.set_result('the broker closed a channel')
        else:
            last.set()
        return lines[-1]

    async def set_up(session: Any) -> None:
        """Nobody subscribes."""

    lifeline = Lifeline('the broker', open_session=open_line, set_up=set_up)
    keeping = asyncio.create_task(lifeline.run(None))  # type: ignore[arg-type]
    await last.wait()
    keeping.cancel()
    await asyncio.wait([keeping])


def test_sessions_that_are_lost_at_once_are_made_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> float:
        pauses.append(seconds)
        return 2 * seconds

    monkeypatch.setattr('treadle.engine.communication.lifeline._pause', pause)
    asyncio.run(lose_each_session_at_once(3))
    assert pauses == [0.1, 0.2, 0.4]
