"""Large files and many files over ssh: as streams through programs that every computer has."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shlex
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from .archive import Readable, chunks, pack, reporting, unpack
from .matching import MatchError, Matches, find_and_pack, read_matches
from .paths import partial_name
from .safe_folder import SafeFolder
from .shell import operand
from .ssh_channels import SshChannels, failure
from .ssh_command import SshCommand
from .transport import Progress

__all__ = ['fetch_file', 'fetch_matching', 'fetch_tree', 'send_file', 'send_tree']

#: Bytes at the end of what an interrupted copy has left that are compared before it is resumed.
TAIL = 64 * 1024
#: Bytes up to which the contents of a folder are packed before they are sent.
SMALL = 512 * 1024
#: Bytes of messages that are kept of a command whose output is a stream.
KEEP = 64 * 1024

Check = Callable[[], object]


def _quoted(path: str) -> str:
    return shlex.quote(operand(path))


# -- one large file ------------------------------------------------------------------------------------------


def send_file(
    channels: SshChannels, source: Path, target: str, progress: Progress | None, check: Check
) -> None:
    """Copy a local file there; what an interrupted copy has left is used, and checked at the end."""
    hidden = partial_name(target)
    status = source.stat()
    offset = _usable_there(channels, source, hidden, status.st_size)
    _append_there(channels, source, hidden, offset, status.st_size, progress, check)
    if offset and not _same(channels, source, hidden, check):
        _append_there(channels, source, hidden, 0, status.st_size, progress, check)
    with channels.sftp(target) as sftp:
        size = sftp.lstat(hidden).st_size
        if size != status.st_size:
            sftp.remove(hidden)
            raise _changed(str(source), status.st_size, size)
        sftp.chmod(hidden, stat.S_IMODE(status.st_mode))
        sftp.posix_rename(hidden, target)


def _usable_there(channels: SshChannels, source: Path, hidden: str, size: int) -> int:
    """How many bytes of the file are there already."""
    with channels.sftp(hidden) as sftp:
        try:
            offset = sftp.lstat(hidden).st_size or 0
        except FileNotFoundError:
            return 0
        if not 0 < offset <= size:
            return 0
        with sftp.open(hidden, 'rb') as file:
            file.seek(max(0, offset - TAIL))
            theirs = file.read(TAIL)
    return offset if theirs == _tail(source, offset) else 0


def _append_there(
    channels: SshChannels,
    source: Path,
    hidden: str,
    offset: int,
    size: int,
    progress: Progress | None,
    check: Check,
) -> None:
    direction = '>>' if offset else '>'
    line = f'LC_ALL=C cat {direction} {_quoted(hidden)}'
    with open(source, 'rb') as file, channels.command(line, keep=KEEP) as command:
        file.seek(offset)
        try:
            for chunk in reporting(chunks(file, check), size, progress, offset):
                command.write(chunk)
            command.end_input()
        except BrokenPipeError:
            pass  # it says why
        if command.finish() != 0:
            raise failure(_message(command.stderr), channels.name_of(hidden))


def fetch_file(
    channels: SshChannels,
    source: str,
    target: Path,
    size: int,
    mode: int,
    progress: Progress | None,
    check: Check,
) -> None:
    """Copy a file from there; what an interrupted copy has left is used, and checked at the end."""
    hidden = Path(partial_name(str(target)))
    offset = _usable_here(channels, source, hidden, size)
    _append_here(channels, source, hidden, offset, size, progress, check)
    if offset and not _same(channels, hidden, source, check):
        _append_here(channels, source, hidden, 0, size, progress, check)
    hidden.chmod(stat.S_IMODE(mode) | stat.S_IRUSR)
    os.replace(hidden, target)


def _usable_here(channels: SshChannels, source: str, hidden: Path, size: int) -> int:
    try:
        offset = hidden.stat().st_size
    except FileNotFoundError:
        return 0
    if not 0 < offset <= size:
        return 0
    with channels.sftp(source) as sftp, sftp.open(source, 'rb') as file:
        start = max(0, offset - TAIL)
        file.seek(start)
        theirs = file.read(offset - start)
    return offset if theirs == _tail(hidden, offset) else 0


def _append_here(
    channels: SshChannels,
    source: str,
    hidden: Path,
    offset: int,
    size: int,
    progress: Progress | None,
    check: Check,
) -> None:
    read = f'tail -c +{offset + 1}' if offset else 'cat'
    with (
        open(hidden, 'ab' if offset else 'wb') as file,
        channels.command(f'LC_ALL=C {read} {_quoted(source)}', keep=KEEP) as command,
    ):
        command.end_input()
        # A file that grows is copied as it was at first.
        for chunk in reporting(_first(size - offset, chunks(command, check)), size, progress, offset):
            file.write(chunk)
        if file.tell() == size:
            return
        if command.finish() != 0:
            raise failure(_message(command.stderr), channels.name_of(source))
        raise _changed(channels.name_of(source), size, file.tell())


def _first(size: int, content: Iterable[bytes]) -> Iterator[bytes]:
    """So many bytes of it, or fewer if it has no more."""
    for chunk in content:
        yield chunk[:size]
        size -= len(chunk[:size])
        if not size:
            return


def _tail(path: Path, end: int) -> bytes:
    with open(path, 'rb') as file:
        start = max(0, end - TAIL)
        file.seek(start)
        return file.read(end - start)


def _same(channels: SshChannels, here: Path, there: str, check: Check) -> bool:
    """Whether two copies have the same checksum; without a program for it there, that their ends fit has to do."""
    with channels.command(
        f'sha256sum {_quoted(there)} || shasum -a 256 {_quoted(there)}', keep=KEEP
    ) as command:
        command.end_input()
        digest = hashlib.sha256()
        with open(here, 'rb') as file:
            for chunk in chunks(file, check):
                digest.update(chunk)
        if command.finish() != 0:
            return True
        # A backslash before it says that the name was escaped.
        return command.stdout.lstrip(b'\\')[:64] == digest.hexdigest().encode()


def _changed(name: str, before: int, after: int | None) -> OSError:
    return OSError(errno.EIO, f'it has changed while it was copied, from {before} bytes to {after}', name)


def _message(stderr: bytes) -> str:
    return stderr[-2000:].decode(errors='replace').strip()


# -- many files ----------------------------------------------------------------------------------------------


def send_tree(channels: SshChannels, source: Path, target: str, check: Check) -> None:
    """Copy what is in a local folder there, as one stream."""
    where = _quoted(target)
    # -o: files become ours, whoever had them here; -p: with the permission bits that they had.
    line = f'export LC_ALL=C; mkdir -p {where} && cd {where} && tar -xpof -'
    packed = io.BytesIO()
    is_small = _is_small(source)
    if is_small:
        pack(source, packed, check)
    begin = (
        partial(channels.quick_command, given=len(packed.getbuffer())) if is_small else channels.command
    )
    with begin(line, keep=KEEP) as command:
        try:
            if is_small:
                command.write(packed.getvalue())
            else:
                pack(source, command, check)
            command.end_input()
        except BrokenPipeError:
            pass  # it says why
        if command.finish() != 0:
            raise failure(_message(command.stderr), channels.name_of(target))


def _is_small(source: Path) -> bool:
    """Whether what is in a folder fits into memory without a thought; looks no further than needed."""
    size = 0
    for folder, _, names in os.walk(source):
        for name in names:
            size += 1024 + os.lstat(os.path.join(folder, name)).st_size
            if size > SMALL:
                return False
    return True


def fetch_tree(
    channels: SshChannels, source: str, folder: SafeFolder, names: list[str], follow_links: bool, check: Check
) -> None:
    """Copy from a folder there into one here, as one stream."""
    what = ' '.join(_quoted(name) for name in names)
    line = f'LC_ALL=C tar -c{"h" * follow_links}f - {what}'
    with channels.quick_command(line, cwd=source, keep=KEEP) as command:
        command.end_input()
        _unpack(channels, source, command, command, folder, check)


def fetch_matching(
    channels: SshChannels, source: str, folder: SafeFolder, patterns: Iterable[str], check: Check
) -> Matches:
    """Find what patterns stand for in a folder there, and copy it if that is not too much for one command."""
    with channels.quick_command(find_and_pack(patterns), cwd=source, keep=KEEP) as command:
        command.end_input()
        try:
            matches, rest = read_matches(command)
        except MatchError:
            code = command.finish()
            why = _message(command.stderr) or f'exit code {code}'
            raise OSError(errno.EIO, f'its files were not listed: {why}', channels.name_of(source)) from None
        if matches.is_packed:
            _unpack(channels, source, command, rest, folder, check)
        else:
            _refuse(channels, source, command.finish(), command.stderr)
    return matches


def _unpack(
    channels: SshChannels, source: str, command: SshCommand, stream: Readable, folder: SafeFolder, check: Check
) -> None:
    try:
        unpack(stream, folder, check)
    except tarfile.TarError as error:
        _refuse(channels, source, command.finish(), command.stderr)
        name = channels.name_of(source)
        raise OSError(errno.EBADMSG, f'it did not come as an archive: {error}', name) from error
    _refuse(channels, source, command.finish(), command.stderr)


def _refuse(channels: SshChannels, source: str, code: int | None, stderr: bytes) -> None:
    """Raise what tar has complained of; that a file changes meanwhile is no fault."""
    message = _message(stderr)
    harmless = ('changed as we read it', 'removed before we read it', 'socket ignored')
    if code == 0 or (
        code == 1 and all(any(text in line for text in harmless) for line in message.splitlines())
    ):
        return
    raise failure(message, channels.name_of(source))
