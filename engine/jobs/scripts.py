r"""What runs on the computer, as POSIX ``sh``: the job itself, the script that submits it, and those that look.

Each remote script is run by one command, with folders as its arguments or lines of its input, never as part of its
text. What they decide, and why in this order, is in :mod:`.protocol`.

Nothing else than ``sh`` and the commands ``date ln mkdir mv readlink uname`` is needed for that.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from .protocol import Beyond, Ended, Findings, Link, Submission, job_name

__all__ = [
    'CANCEL_DIRECT',
    'CONTROL',
    'JOB_SCRIPT',
    'commands_script',
    'job_script',
    'look_argv',
    'parse_look',
    'submit_argv',
]

#: The subfolder of an attempt's folder that holds what Treadle needs to know.
CONTROL: Final = '.treadle'
#: The script that the scheduler gets, relative to the attempt's folder.
JOB_SCRIPT: Final = f'{CONTROL}/job.sh'

# Who this shell is: the boot it lives in, and when in that boot it began, so that a number that is used again is no
# proof of life. Where /proc is missing, the fields are empty, and nothing can be proven later. What is looked for often
# is read by the shell itself: a program takes ten times as long to start.
_SELF: Final = r"""
boot= host=
{ read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
{ read -r host </proc/sys/kernel/hostname; } 2>/dev/null || host=$(uname -n)
find_born() {
    stat= born=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    set -- ${stat##*) }
    born=${20}
}
find_born $$
"""

# What is in a folder: see `Findings`. The order of reading is the order in which things come to be, backwards: what is
# read first may be missing though what is read later is there, never the other way round with a wrong conclusion. One
# program reads both links, unless it is one that takes only one at a time.
_LOOK: Final = r"""
find_beyond() {
    beyond=unknown
    case $1 in *:pid=*:*) ;; *) return 0 ;; esac
    pid=${1#*:pid=}; pid=${pid%%:*}
    at=${1#*:host=}; at=${at%%:*}
    then=${1#*:boot=}; then=${then%%:*}
    since=${1#*:born=}; since=${since%%:*}
    if [ "$at" != "$host" ] || [ -z "$then" ]; then return 0; fi
    beyond=dead
    [ "$then" = "$boot" ] || return 0
    if [ -n "$since" ]; then
        find_born "$pid"
        [ "$born" = "$since" ] && beyond=lives
    elif kill -s 0 "$pid" 2>/dev/null; then beyond=lives
    fi
    return 0
}
first_line() {
    line=
    [ -e "$1" ] && { read -r line <"$1"; } 2>/dev/null
}
read_links() {
    started= ticket= there=
    [ -L started ] && there=started
    [ -L ticket ] && there="$there ticket"
    [ -n "$there" ] || return 0
    for name in $there; do
        IFS= read -r line
        case $name in started) started=$line ;; ticket) ticket=$line ;; esac
    done <<END
$(readlink $there 2>/dev/null || for name in $there; do readlink "$name"; done)
END
}
lines() {
    while IFS= read -r line || [ -n "$line" ]; do printf '%s %s\n' "$1" "$line"; done
}
look() {
    printf '@folder %s\n' "$1"
    cd "$1/.treadle" 2>/dev/null || { [ -d "${1%/*/*}" ] || printf '@away\n'; return 0; }
    first_line ended; ended=$line
    read_links
    find_beyond "$ticket"; submitter=$beyond
    find_beyond "$started"; job=$beyond
    [ "$job" = dead ] && { first_line ended; ended=$line; }
    printf '@ticket %s\n@submitter %s\n' "$ticket" "$submitter"
    if [ -e submitted ]; then
        first_line submitted
        printf '@submitted %s\n' "$line"
        lines @out <submit.out
        lines @err <submit.err
    fi
    printf '@started %s\n@job %s\n' "$started" "$job"
    first_line limit && printf '@limit %s\n' "$line"
    printf '@ended %s\n' "$ended"
    [ -n "$started" ] || { read_links; printf '@started %s\n' "$started"; }
}
"""

_LOOK_MAIN: Final = r"""
printf '@looked\n'
while IFS= read -r folder; do
    # Not where the work directory itself is missing: another one may be mounted there a moment later.
    [ "$1" = revoke ] && [ -d "${folder%/*/*}" ] && {
        mkdir -p "$folder/.treadle" && ln -s "revoked:by=$2" "$folder/.treadle/ticket"
    } 2>/dev/null
    [ "$1" = void ] && ln -s "void:by=$2" "$folder/.treadle/started" 2>/dev/null
    look "$folder"
done
printf '@done\n'
"""

# Ignored signals stay ignored in what it starts: a connection that breaks, or a caller that has lost patience, does
# not stop a submission in the middle.
_SUBMIT: Final = r"""
trap '' HUP INT TERM PIPE
cd "$1" || exit 73
me="taken:host=$host:pid=$$:boot=$boot:born=$born"
# On some shared file systems a link may be made although it is said that it was not.
if ln -s "$me" .treadle/ticket 2>/dev/null || [ "$(readlink .treadle/ticket)" = "$me" ]; then
    submit() {
%s
    }
    submit >.treadle/submit.out 2>.treadle/submit.err </dev/null
    printf '%%s\n' "$?" >.treadle/submitted.new && mv .treadle/submitted.new .treadle/submitted
fi
printf '@looked\n'
look "$1"
printf '@done\n'
"""

_JOB: Final = r"""
cd %(folder)s || exit 70
export TREADLE_JOB=%(name)s
%(self)s
me="job:id=%(id)s:host=$host:pid=$$:boot=$boot:born=$born:at=${EPOCHSECONDS:-$(date +%%s)}"
if ! ln -s "$me" .treadle/started 2>/dev/null && [ "$(readlink .treadle/started)" != "$me" ]; then
    echo 'treadle: this job has started before, or must not start any more' >&2
    [ -n "$(readlink .treadle/started)" ] || { echo 'treadle: the work directory cannot be written' >&2; exit 71; }
    exit 0
fi
%(limits)s# Room for how they ended, which is written over it: they may leave none on the disk.
printf '%%40s\n' '' >.treadle/ended.new
# A signal that ends the commands must not end this shell before it has said how they ended.
trap : HUP INT TERM USR1 USR2 XCPU
( . ./.treadle/commands.sh )
code=$?
%(after)send="$code ${EPOCHSECONDS:-$(date +%%s)}"
printf '%%s\n' "$end" 1<>.treadle/ended.new && mv .treadle/ended.new .treadle/ended
exit "$code"
"""

# What a batch system does for its jobs: an end after the time that was asked for, first politely. The group is the
# job's own, see `Direct.submit_text`.
_WATCH_TIME: Final = r"""
(
    # Before there is anything to end: a job may be over before its watch has begun. Until here the signal just ends it,
    # since the shell around it has no traps yet that a fork would carry along.
    trap 'kill "$!" 2>/dev/null; exit 0' USR1
    sleep %(seconds)d &
    wait
    printf 'timeout\n' >.treadle/limit.new && mv .treadle/limit.new .treadle/limit
    trap '' TERM
    kill -s TERM -- -$$
    sleep %(grace)d
    kill -s KILL -- -$$
) >/dev/null 2>&1 </dev/null &
watch=$!
"""
_WATCHED: Final = 'kill -s USR1 "$watch" 2>/dev/null\n'
#: Seconds between asking and forcing a job of `direct` to end.
GRACE: Final = 10

#: Ends the process group of a job that the scheduler `direct` has started, if it is still that job: by its leader's
#: arguments, or where that one has ended before the others, by what is in their environment.
CANCEL_DIRECT: Final = r"""
trap '' HUP INT TERM PIPE
group=$1 name=$2
is_that_job() {
    case $(ps -ww -o args= -p "$group" 2>/dev/null) in
    *" $name") return 0 ;;
    '' | *'<defunct>'*) ;;
    *) return 1 ;;
    esac
    for pid in $(ps -A -o pgid= -o pid= | while read -r other pid; do [ "$other" != "$group" ] || echo "$pid"; done); do
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "TREADLE_JOB=$name" && return 0
    done
    return 1
}
is_that_job || exit 0
kill -s TERM -- "-$group" 2>/dev/null
for second in 1 2 3 4 5 6 7 8 9 10; do
    kill -s 0 -- "-$group" 2>/dev/null || exit 0
    sleep 0.2 2>/dev/null || sleep 1
done
kill -s KILL -- "-$group" 2>/dev/null
exit 0
"""

def job_script(
    *,
    shebang: str,
    header: str,
    folder: str,
    job_id: str,
    seconds: int | None = None,
    address_space_kb: int | None = None,
) -> str:
    """The script that the scheduler runs.

    :param header: the scheduler's directives.
    :param folder: of the attempt; absolute.
    :param job_id: the job's id, as the shell finds it.
    :param seconds: after which the script itself ends its commands, where no batch system does.
    :param address_space_kb: what the script itself lets each of its processes have.
    """
    limits = after = ''
    if address_space_kb is not None:
        limits += f'ulimit -v {address_space_kb}\n'
    if seconds is not None:
        limits += _WATCH_TIME % {'seconds': seconds, 'grace': GRACE}
        after = _WATCHED
    body = _JOB % {
        'folder': shlex.quote(folder),
        'name': shlex.quote(job_name(folder)),
        'self': _SELF.strip(),
        'id': job_id,
        'limits': limits.lstrip('\n'),
        'after': after,
    }
    head = f'{shebang}\n{header}\n' if header else f'{shebang}\n'
    return f'{head}# Made by Treadle. What the job does is in {CONTROL}/commands.sh.{body}'


def commands_script(
    *,
    environment: Iterable[tuple[str, str]],
    before: Sequence[str],
    commands: Sequence[str],
    after: Sequence[str],
    parallel: bool = False,
) -> str:
    """What the job does: a part of the job's shell that a syntax error, an ``exit`` or a ``set -e`` does not leave.

    Its exit code is that of the first command that fails, else 0; what comes before and after does not count.

    :param environment: variables to export.
    :param before: shell text, such as that of the computer and of the options.
    :param commands: command lines.
    :param parallel: whether they all start at once.
    """
    lines = [f'export {name}={shlex.quote(value)}' for name, value in environment]
    lines += [text for text in before if text]
    lines.append('treadle_code=0')
    if parallel:
        lines.append('treadle_jobs=')
        for command in commands:
            lines += [f'{command} &', 'treadle_jobs="$treadle_jobs $!"']
        lines.append('for treadle_job in $treadle_jobs; do wait "$treadle_job" || treadle_code=$?; done')
    else:
        lines += [f'{command} || treadle_code=$?' for command in commands]
    lines += [text for text in after if text]
    lines.append('exit "$treadle_code"')
    return '\n'.join(lines) + '\n'


def submit_argv(folder: str, submit_text: str) -> list[str]:
    """The command that submits an attempt, if it gets the ticket; it prints what :func:`parse_look` reads.

    :param submit_text: shell text that submits :data:`JOB_SCRIPT`, run in the attempt's folder.
    """
    return ['sh', '-c', _SELF + _LOOK + _SUBMIT % submit_text, 'treadle-submit', folder]


def look_argv(*, revoke: str | None = None, void: str | None = None) -> list[str]:
    """The command that looks into the folders that are the lines of its input; see :func:`parse_look`.

    :param revoke: try to revoke the tickets first, in the name of that.
    :param void: try to void the start markers first, in the name of that.
    """
    act, who = ('revoke', revoke) if revoke is not None else ('void', void) if void is not None else ('look', '')
    return ['sh', '-c', _SELF + _LOOK + _LOOK_MAIN, 'treadle-look', act, who or '']


def parse_look(stdout: bytes) -> dict[str, Findings] | None:
    """What was found, by folder; ``None`` when the output is not whole, and proves nothing."""
    lines = stdout.decode(errors='surrogateescape').split('\n')
    # A shell's start-up files may have said something first.
    if '@looked' not in lines or '@done' not in lines:
        return None
    lines = lines[lines.index('@looked') + 1 : len(lines) - 1 - lines[::-1].index('@done')]
    found: dict[str, Findings] = {}
    folder, parts = None, list[tuple[str, str]]()
    for line in [*lines, '@folder ']:
        word, _, rest = line.partition(' ')
        if word == '@folder':
            if folder is not None:
                found[folder] = _findings(parts)
            folder, parts = rest, []
        elif word.startswith('@'):
            parts.append((word, rest))
    return found


def _findings(parts: list[tuple[str, str]]) -> Findings:
    last = dict(parts)
    submitted = last.get('@submitted', '')
    submission = None
    if submitted.isdigit():
        submission = Submission(
            int(submitted),
            '\n'.join(rest for word, rest in parts if word == '@out'),
            '\n'.join(rest for word, rest in parts if word == '@err'),
        )
    ended = last.get('@ended', '').split()
    return Findings(
        ticket=Link.parse(last.get('@ticket', '')),
        submitter=Beyond(last.get('@submitter') or 'unknown'),
        submission=submission,
        started=Link.parse(last.get('@started', '')),
        job=Beyond(last.get('@job') or 'unknown'),
        limit=last.get('@limit', ''),
        is_away='@away' in last,
        ended=Ended(int(ended[0]), float(ended[1])) if len(ended) == 2 else None,
    )
