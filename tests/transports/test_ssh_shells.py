"""Shells that are kept for short commands: one for many, and nothing of one command is left for the next."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transports.rig import spec_of

from treadle.engine.errors import CommandTimeout
from treadle.engine.transports import ssh_shells
from treadle.engine.transports.ssh import SshTransport
from treadle.threads import StepThreads


class Counting:
    """A server that notes each start of a login shell.

    :ivar shells: how many there were, without those of the server's own start.
    """

    def __init__(self, make_sshd: Callable[..., Any], folder: Path, **options: Any) -> None:
        self._log = folder / 'shells'
        script = folder / 'shell'
        script.write_text(f'#!/bin/sh\necho shell >>{self._log}\neval "$SSH_ORIGINAL_COMMAND"\n')
        script.chmod(0o755)
        settings = {'ForceCommand': str(script), 'Subsystem': 'sftp /usr/lib/openssh/sftp-server'}
        self.sshd = make_sshd(settings={**settings, **options.pop('settings', {})}, **options)
        self._before = self._count()

    def _count(self) -> int:
        return len(self._log.read_text().splitlines())

    @property
    def shells(self) -> int:
        return self._count() - self._before


@pytest.fixture
def connect(threads: StepThreads) -> Iterator[Callable[..., SshTransport]]:
    """Opens transports to servers, and closes them after the test."""
    made: list[SshTransport] = []

    def open_(sshd: Any, **changes: Any) -> SshTransport:
        made.append(SshTransport(spec_of(sshd, **changes), threads=threads))
        return made[-1]

    yield open_
    for transport in made:
        transport.close()


def _sh(transport: SshTransport, text: str, *, words: Sequence[str] = (), **options: Any) -> Any:
    return transport.run(['sh', '-c', text, 'sh', *words], quick=True, **options)


def test_one_shell_for_many_commands(make_sshd: Any, connect: Any, tmp_path: Path) -> None:
    server = Counting(make_sshd, tmp_path)
    transport = connect(server.sshd)
    for number in range(5):
        result = _sh(transport, f'echo out {number}; echo err >&2; exit {number}')
        assert (result.exit_code, result.stdout, result.stderr) == (number, f'out {number}\n'.encode(), b'err\n')
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(1000))
    for number in range(3):
        transport.put_tree(source, f'{tmp_path}/there/{number}')
        transport.get_tree(f'{tmp_path}/there/{number}', tmp_path / f'back-{number}')
        assert (tmp_path / f'back-{number}' / 'file').read_bytes() == (source / 'file').read_bytes()
    assert server.shells == 1


def test_nothing_is_left_for_the_next(sshd: Any, connect: Any, tmp_path: Path) -> None:
    transport = connect(sshd)
    # The first is no program: it is the kept shell's own subshell that does it.
    with transport._channels.quick_command('cd /; umask 0; exec 2>/dev/null; NOISE=1; set -f; exit 7', keep=10) as one:
        assert one.finish() == 7
    result = _sh(transport, 'pwd; umask; echo "<$NOISE>" /et*; echo err >&2', cwd=str(tmp_path))
    assert result.stdout.decode().splitlines()[:1] == [str(tmp_path)]
    assert b'0000' not in result.stdout and b'<> /etc' in result.stdout and result.stderr == b'err\n'
    with pytest.raises(FileNotFoundError):
        _sh(transport, 'true', cwd=str(tmp_path / 'nowhere'))
    assert _sh(transport, 'echo on').stdout == b'on\n'


@pytest.mark.parametrize('size', [0, 1, 100, 70_000, 3_000_000])
@pytest.mark.parametrize('command', ['cat', 'head -c 10', 'true', 'exec <&-; cat /dev/null'])
def test_what_is_given_is_for_one_command(sshd: Any, connect: Any, size: int, command: str) -> None:
    """Whether it reads all of it, some, or none."""
    transport = connect(sshd)
    data = os.urandom(size)
    expected = {'cat': data, 'head -c 10': data[:10]}.get(command, b'')
    for _ in range(2):
        assert _sh(transport, command, stdin=data).stdout == expected
    assert _sh(transport, 'cat').stdout == b''


def test_outputs_of_any_kind(sshd: Any, connect: Any) -> None:
    transport = connect(sshd)
    for text in ('treadle-', 'treadle-treadle-0', 'no end of line', ' \n\n', ''):
        assert _sh(transport, 'printf %s "$1"; exit', words=[text]).stdout == text.encode()
    result = _sh(transport, 'head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2', max_output=1000)
    assert result.stdout == result.stderr == bytes(1000) and result.truncated
    assert _sh(transport, 'echo on').stdout == b'on\n'
    assert _sh(transport, 'kill -KILL $$').exit_code == 137
    assert _sh(transport, 'echo on').stdout == b'on\n'


def test_a_shell_whose_command_does_not_end_is_not_used_again(make_sshd: Any, connect: Any, tmp_path: Path) -> None:
    server = Counting(make_sshd, tmp_path)
    transport = connect(server.sshd)
    with pytest.raises(CommandTimeout):
        _sh(transport, 'trap "" TERM; echo early; while :; do sleep 1; done', timeout=0.2)
    assert _sh(transport, 'echo on').stdout == b'on\n'


def test_a_shell_that_has_died_is_replaced(make_sshd: Any, connect: Any, tmp_path: Path) -> None:
    server = Counting(make_sshd, tmp_path)
    transport = connect(server.sshd)
    with transport._channels.quick_command('echo $$', keep=100) as command:
        assert command.finish() == 0
    channel = command._channel
    os.kill(int(command.stdout), signal.SIGKILL)  # the test's own process
    assert channel.status_event.wait(20)
    deadline = time.monotonic() + 20
    while not channel.closed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _sh(transport, 'echo on').stdout == b'on\n'
    assert server.shells == 2


def test_an_old_shell_is_replaced(
    make_sshd: Any, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what has changed in the start-up files counts."""
    server = Counting(make_sshd, tmp_path)
    transport = connect(server.sshd)
    assert _sh(transport, 'true').exit_code == 0
    monkeypatch.setattr(ssh_shells, 'MAX_AGE', 0.0)
    assert _sh(transport, 'echo on').stdout == b'on\n'
    assert server.shells == 2


def test_a_head_that_takes_too_much(make_sshd: Any, connect: Any, tmp_path: Path) -> None:
    """Then no shell can be kept, and each command has one of its own."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    (programs / 'head').write_text('#!/bin/sh\nexec cat\n')
    (programs / 'head').chmod(0o755)
    server = Counting(make_sshd, tmp_path, shell_environment={'PATH': f'{programs}:/usr/local/bin:/usr/bin:/bin'})
    transport = connect(server.sshd)
    for number in range(3):
        assert _sh(transport, 'cat', stdin=b'given').stdout == b'given'
        assert server.shells == number + 2  # one was to be kept


def test_they_make_room(make_sshd: Any, connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Idle ones end when commands of another kind need what the server gives, and it never has to refuse."""
    transport = connect(make_sshd(settings={'MaxSessions': '4'}), max_sessions=4)
    limit = transport.sessions.limit
    with ThreadPoolExecutor(12) as pool:
        for quick in (True, False, True, False):
            runs = [pool.submit(transport.run, ['echo', 'on'], quick=quick) for _ in range(12)]
            assert {run.result(50).stdout for run in runs} == {b'on\n'}
    assert limit == 3 and 'takes no more sessions' not in caplog.text
