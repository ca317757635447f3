"""Looking at a computer before jobs do: whether it can be reached, and has what they need."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from ..jobs.computer import Computer
from ..jobs.schedulers import Reply, Scheduler, SchedulerReplyError, scheduler_of
from ..transports import CommandResult, Transport

__all__ = ['Finding', 'examine']

#: Seconds that a command may take.
PATIENCE: Final = 60.0
#: Seconds by which two clocks may differ before it is worth a word: files of jobs are dated by theirs.
SKEW: Final = 30.0

# Everything that the markers of jobs rest on: see treadle.engine.jobs.protocol.
_TRY_FOLDER: Final = r"""
mkdir -p "$1" || exit 1
cd "$1" || exit 1
mkdir "$2" || exit 1
cd "$2" || exit 1
fail() { echo "$1" >&2; cd ..; rm -rf "$2"; exit 1; }
ln -s first marker || fail 'no symbolic link can be made' "$2"
ln -s second marker 2>/dev/null && fail 'a symbolic link that is there can be made again' "$2"
[ "$(readlink marker)" = first ] || fail 'a symbolic link does not say what it was made to say' "$2"
echo text >new && mv new old || fail 'no file can be written and renamed' "$2"
[ "$(cat old)" = text ] || fail 'a file does not hold what was written' "$2"
cd .. && rm -rf "$2"
"""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    :ivar what: what it is.
    :ivar problem: what is wrong with it, and what to do; ``None`` when nothing is.
    :ivar note: what else is worth knowing.
    """

    what: str
    problem: str | None = None
    note: str = ''


def examine(computer: Computer, transport: Transport) -> Iterator[Finding]:
    """Look at a computer that was reached, one thing after the other; blocks.

    :raises TransportError: it cannot be reached any more.
    """
    account = transport.account()
    yield Finding('account', note=f'{account.user}, whose home directory is {account.home}')
    yield _quiet(_run(transport, ['sh', '-c', 'true']))
    yield _clock(transport)
    scheduler = scheduler_of(computer.scheduler)
    yield _programs(computer, scheduler, transport)
    yield _queue(scheduler, transport)
    yield _folder(computer.base_folder(account.home), transport)
    yield _shell(computer, transport)


def _run(transport: Transport, argv: list[str]) -> CommandResult:
    return transport.run(argv, timeout=PATIENCE)


def _quiet(result: CommandResult) -> Finding:
    what = 'commands'
    if result.exit_code != 0:
        return Finding(what, f'`sh -c true` ends with exit code {result.exit_code}: {result.message}')
    if result.stdout:
        said = result.stdout[:200].decode(errors='replace').strip()
        return Finding(
            what, note=f'the start-up files of the shell print something, which costs time at each command: {said!r}'
        )
    return Finding(what)


def _clock(transport: Transport) -> Finding:
    before = time.time()
    result = _run(transport, ['date', '+%s'])
    after = time.time()
    try:
        there = float(result.stdout)
    except ValueError:
        return Finding('clock', f'`date +%s` does not say the time: {result.message}')
    skew = there - before if there < before - 1 else max(0.0, there - after)
    if abs(skew) > SKEW:
        which = 'ahead of' if skew > 0 else 'behind'
        return Finding(
            'clock', f'it is {abs(skew):.0f} s {which} the one here; set one of the two by a time server (chrony, ntpd)'
        )
    return Finding('clock', note=f'within {abs(skew) + 1:.0f} s of the one here')


def _programs(computer: Computer, scheduler: Scheduler, transport: Transport) -> Finding:
    needed = [*scheduler.programs, 'ln', 'mv', 'readlink', 'uname']
    script = 'for each; do command -v "$each" >/dev/null 2>&1 || printf "%s " "$each"; done'
    result = _run(transport, ['sh', '-c', script, 'treadle-test', *needed])
    missing = result.stdout.decode(errors='replace').split()
    if result.exit_code != 0 or missing:
        return Finding(
            f'programs of {scheduler.name}',
            f'not found: {", ".join(missing) or result.message}; put their folder on the PATH of shells that are not '
            f'interactive (such as in ~/.bashrc before it returns), or choose another scheduler for {computer.name!r}',
        )
    return Finding(f'programs of {scheduler.name}', note=', '.join(scheduler.programs))


def _queue(scheduler: Scheduler, transport: Transport) -> Finding:
    argv = scheduler.list_argv([])
    result = _run(transport, argv)
    reply = Reply(result.exit_code, result.stdout.decode(errors='replace'), result.stderr.decode(errors='replace'))
    try:
        listing = scheduler.read_listing(reply)
    except SchedulerReplyError as error:
        return Finding('queue', f'{error} (asked by {shlex.join(argv)[:200]})')
    return Finding('queue', note=f'{len(listing.by_id)} jobs of this account are listed')


def _folder(base: str, transport: Transport) -> Finding:
    result = _run(transport, ['sh', '-c', _TRY_FOLDER, 'treadle-test', base, f'.treadle-test-{secrets.token_hex(6)}'])
    if result.exit_code != 0:
        return Finding('work directory', f'{base} cannot be used: {result.message}; make it writable, or name another')
    return Finding('work directory', note=base)


def _shell(computer: Computer, transport: Transport) -> Finding:
    argv = [*shlex.split(computer.shebang[2:]), '-c', '( exit 3 ); exit "$?"']
    result = _run(transport, argv)
    if result.exit_code != 3:
        return Finding(
            'shell of jobs', f'{computer.shebang} does not understand POSIX sh: {result.message}; use another shebang'
        )
    return Finding('shell of jobs', note=computer.shebang)
