"""How a job has ended, judged from its own word and the scheduler's."""

from __future__ import annotations

from typing import Any

import pytest

from treadle.engine.desk.endings import judge_end, wants_detail
from treadle.engine.jobs.protocol import Beyond, Ended, Findings, Link, Outcome, Verdict
from treadle.engine.jobs.schedulers import Entry, Phase

STARTED = Link('job', {'id': '7', 'host': 'h', 'pid': '7'})
DONE, SIGNALLED = Ended(0, 1.0), Ended(143, 1.0)


def _judge(findings: Findings, entry: Entry | None = None, *, direct: bool = False, silent: float = 0.0) -> Any:
    return judge_end(
        findings, entry, is_direct=direct, silent_for=silent, vanish_after=300.0, settle_after=20.0
    )


def _over(verdict: Verdict | None) -> Entry:
    return Entry('7', 'n', Phase.OVER, verdict, 'WORD')


def test_its_own_word_is_enough() -> None:
    assert _judge(Findings(started=STARTED, ended=DONE)) == Outcome(Verdict.ENDED, 0)
    assert _judge(Findings(started=STARTED, ended=DONE), _over(None)) == Outcome(Verdict.ENDED, 0)
    assert _judge(Findings(ended=DONE), _over(Verdict.FAILED)) == Outcome(Verdict.ENDED, 0)


@pytest.mark.parametrize('verdict', [Verdict.TIMEOUT, Verdict.MEMORY, Verdict.NODE, Verdict.CANCELLED])
def test_what_the_scheduler_did_counts_more(verdict: Verdict) -> None:
    assert _judge(Findings(ended=SIGNALLED), _over(verdict)) == Outcome(verdict, 143, 'WORD')
    assert _judge(Findings(), _over(verdict)) == Outcome(verdict, None, 'WORD')


def test_absent_is_unknown() -> None:
    for findings in (Findings(), Findings(started=STARTED)):
        assert _judge(findings) is None
        assert _judge(findings, silent=299.0) is None
        assert _judge(findings, silent=300.0).verdict is Verdict.VANISHED


def test_a_word_may_take_a_while_to_be_seen() -> None:
    for verdict in (Verdict.ENDED, Verdict.FAILED):
        assert _judge(Findings(started=STARTED), _over(verdict), silent=19.0) is None
        assert _judge(Findings(started=STARTED), _over(verdict), silent=20.0).verdict is verdict


def test_processes_of_this_host_and_of_others() -> None:
    dead = Findings(started=STARTED, job=Beyond.DEAD)
    assert _judge(dead, direct=True).verdict is Verdict.VANISHED
    assert _judge(dead) is None  # its process is no proof where a batch system starts it
    elsewhere = Findings(started=STARTED, job=Beyond.UNKNOWN)
    assert _judge(elsewhere, direct=True, silent=1e6) is None
    assert _judge(Findings(), direct=True, silent=300.0).verdict is Verdict.VANISHED


def test_a_limit_of_our_own() -> None:
    assert _judge(Findings(limit='timeout', started=STARTED, ended=SIGNALLED), direct=True).verdict is Verdict.TIMEOUT
    assert _judge(Findings(limit='timeout', started=STARTED, job=Beyond.DEAD), direct=True).verdict is Verdict.TIMEOUT
    assert _judge(Findings(limit='timeout', started=STARTED, job=Beyond.LIVES), direct=True) is None


def test_when_one_job_is_asked_for() -> None:
    assert wants_detail(Findings(), None) and wants_detail(Findings(ended=SIGNALLED), None)
    assert not wants_detail(Findings(ended=DONE), None) and not wants_detail(Findings(), _over(None))
