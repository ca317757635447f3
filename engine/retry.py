"""Trying again, with longer and longer pauses: for what fails because of a network or a busy computer."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

__all__ = ['exponential_backoff_retry']

LOGGER = logging.getLogger(__name__)
T = TypeVar('T')

Sleep = Callable[[float], Awaitable[object]]


@overload
async def exponential_backoff_retry(
    fct: Callable[[], Awaitable[T]],
    initial_interval: float = ...,
    max_attempts: int = ...,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = ...,
    ignore_exceptions: type[BaseException] | tuple[type[BaseException], ...] | None = ...,
    *,
    max_interval: float = ...,
    jitter: float = ...,
    sleep: Sleep = ...,
) -> T: ...
@overload
async def exponential_backoff_retry(
    fct: Callable[[], T],
    initial_interval: float = ...,
    max_attempts: int = ...,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = ...,
    ignore_exceptions: type[BaseException] | tuple[type[BaseException], ...] | None = ...,
    *,
    max_interval: float = ...,
    jitter: float = ...,
    sleep: Sleep = ...,
) -> T: ...
async def exponential_backoff_retry(
    fct: Callable[[], Any],
    initial_interval: float = 10.0,
    max_attempts: int = 5,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ignore_exceptions: type[BaseException] | tuple[type[BaseException], ...] | None = None,
    *,
    max_interval: float = 3600.0,
    jitter: float = 0.0,
    sleep: Sleep = asyncio.sleep,
) -> Any:
    """Call ``fct`` until it succeeds; the pause after each failure is twice the one before.

    The idea and the first five parameters are those of ``aiida.engine``.

    :param fct: a function or coroutine function without parameters. A plain function is called here, on the loop,
        and must not block; give ``lambda: asyncio.to_thread(f)`` for one that does.
    :param initial_interval: seconds of the first pause.
    :param max_attempts: how often to call, at least once.
    :param logger: gets an error with the traceback for each failure; this module's by default.
    :param ignore_exceptions: these are raised at once: trying again would not help.
    :param max_interval: seconds that a pause does not exceed, however many came before.
    :param jitter: each pause is lengthened at random by up to this part of it, so that many that failed together
        do not come back together.
    :param sleep: what waits; a test gives its own.
    :returns: what ``fct`` returned.
    :raises Exception: what the last call raised.
    :raises ValueError: a parameter is out of its range.
    """
    _check(initial_interval, max_attempts, max_interval, jitter)
    logger = LOGGER if logger is None else logger
    name = _name_of(fct)
    interval = min(initial_interval, max_interval)
    attempt = 0
    while True:
        attempt += 1
        try:
            result = fct()
            return await result if inspect.isawaitable(result) else result
        except Exception as error:
            if ignore_exceptions is not None and isinstance(error, ignore_exceptions):
                raise
            if attempt == max_attempts:
                logger.exception('call %d of %s, the last one allowed, raised', attempt, name)
                raise
            pause = interval * (1.0 + random.uniform(0.0, jitter))
            logger.exception(
                'call %d of %d of %s raised; the next one is in %g s', attempt, max_attempts, name, pause
            )
        # Outside the handler: an exception that is kept for the length of the pause keeps its frames' objects.
        await sleep(pause)
        interval = min(2 * interval, max_interval)


def _check(initial_interval: float, max_attempts: int, max_interval: float, jitter: float) -> None:
    if max_attempts < 1:
        raise ValueError(f'max_attempts must be at least 1, not {max_attempts!r}')
    for name, value in (
        ('initial_interval', initial_interval),
        ('max_interval', max_interval),
        ('jitter', jitter),
    ):
        if not value >= 0:
            raise ValueError(f'{name} must be at least 0, not {value!r}')


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, '__qualname__', None) or repr(function))
