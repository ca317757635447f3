"""The file of a store: how its URL names it, what lies beside it, and whether the file system can carry it.

``parse_url`` and ``network_mount`` are pure enough to be tested without a disk.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import platformdirs

from ...config import STORE_VARIABLE
from ...errors import StoreReadOnly, StoreUnavailable, UnsupportedStore

__all__ = ['Mount', 'StoreFile', 'default_url', 'network_mount', 'parse_url', 'refuse_network_mount']

_MOUNT_TABLE: Final = '/proc/self/mountinfo'
_FORMS: Final = 'write sqlite:///relative/path.db or sqlite:////absolute/path.db'
_OTHERS: Final = f'{_FORMS}, or postgresql://user@host/database for a PostgreSQL server'

# Types under which another host can change the same files. SQLite's write-ahead log lives in memory that
# all its users map, and its locks must reach all of them; neither holds between hosts.
# fmt: off
_NETWORK_TYPES: Final = frozenset((
    '9p', 'acfs', 'afp', 'afs', 'beegfs', 'ceph', 'cifs', 'coda', 'davfs', 'gfs', 'gfs2',
    'glusterfs', 'gpfs', 'juicefs', 'lustre', 'mfs', 'ncp', 'ncpfs', 'nfs', 'nfs3', 'nfs4', 'ocfs2',
    'orangefs', 'panfs', 'pvfs2', 'smb', 'smb2', 'smb3', 'smbfs', 'sshfs', 'vmhgfs', 'wekafs',
))
# fmt: on
# FUSE file systems that only rearrange local ones; any other that names itself is taken for a remote one.
# fmt: off
_LOCAL_FUSE: Final = frozenset((
    'bindfs', 'cryfs', 'encfs', 'ext2', 'ext4', 'exfat', 'fuse-overlayfs', 'gocryptfs', 'mergerfs',
    'ntfs', 'ntfs-3g', 'overlayfs', 'portal', 'securefs', 'unionfs', 'unionfs-fuse', 'zfs',
))
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFile:
    """A store's database file and what lies beside it.

    :param path: the database, absolute, with symbolic links resolved: two names of one file must share
        one folder of objects and one of engines.
    :param is_default: the path is the one that Treadle chose itself, so it may make the folder.
    """

    path: Path
    is_default: bool = False

    @property
    def url(self) -> str:
        """The URL that opens this store from any working directory."""
        return f'sqlite:///{quote(os.fsencode(self.path))}'

    @property
    def objects(self) -> Path:
        """The folder of large contents."""
        return Path(f'{self.path}.objects')

    @property
    def engines(self) -> Path:
        """The folder of the lock files of live engines."""
        return Path(f'{self.path}.engines')

    def __str__(self) -> str:
        return str(self.path)

    def require_folder(self) -> None:
        """See to it that the folder of the database exists; only the default store's folder is made.

        :raises StoreUnavailable: the folder is missing, or cannot be made.
        :raises StoreReadOnly: the default folder may not be made here.
        """
        folder = self.path.parent
        if folder.is_dir():
            return
        if not self.is_default:
            raise StoreUnavailable(
                f'the folder {folder} of the store {self.path} does not exist; make it, or name another store'
            )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except PermissionError as error:
            raise StoreReadOnly(
                f'the folder {folder} for the default store cannot be made ({error.strerror}); '
                f'set {STORE_VARIABLE}=sqlite:////path/of/a/store.db to a place that you may write to'
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f'the folder {folder} for the default store cannot be made ({error.strerror}); '
                f'set {STORE_VARIABLE}=sqlite:////path/of/a/store.db to use another place'
            ) from error


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    point: str
    type: str


def default_url() -> str:
    """The URL of the store in the user's data directory.

    :raises UnsupportedStore: there is no home directory.
    """
    return f'sqlite:///{quote(os.fsencode(_default_path()))}'


def _default_path() -> Path:
    path = platformdirs.user_data_path('treadle', appauthor=False) / 'treadle.db'
    if not path.is_absolute():
        raise UnsupportedStore(
            f'no home directory to keep the default store in; set {STORE_VARIABLE}=sqlite:////path/of/a/store.db'
        )
    return path


def refuse_network_mount(file: StoreFile) -> None:
    """See to it that the file lies where SQLite can be trusted.

    :raises UnsupportedStore: it does not.
    """
    try:
        with open(_MOUNT_TABLE, encoding='utf-8', errors='surrogateescape') as stream:
            table = stream.read()
    except OSError:
        # No such table on this system: whoever runs it answers for the file system.
        return
    mount = network_mount(file.path, table)
    if mount is not None:
        raise UnsupportedStore(
            f'the store {file.path} lies on a network file system ({mount.type}, mounted at '
            f'{mount.point}), where SQLite can lose data; set {STORE_VARIABLE}=sqlite:////path/of/a/store.db '
            'to a folder on a local disk, or use a PostgreSQL store (postgresql://...)'
        )


def parse_url(url: str | os.PathLike[str]) -> StoreFile:
    """Read a store's URL.

    ``sqlite:///`` is followed by a path, relative to the working directory unless it begins with a slash;
    a leading ``~`` is the home directory, ``%XX`` stands for a byte, and a literal ``?`` is written ``%3F``.

    :raises UnsupportedStore: with what to write instead. The message never repeats credentials.
    """
    if isinstance(url, os.PathLike):
        raise UnsupportedStore(_bare_path(os.fspath(url)))
    if not url.strip():
        raise UnsupportedStore(f'a store is named by a URL, and this one is empty; {_OTHERS}')
    match = re.match(r'([A-Za-z][A-Za-z0-9+.-]*):', url)
    if match is None:
        raise UnsupportedStore(_bare_path(url))
    scheme = match[1].lower()
    rest = url[match.end() :]
    if scheme != 'sqlite':
        raise UnsupportedStore(_other_scheme(scheme, rest))
    if not rest.startswith('///'):
        raise UnsupportedStore(_slashes(rest))
    path, mark, _ = rest[3:].partition('?')
    if mark:
        # The options are not repeated: other URLs carry passwords there.
        raise UnsupportedStore(
            f'sqlite:///{path}?...: a store takes no options; leave out what follows the question mark '
            '(a question mark in a file name is written %3F)'
        )
    return _location(path)


def _location(quoted: str) -> StoreFile:
    path = os.fsdecode(unquote_to_bytes(os.fsencode(quoted)))
    if path in ('', ':memory:'):
        raise UnsupportedStore(
            f'sqlite:///{path} is a database in memory, which no second connection can see; {_FORMS}'
        )
    if '\0' in path:
        raise UnsupportedStore(f'sqlite:///{quoted}: a path has no zero byte (%00) in it')
    expanded = os.path.expanduser(path)
    if expanded.startswith('~') and path.startswith('~'):
        raise UnsupportedStore(
            f'sqlite:///{quoted}: no home directory for {path.split("/")[0]!r}; write the path in full '
            '(a file whose name begins with ~ is written ./~)'
        )
    if expanded.endswith('/') or os.path.isdir(expanded):
        raise UnsupportedStore(
            f'sqlite:///{quoted} names a folder; add the name of a file, as in sqlite:///'
            f'{quoted.rstrip("/")}/treadle.db'
        )
    try:
        resolved = Path(os.path.realpath(expanded))
    except FileNotFoundError as error:
        raise UnsupportedStore(
            f'sqlite:///{quoted} is relative to a working directory that is gone; {_FORMS}'
        ) from error
    return StoreFile(path=resolved, is_default=_is_default(resolved))


def _is_default(path: Path) -> bool:
    try:
        return path == Path(os.path.realpath(_default_path()))
    except UnsupportedStore:
        return False


def _bare_path(text: str) -> str:
    # What holds an @ may hold a password before it.
    if '@' in text or not text.isprintable():
        return f'a store is named by a URL; {_FORMS}'
    hint = f'sqlite:///{quote(text, safe="/~")}'
    return f'{text!r} is not a store URL; write {hint} to name that file'


def _other_scheme(scheme: str, rest: str) -> str:
    if scheme.startswith('sqlite'):
        return f'{scheme}://...: no driver is named in a store URL; {_FORMS}'
    if scheme in ('amqp', 'amqps'):
        return f'{scheme}://...: a broker, not a store; pass it as broker=..., and for the store {_FORMS}'
    if len(scheme) == 1 or not rest.startswith('/'):
        return f'a store is named by a URL; {_FORMS}'
    return f'{scheme}://...: no store of that kind; {_OTHERS}'


def _slashes(rest: str) -> str:
    path = rest.lstrip('/')
    if '@' in path or '?' in path:
        return f'sqlite:...: a store has no host, user or options; {_FORMS}'
    if rest.startswith('//'):
        return (
            f'sqlite://{path}: {path.split("/")[0]!r} stands where a host would; '
            f'write sqlite:///{path} (relative) or sqlite:////{path} (absolute)'
        )
    return f'sqlite:{rest}: write sqlite:///{path} (relative) or sqlite:////{path} (absolute)'


def network_mount(path: Path, mount_table: str) -> Mount | None:
    """The network mount that ``path`` lies on, or None when it is on a local one.

    :param path: absolute, with symbolic links resolved; it need not exist.
    :param mount_table: the text of ``/proc/self/mountinfo`` (see ``proc_pid_mountinfo(5)``).
    """
    target = os.path.join(str(path), '')
    found: Mount | None = None
    for line in mount_table.splitlines():
        left, dash, right = line.partition(' - ')
        fields, kinds = left.split(' '), right.split(' ')
        if not dash or len(fields) < 5:
            continue
        point = _unescape(fields[4])
        # A later line hides an earlier one that is mounted at the same point.
        covers = target.startswith(os.path.join(point, ''))
        if covers and (found is None or len(point) >= len(found.point)):
            found = Mount(point, kinds[0])
    return found if found is not None and _is_network(found.type) else None


def _is_network(kind: str) -> bool:
    if kind in _NETWORK_TYPES:
        return True
    family, dot, name = kind.partition('.')
    return family == 'fuse' and bool(dot) and name not in _LOCAL_FUSE


def _unescape(text: str) -> str:
    return re.sub(r'\\([0-7]{3})', lambda match: chr(int(match[1], 8)), text)
