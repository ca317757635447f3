"""The scripts for the computer, run by real shells."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from treadle.engine.jobs import scripts
from treadle.engine.jobs.protocol import Beyond, Findings, Next, job_name, judge_submission
from treadle.engine.jobs.schedulers import JobResources, scheduler_of

DIRECT = scheduler_of('direct')


class Attempt:
    """The folder of an attempt on this machine, with a job in it."""

    def __init__(self, folder: Path, commands: str, **limits: int | None) -> None:
        self.folder = folder
        self.name = job_name(str(folder))
        self.control = folder / '.treadle'
        self.control.mkdir(parents=True)
        script = scripts.job_script(
            shebang='#!/bin/bash', header='', folder=str(folder), job_id=DIRECT.job_id, **limits
        )
        (self.control / 'job.sh').write_text(script)
        text = scripts.commands_script(environment=[], before=[], commands=[commands], after=[])
        (self.control / 'commands.sh').write_text(text)

    @property
    def submit_text(self) -> str:
        return DIRECT.submit_text(scripts.JOB_SCRIPT, self.name, JobResources(), shebang='#!/bin/bash')

    def submit(self):
        return self.read(scripts.submit_argv(str(self.folder), self.submit_text))

    def look(self, **acts: str):
        return self.read(scripts.look_argv(**acts))

    def read(self, argv: list[str]):
        ran = subprocess.run(argv, input=f'{self.folder}\n'.encode(), capture_output=True, timeout=30)
        found = scripts.parse_look(ran.stdout)
        assert found is not None, ran
        return found[str(self.folder)]

    def wait_ended(self, seconds: float = 20):
        deadline = time.monotonic() + seconds
        while (found := self.look()).ended is None:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def listing(self):
        ran = subprocess.run(DIRECT.list_argv([]), capture_output=True, text=True, timeout=30)
        return DIRECT.read_listing(scripts_reply(ran))

    def cancel(self, job_id: str, name: str | None = None) -> None:
        argv = DIRECT.cancel_argv(job_id, name or self.name)
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        DIRECT.read_cancel(scripts_reply(ran))


def scripts_reply(ran):
    from treadle.engine.jobs.schedulers import Reply

    return Reply(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def make(tmp_path):
    made: list[Attempt] = []

    def make(commands: str, name: str = "a folder's $(name) *", **limits: int | None) -> Attempt:
        # A listing of this machine shows the jobs of all who test on it.
        attempt = Attempt(tmp_path / name / '0' / f'17-1-{secrets.token_hex(5)}', commands, **limits)
        made.append(attempt)
        return attempt

    yield make
    for attempt in made:
        job = attempt.listing().by_name.get(attempt.name)
        if job is not None:
            attempt.cancel(job.job_id)


def test_a_job_runs_and_says_how_it_ended(make):
    attempt = make('echo hello; (exit 3)')
    found = attempt.submit()
    assert found.submission is not None and found.submission.exit_code == 0
    job_id = DIRECT.submitted_id(found.submission)
    assert job_id is not None and found.ticket is not None and found.ticket.kind == 'taken'
    ended = attempt.wait_ended()
    assert ended.ended.exit_code == 3
    assert abs(ended.ended.at - time.time()) < 60
    assert ended.started_id == job_id
    assert (attempt.folder / '_scheduler-stdout.txt').read_text() == 'hello\n'


def test_the_ticket_is_taken_once(make):
    attempt = make('echo ran >>runs')
    first = attempt.submit()
    attempt.wait_ended()
    second = attempt.submit()
    assert second.ticket == first.ticket
    assert (attempt.folder / 'runs').read_text() == 'ran\n'


def test_a_revoked_ticket_is_not_taken(make):
    attempt = make('echo ran >>runs')
    assert attempt.look(revoke='8').ticket.kind == 'revoked'
    found = attempt.submit()
    assert found.ticket.kind == 'revoked' and found.submission is None
    assert judged(found) == (Next.NOT_SUBMITTED, '')
    assert attempt.name not in attempt.listing().by_name


def test_a_folder_that_is_not_there_can_be_revoked(tmp_path):
    folder = tmp_path / 'deep' / 'down'
    ran = subprocess.run(
        scripts.look_argv(revoke='8'), input=f'{folder}\n'.encode(), capture_output=True, timeout=30
    )
    found = scripts.parse_look(ran.stdout)[str(folder)]
    assert found.ticket.kind == 'revoked' and found.ticket.get('by') == '8'


@pytest.mark.parametrize('act', [{}, {'revoke': '8'}, {'void': '8'}], ids=['look', 'revoke', 'void'])
def test_a_work_directory_that_is_away_proves_nothing(make, tmp_path, act):
    attempt = make('true')
    attempt.submit()
    there = attempt.wait_ended()
    base = attempt.folder.parent.parent
    base.rename(tmp_path / 'unmounted')
    away = attempt.look(**act)
    assert away == Findings(is_away=True) and judged(away) == (Next.ASK_AGAIN, '')
    assert not base.exists()
    (tmp_path / 'unmounted').rename(base)
    assert attempt.look() == there


def test_a_ticket_that_cannot_be_revoked_may_be_taken_yet(make):
    attempt = make('true')
    shutil.rmtree(attempt.control)
    attempt.control.touch()  # root may write wherever there is a folder
    found = attempt.look(revoke='8')
    assert found == Findings() and judged(found) == (Next.ASK_AGAIN, '')


def test_looking_changes_nothing(make, tmp_path):
    attempt = make('true')
    found = attempt.look()
    assert found.ticket is None and found.started is None and found.ended is None
    nothing = subprocess.run(
        scripts.look_argv(), input=f'{tmp_path}/none\n'.encode(), capture_output=True, timeout=30
    )
    assert scripts.parse_look(nothing.stdout)[f'{tmp_path}/none'] == Findings()
    assert not (tmp_path / 'none').exists()


def test_a_second_start_does_nothing(make):
    attempt = make('echo ran >>runs')
    for _ in range(2):
        subprocess.run(['bash', scripts.JOB_SCRIPT], cwd=attempt.folder, check=True, timeout=30)
    assert (attempt.folder / 'runs').read_text() == 'ran\n'


def test_a_voided_start_does_nothing(make):
    attempt = make('echo ran >>runs')
    assert attempt.look(void='8').is_void
    found = attempt.submit()
    job_id = DIRECT.submitted_id(found.submission)
    deadline = time.monotonic() + 10
    while attempt.name in attempt.listing().by_name:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = attempt.look()
    assert found.is_void and found.ended is None and not (attempt.folder / 'runs').exists()
    assert judged(found, recorded_id=job_id) == (Next.NOT_SUBMITTED, job_id)


def test_of_many_that_start_one_runs(make):
    attempt = make('echo ran >>runs; sleep 0.3')
    both = [subprocess.Popen(['bash', scripts.JOB_SCRIPT], cwd=attempt.folder) for _ in range(8)]
    assert [each.wait(30) for each in both] == [0] * 8
    assert (attempt.folder / 'runs').read_text() == 'ran\n'


def test_of_submission_and_revocation_one_wins(make):
    for round in range(12):
        attempt = make('echo ran >>runs', name=f'round {round}')
        argv = scripts.submit_argv(str(attempt.folder), attempt.submit_text)
        submitting = subprocess.Popen(argv, stdout=subprocess.PIPE)
        time.sleep(round * 0.002)
        revoked = attempt.look(revoke='8').ticket.kind == 'revoked'
        out, _ = submitting.communicate(timeout=30)
        found = scripts.parse_look(out)[str(attempt.folder)]
        assert (found.submission is None) == revoked
        if not revoked:
            attempt.wait_ended()
        assert (attempt.folder / 'runs').exists() != revoked


@pytest.mark.parametrize('text', ['if then fi (', 'exit 5', 'set -e; false; true', 'exec false'])
def test_whatever_the_commands_say_the_end_is_told(make, text):
    attempt = make(text)
    attempt.submit()
    assert attempt.wait_ended().ended.exit_code != 0


def test_time_is_up(make):
    attempt = make('echo begun; sleep 300', seconds=1)
    attempt.submit()
    found = attempt.wait_ended()
    assert found.limit == 'timeout' and found.ended.exit_code == 143


def test_in_time_the_watch_ends_with_the_job(make):
    seconds = 100_000 + os.getpid()  # no other run of this test on the machine waits so long
    attempt = make('true', seconds=seconds)
    attempt.submit()
    assert attempt.wait_ended().limit == ''
    deadline = time.monotonic() + 10
    while subprocess.run(['pgrep', '-f', f'sleep {seconds}$'], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_readlink_that_takes_one_name_at_a_time(make, tmp_path, monkeypatch):
    program = tmp_path / 'bin' / 'readlink'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ $# = 1 ] || exit 1\nexec {shutil.which("readlink")} "$1"\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    attempt = make('true')
    attempt.submit()
    found = attempt.wait_ended()
    assert (found.ticket.kind, found.started.kind) == ('taken', 'job')


def test_a_job_is_listed_and_cancelled(make):
    attempt = make('touch begun; sleep 300 & sleep 300')
    job_id = DIRECT.submitted_id(attempt.submit().submission)
    deadline = time.monotonic() + 20
    while not (attempt.folder / 'begun').exists():  # before it is a job, it is the shell that starts it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    listed = attempt.listing().by_name[attempt.name]
    assert listed.job_id == job_id and listed.phase == 'running'
    attempt.cancel('1')  # another process's number
    assert attempt.name in attempt.listing().by_name
    attempt.cancel(job_id)
    assert attempt.name not in attempt.listing().by_name
    assert attempt.wait_ended().ended.exit_code == 143


def test_what_a_job_has_left_when_its_leader_is_gone_is_cancelled(make):
    attempt = make("trap '' TERM; touch begun; sleep 300")
    job_id = DIRECT.submitted_id(attempt.submit().submission)
    deadline = time.monotonic() + 20
    while not (attempt.folder / 'begun').exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int(job_id), signal.SIGKILL)
    while attempt.name in attempt.listing().by_name:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    attempt.cancel(job_id, 'treadle-17-1-another')
    os.killpg(int(job_id), 0)  # they are there
    attempt.cancel(job_id)
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(int(job_id), 0)
            time.sleep(0.02)


def test_a_job_that_is_killed_without_a_word_is_known_to_be_dead(make):
    attempt = make('sleep 300')
    job_id = DIRECT.submitted_id(attempt.submit().submission)
    deadline = time.monotonic() + 10
    while attempt.look().started is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert attempt.look().job is Beyond.LIVES
    os.killpg(int(job_id), 9)
    while attempt.look().job is not Beyond.DEAD:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert attempt.look().ended is None


def test_a_submitter_that_is_killed_is_known_to_be_dead(make):
    attempt = make('true')
    argv = scripts.submit_argv(str(attempt.folder), 'sleep 300')
    submitting = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 10
    while attempt.look().ticket is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    found = attempt.look()
    assert found.submitter is Beyond.LIVES and judged(found) == (Next.ASK_AGAIN, '')
    submitting.terminate()  # as one whose patience has ended does; it has no effect
    time.sleep(0.1)
    assert attempt.look().submitter is Beyond.LIVES
    os.killpg(submitting.pid, 9)
    submitting.wait(30)
    found = attempt.look()
    assert found.submitter is Beyond.DEAD
    assert judged(found) == (Next.ASK_AGAIN, '')
    assert judged(found, dead_for=60.0) == (Next.VOID, '')
    assert judged(attempt.look(void='8'), dead_for=60.0) == (Next.NOT_SUBMITTED, '')


def test_noise_and_cut_output():
    whole = b'Welcome!\n@looked\n@folder /x\n@there\n@ticket taken:host=a:pid=1:boot=b:born=2\n@done\n'
    assert scripts.parse_look(whole)['/x'].ticket.get('pid') == '1'
    assert scripts.parse_look(whole[:-2]) is None
    assert scripts.parse_look(b'') is None


def judged(found, *, recorded_id=None, listed_id=None, dead_for=0.0, is_refusal=False):
    return judge_submission(
        found,
        recorded_id=recorded_id,
        is_refusal=is_refusal,
        listed_id=listed_id,
        dead_for=dead_for,
        certain_after=30.0,
    )


if sys.platform != 'linux':
    pytest.skip('the tests look into /proc', allow_module_level=True)
