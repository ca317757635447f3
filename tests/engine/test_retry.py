"""``exponential_backoff_retry``: how often, how long, what is logged and what is raised. Nothing here really sleeps."""

from __future__ import annotations

import asyncio
import functools
import logging

import pytest

from treadle.engine import exponential_backoff_retry


class Flaky:
    """Raises the given errors, one per call, and then returns 42."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def plain(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 42

    async def coroutine(self):
        await asyncio.sleep(0)
        return self.plain()


@pytest.fixture(params=['plain', 'coroutine'])
def kind(request):
    return request.param


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def retry(pauses):
    async def sleep(seconds):
        pauses.append(seconds)

    def retry(*args, **kwargs):
        return asyncio.run(exponential_backoff_retry(*args, sleep=sleep, **kwargs))

    return retry


def test_success_after_failures(retry, pauses, kind, caplog):
    flaky = Flaky(RuntimeError('one'), RuntimeError('two'))
    assert retry(getattr(flaky, kind), initial_interval=0.1, max_attempts=4) == 42
    assert flaky.calls == 3
    assert pauses == [0.1, 0.2]


def test_the_last_failure_is_raised(retry, pauses, kind):
    last = RuntimeError('two')
    flaky = Flaky(RuntimeError('one'), last, RuntimeError('three'))
    with pytest.raises(RuntimeError) as raised:
        retry(getattr(flaky, kind), initial_interval=0.1, max_attempts=2)
    assert raised.value is last
    assert (flaky.calls, pauses) == (2, [0.1])


def test_the_defaults(retry, pauses, kind):
    flaky = Flaky(*(RuntimeError(str(number)) for number in range(9)))
    with pytest.raises(RuntimeError, match=r'^4$'):
        retry(getattr(flaky, kind))
    assert pauses == [10.0, 20.0, 40.0, 80.0]


def test_each_failure_is_logged_with_its_traceback(retry, kind, caplog):
    flaky = Flaky(RuntimeError('one'), RuntimeError('two'))
    with pytest.raises(RuntimeError):
        retry(getattr(flaky, kind), max_attempts=2, logger=logging.getLogger('of.the.caller'))
    assert [(record.name, record.levelname) for record in caplog.records] == [('of.the.caller', 'ERROR')] * 2
    assert ['in 10 s' in record.getMessage() for record in caplog.records] == [True, False]
    assert all(f'Flaky.{kind}' in record.getMessage() for record in caplog.records)
    assert [str(record.exc_info[1]) for record in caplog.records] == ['one', 'two']


@pytest.mark.parametrize('ignored', [KeyError, (OSError, KeyError)])
def test_what_trying_again_would_not_help(retry, pauses, kind, caplog, ignored):
    flaky = Flaky(KeyError('gone'))
    with pytest.raises(KeyError):
        retry(getattr(flaky, kind), ignore_exceptions=ignored)
    assert (flaky.calls, pauses, caplog.records) == (1, [], [])


def test_a_cancellation_is_no_failure(retry, pauses):
    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        retry(cancelled)
    assert pauses == []


def test_pauses_are_bounded_and_spread(retry, pauses):
    flaky = Flaky(*(RuntimeError() for _ in range(5)))
    retry(flaky.plain, initial_interval=10, max_attempts=6, max_interval=25, jitter=0.5)
    for pause, shortest in zip(pauses, [10, 20, 25, 25, 25], strict=True):
        assert shortest <= pause <= 1.5 * shortest


def test_other_callables(retry, caplog):
    flaky = Flaky(RuntimeError())
    assert retry(lambda: flaky.coroutine()) == 42
    flaky = Flaky(RuntimeError())
    assert retry(functools.partial(functools.partial(flaky.plain))) == 42
    assert 'Flaky.plain' in caplog.text


@pytest.mark.parametrize(
    'arguments',
    [{'max_attempts': 0}, {'initial_interval': -1}, {'max_interval': float('nan')}, {'jitter': -0.1}],
)
def test_parameters_out_of_range(retry, arguments):
    flaky = Flaky()
    with pytest.raises(ValueError, match=next(iter(arguments))):
        retry(flaky.plain, **arguments)
    assert flaky.calls == 0
