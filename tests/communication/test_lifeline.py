"""Keeping a session: what is asked for in the moment in which one is lost."""

from __future__ import annotations

import asyncio
from typing import Any

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
