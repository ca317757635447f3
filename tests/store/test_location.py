"""Store URLs, good and bad, and the file systems that cannot carry a store."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.engine.errors import UnsupportedStore
from treadle.engine.store.location import locate
from treadle.engine.store.sqlite.file import Mount, default_url, network_mount, parse_url


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(os.path.realpath(tmp_path))
    monkeypatch.chdir(folder)
    monkeypatch.setenv('HOME', str(folder))
    monkeypatch.delenv('TREADLE_STORE', raising=False)
    monkeypatch.delenv('XDG_DATA_HOME', raising=False)
    return folder


def test_paths_relative_absolute_quoted_and_at_home(home: Path) -> None:
    assert parse_url('sqlite:///runs.db').path == home / 'runs.db'
    assert parse_url('sqlite:///a/../runs.db').path == home / 'runs.db'
    assert parse_url(f'sqlite:///{home}/a/runs.db').path == home / 'a/runs.db'
    assert parse_url('sqlite:///my runs.db').path == home / 'my runs.db'
    assert parse_url('sqlite:///my%20runs%3F.db').path == home / 'my runs?.db'
    assert parse_url('sqlite:///me@work#1.db').path == home / 'me@work#1.db'
    assert parse_url('sqlite:///~/runs.db').path == home / 'runs.db'
    assert parse_url('sqlite:///./~').path == home / '~'
    assert parse_url('SQLITE:///runs.db').path == home / 'runs.db'
    assert os.fsencode(parse_url('sqlite:///%FFruns.db').path.name) == b'\xffruns.db'


@pytest.mark.parametrize('name', ['runs.db', 'my runs?#%41.db', 'kupfer-\u00e4\u00f6.db', '~', os.fsdecode(b'\xff')])
def test_the_url_of_a_location_leads_back_to_it(home: Path, name: str) -> None:
    path = home / name
    found = parse_url(f'sqlite:///{home}/' + ''.join(f'%{byte:02X}' for byte in os.fsencode(name)))
    assert found.path == path
    assert parse_url(found.url) == found
    assert found.url.isascii()


def test_what_lies_beside_the_database(home: Path) -> None:
    location = parse_url('sqlite:///runs.db')
    assert location.objects == home / 'runs.db.objects'
    assert location.engines == home / 'runs.db.engines'
    assert str(location) == str(home / 'runs.db')


def test_two_names_of_one_file_are_one_location(home: Path) -> None:
    (home / 'real').mkdir()
    (home / 'link').symlink_to('real')
    (home / 'alias.db').symlink_to('real/runs.db')
    assert parse_url('sqlite:///link/runs.db') == parse_url('sqlite:///real/runs.db')
    assert parse_url('sqlite:///alias.db') == parse_url('sqlite:///real/runs.db')


@pytest.mark.parametrize(
    ('url', 'remedy'),
    [
        ('', 'write sqlite:///'),
        ('runs.db', "'runs.db' is not a store URL; write sqlite:///runs.db"),
        ('/data/my runs.db', 'write sqlite:////data/my%20runs.db'),
        (Path('/data/runs.db'), 'write sqlite:////data/runs.db'),
        ('sqlite://', 'write sqlite:///'),
        ('sqlite://x', r'write sqlite:///x \(relative\) or sqlite:////x \(absolute\)'),
        ('sqlite://data/x.db', r'write sqlite:///data/x.db \(relative\) or sqlite:////data/x.db'),
        ('sqlite:x.db', r'write sqlite:///x.db \(relative\)'),
        ('sqlite:/data/x.db', r'sqlite:////data/x.db \(absolute\)'),
        ('sqlite:///', 'in memory'),
        ('sqlite:///:memory:', 'in memory, which no second connection can see'),
        ('sqlite:///runs.db?mode=ro', 'takes no options'),
        ('sqlite:///runs%00.db', 'no zero byte'),
        ('sqlite:///~nobody-of-that-name/x.db', "no home directory for '~nobody-of-that-name'"),
        ('sqlite:////tmp', 'names a folder; .* sqlite:////tmp/treadle.db'),
        ('sqlite:///new/', 'names a folder'),
        ('sqlite+aiosqlite:///x.db', 'no driver is named'),
        ('mysql://host/db', 'mysql://...: no store of that kind; write sqlite:///'),
        ('amqp://host', 'a broker, not a store; pass it as broker='),
        ('C:\\runs.db', 'write sqlite:///'),
    ],
)
def test_mistakes_are_answered_with_what_to_write(url: str | Path, remedy: str) -> None:
    with pytest.raises(UnsupportedStore, match=remedy):
        parse_url(url)


@pytest.mark.parametrize(
    'url',
    [
        'postgresql+psycopg://ada:secret@host/db',
        'mysql://ada:secret@host/db?password=secret',
        'sqlite://ada:secret@host/db',
        'sqlite:///runs.db?password=secret',
        'sqlite://runs.db?password=secret',
        'ada:secret@host/db',
        '//ada:secret@host/db',
        'amqp://ada:secret@host',
    ],
)
def test_credentials_are_never_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TREADLE_STORE', url)
    for attempt in (lambda: locate(url), locate):
        with pytest.raises(UnsupportedStore) as caught:
            attempt()
        assert 'secret' not in str(caught.value)


def test_the_default_is_in_the_users_data_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_url() == f'sqlite:///{home}/.local/share/treadle/treadle.db'
    location = locate().file
    assert location.is_default
    assert location.path == home / '.local/share/treadle/treadle.db'
    assert not location.path.parent.exists()
    assert not parse_url('sqlite:///runs.db').is_default
    monkeypatch.setenv('TREADLE_STORE', 'sqlite:///mine.db')
    assert locate().file.path == home / 'mine.db'
    assert not locate().file.is_default


def test_a_mistake_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TREADLE_STORE', 'runs.db')
    with pytest.raises(UnsupportedStore, match=r'write sqlite:///runs.db .*TREADLE_STORE'):
        locate()


def test_a_working_directory_that_is_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = home / 'gone'
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UnsupportedStore, match='working directory that is gone'):
        parse_url('sqlite:///runs.db')


TABLE = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 0:40 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
31 30 8:2 /x /home/ada/scratch rw - xfs /dev/sdb rw
32 21 0:41 / /mnt/with\040space\134 rw - cifs //server/share rw
33 21 0:42 / /lustre rw - lustre mds@tcp:/fs rw
34 21 0:43 / /remote rw - fuse.sshfs ada@host:/ rw
35 21 0:44 / /encrypted rw - fuse.gocryptfs /home/x rw
36 21 8:3 / /windows rw - fuseblk /dev/sdc rw
37 21 0:45 / /over rw - nfs server:/over rw
38 37 8:4 / /over rw - ext4 /dev/sdd rw
39 21 0:46 / /wsl rw - 9p drvfs rw
a line that is none
"""


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('/var/runs.db', None),
        ('/home/ada/runs.db', Mount('/home', 'nfs4')),
        ('/home', Mount('/home', 'nfs4')),
        ('/homework/runs.db', None),
        ('/home/ada/scratch/runs.db', None),
        ('/home/ada/scratchy/runs.db', Mount('/home', 'nfs4')),
        ('/mnt/with space\\/runs.db', Mount('/mnt/with space\\', 'cifs')),
        ('/lustre/a/b/runs.db', Mount('/lustre', 'lustre')),
        ('/remote/runs.db', Mount('/remote', 'fuse.sshfs')),
        ('/encrypted/runs.db', None),
        ('/windows/runs.db', None),
        ('/over/runs.db', None),
        ('/wsl/runs.db', Mount('/wsl', '9p')),
    ],
)
def test_network_file_systems_are_recognised(path: str, expected: Mount | None) -> None:
    assert network_mount(Path(path), TABLE) == expected


@pytest.mark.parametrize(
    'kind',
    ['nfs', 'cifs', 'smb3', 'beegfs', 'gpfs', 'ceph', 'afs', 'ocfs2', 'gfs2', 'fuse.glusterfs', 'fuse.s3fs'],
)
def test_a_network_root_is_recognised(kind: str) -> None:
    table = f'1 0 0:1 / / rw - {kind} source rw\n'
    assert network_mount(Path('/runs.db'), table) == Mount('/', kind)


def test_without_a_mount_table_the_path_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('treadle.engine.store.sqlite.file._MOUNT_TABLE', str(home / 'none'))
    assert locate('sqlite:///runs.db').file.path == home / 'runs.db'


class TinyFuse:
    """A file system that calls itself ``fuse.sshfs`` and holds an empty folder, spoken to by the kernel."""

    INIT, GETATTR, STATFS, DESTROY = 26, 3, 17, 38
    NOT_THERE, NOT_KNOWN = -2, -38  # ENOENT, ENOSYS

    def __init__(self, point: Path) -> None:
        self._point = os.fsencode(point)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open('/dev/fuse', os.O_RDWR | os.O_CLOEXEC)
        options = f'fd={self._device},rootmode=40000,user_id=0,group_id=0'.encode()
        if self._libc.mount(b'ada@host:/', self._point, b'fuse.sshfs', 0, options):
            error = ctypes.get_errno()
            os.close(self._device)
            raise OSError(error, os.strerror(error))
        self._thread = threading.Thread(target=self._serve, name='tiny-fuse')
        self._thread.start()

    def close(self) -> None:
        self._libc.umount2(self._point, 2)
        self._thread.join()
        os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 17)
            except OSError:
                return  # ENODEV: unmounted
            _, opcode, unique = struct.unpack_from('<IIQ', request)
            status, body = self._answer(opcode)
            if opcode != self.DESTROY:
                os.write(self._device, struct.pack('<IiQ', 16 + len(body), status, unique) + body)

    def _answer(self, opcode: int) -> tuple[int, bytes]:
        if opcode == self.INIT:
            return 0, struct.pack('<IIIIHHIIHHI', 7, 31, 0, 0, 12, 9, 65536, 1, 32, 0, 0) + bytes(24)
        if opcode == self.GETATTR:
            mode, links = 0o40755, 2
            attributes = struct.pack('<QQQQQQIIIIIIIIII', 1, 0, 0, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)
            return 0, struct.pack('<QII', 0, 0, 0) + attributes
        if opcode == self.STATFS:
            return 0, struct.pack('<QQQQQIIII', 1, 1, 1, 1, 1, 4096, 255, 4096, 0) + bytes(24)
        return (self.NOT_THERE if opcode == 1 else self.NOT_KNOWN), b''


@pytest.fixture
def network_folder(home: Path) -> Iterator[Path]:
    point = home / 'over the network'
    point.mkdir()
    try:
        served = TinyFuse(point)
    except OSError as error:
        pytest.skip(f'mounting a network-like file system (FUSE) needs root and /dev/fuse: {error}')
    try:
        yield point
    finally:
        served.close()


def test_a_real_network_mount_is_refused(network_folder: Path) -> None:
    pattern = (
        f'lies on a network file system .fuse.sshfs, mounted at {re.escape(str(network_folder))}.'
        '.*TREADLE_STORE=.*local disk.*PostgreSQL'
    )
    with pytest.raises(UnsupportedStore, match=pattern):
        locate(f'sqlite:///{network_folder}/runs.db')
