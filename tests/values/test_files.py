"""Files and folders as values."""

from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pytest

from treadle.engine.errors import CorruptValue, UnstorableValue
from treadle.engine.values import Codec, DiskObjects, File, Folder


@pytest.fixture
def objects(tmp_path: Path) -> DiskObjects:
    return DiskObjects(tmp_path / 'objects')


@pytest.fixture(params=['inline', 'stored'])
def codec(request: pytest.FixtureRequest, tmp_path: Path) -> Codec:
    return Codec(objects=DiskObjects(tmp_path / 'objects') if request.param == 'stored' else None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / 'tree'
    (root / 'sub' / 'deep').mkdir(parents=True)
    (root / 'a.txt').write_bytes(b'a\r\n')
    (root / 'sub' / 'file.txt').write_text('ü')
    (root / 'sub' / 'deep' / 'empty').touch()
    return root


def test_file_properties(tmp_path: Path) -> None:
    path = tmp_path / 'a.txt'
    path.write_text('één\r\ntwo')
    for file in (File(path), File(str(path)), File.from_path(path), File(path.read_bytes(), name='a.txt')):
        assert (file.name, file.size) == ('a.txt', path.stat().st_size)
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file.read_bytes() == path.read_bytes()
        assert file.read_text() == path.read_text()
        with file.open('r') as text, file.open() as raw:
            assert text.read() == path.read_text() and raw.read() == path.read_bytes()
        with pytest.raises(ValueError, match="'rb' or 'r'"):
            file.open('w')
    assert File.from_path(path, name='b').name == 'b'


def test_file_is_immutable_and_equal_by_content(tmp_path: Path, objects: DiskObjects) -> None:
    path = tmp_path / 'a'
    path.write_bytes(b'abc')
    file = File(b'abc', name='a')
    codec = Codec(objects=objects)
    stored = codec.decode(codec.encode(file))
    assert file == File(path) == stored and len({file, File(path), stored}) == 1
    assert file != File(b'abd', name='a') and file != File(b'abc', name='b') and file != b'abc'
    for name in ('name', '_name', 'other'):
        with pytest.raises(AttributeError, match='cannot be changed'):
            setattr(file, name, 'x')
    with pytest.raises(AttributeError):
        del file._name
    assert repr(file) == "File('a', 3 bytes)"


@pytest.mark.parametrize('name', ['', '.', '..', 'a/b', '/a', '../a', 'a\0', 5])
def test_file_names_are_plain(name: Any) -> None:
    with pytest.raises(ValueError):
        File(b'', name=name)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        File(tmp_path / 'none')
    with pytest.raises(IsADirectoryError, match='use Folder'):
        File(tmp_path)
    os.mkfifo(tmp_path / 'fifo')
    with pytest.raises(ValueError, match='no regular file'):
        File(tmp_path / 'fifo')
    with pytest.raises(ValueError, match='needs a name'):
        File(b'')
    with pytest.raises(NotADirectoryError):
        (tmp_path / 'f').touch()
        Folder(tmp_path / 'f')


def test_round_trip(codec: Codec, tree: Path) -> None:
    value = {
        'f': File(tree / 'a.txt'),
        'F': Folder(tree),
        'big': File(b'x' * 100_000, name='big'),
        'e': Folder({}),
    }
    back = codec.decode(codec.encode(value))
    assert back == value
    assert codec.fingerprint(back) == codec.fingerprint(value) == Codec().fingerprint(value)
    assert back['F']['sub/file.txt'].read_text() == 'ü'


def test_contents_outlive_the_file_once_encoded(objects: DiskObjects, tree: Path) -> None:
    codec = Codec(objects=objects)
    text = codec.encode(Folder(tree))
    (tree / 'a.txt').write_text('other')
    assert codec.decode(text)['a.txt'].read_bytes() == b'a\r\n'
    assert len(text) < 1000


def test_a_file_that_changed_is_refused(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / 'a'
    path.write_text('one')
    for know_hash in (False, True):
        file = File(path)
        if know_hash:
            assert file.sha256
        path.write_text(path.read_text() + ' more')
        with pytest.raises(UnstorableValue, match=r'inputs\.f: .*changed since the File was made'):
            codec.encode({'f': file}, 'inputs')
        with pytest.raises(OSError, match='changed since'):
            file.read_bytes()
    file = File(path)
    path.unlink()
    with pytest.raises(UnstorableValue, match='cannot be read'):
        codec.encode(file)


def test_copy_to(tmp_path: Path, codec: Codec, tree: Path) -> None:
    file, folder = codec.decode(codec.encode((File(b'abc', name='a'), Folder(tree))))
    assert file.copy_to(tmp_path / 'copy').read_bytes() == b'abc'
    (tmp_path / 'dir').mkdir()
    assert file.copy_to(tmp_path / 'dir') == tmp_path / 'dir' / 'a'
    target = folder.copy_to(tmp_path / 'new' / 'place')
    assert Folder(target) == folder
    assert folder.copy_to(target) == target
    with pytest.raises(FileNotFoundError):
        file.copy_to(tmp_path / 'no' / 'such' / 'directory')


def test_copy_to_stays_inside(tmp_path: Path) -> None:
    outside, target = tmp_path / 'outside', tmp_path / 'target'
    outside.mkdir()
    (outside / 'victim').write_text('kept')
    target.mkdir()
    (target / 'sub').symlink_to(outside)
    (target / 'link').symlink_to(outside / 'victim')
    with pytest.raises(ValueError, match='leads outside'):
        Folder({'sub/victim': b'overwritten'}).copy_to(target)
    Folder({'link': b'new'}).copy_to(target)
    assert (outside / 'victim').read_text() == 'kept'
    assert (target / 'link').read_text() == 'new' and not (target / 'link').is_symlink()
    with pytest.raises(IsADirectoryError):
        Folder({'outside': b''}).copy_to(tmp_path)


def test_folder_is_a_mapping(tree: Path) -> None:
    folder = Folder(tree)
    assert list(folder) == ['a.txt', 'sub/deep/empty', 'sub/file.txt'] and len(folder) == 3
    assert folder['sub/file.txt'].name == 'file.txt' and 'sub' not in folder
    assert folder[PurePosixPath('sub/file.txt')] == folder['sub/file.txt']
    with pytest.raises(KeyError):
        folder['sub']
    again = Folder(
        {
            PurePosixPath('sub/file.txt'): 'ü'.encode(),
            'a.txt': File(b'a\r\n', name='renamed'),
            'sub/deep/empty': b'',
        }
    )
    assert again == folder and hash(again) == hash(folder)
    assert folder != Folder({}) and folder != dict(folder)
    with pytest.raises(AttributeError):
        folder._files = {}


@pytest.mark.parametrize(
    'source',
    [
        {'/a': b''},
        {'../a': b''},
        {'a/../../b': b''},
        {'./a': b''},
        {'a//b': b''},
        {'a/': b''},
        {'': b''},
        {'a\0': b''},
        {1: b''},
        {'a': b'', 'a/b': b''},
        {'a': 'text'},
        {'a': None},
    ],
)
def test_folder_paths_stay_inside(source: Any) -> None:
    with pytest.raises(ValueError):
        Folder(source)


def test_links_in_a_folder(tmp_path: Path, tree: Path) -> None:
    (tree / 'link').symlink_to('sub/file.txt')
    (tree / 'linked').symlink_to('sub')
    folder = Folder(tree)
    assert folder['link'].read_text() == folder['linked/file.txt'].read_text() == 'ü'
    secret = tmp_path / 'secret'
    secret.write_text('x')
    for target in (secret, '../secret', tmp_path, tree, '.', 'nowhere'):
        bad = tree / 'sub' / 'bad'
        bad.symlink_to(target)
        with pytest.raises(ValueError, match='is a link'):
            Folder(tree)
        bad.unlink()
    os.mkfifo(tree / 'fifo')
    with pytest.raises(ValueError, match='no regular file'):
        Folder(tree)


def test_names_that_are_no_utf8(codec: Codec, tmp_path: Path) -> None:
    root = tmp_path / 'odd'
    root.mkdir()
    Path(os.fsdecode(os.fsencode(root) + b'/\xff')).write_text('x')
    folder = Folder(root)
    back = codec.decode(codec.encode([folder, next(iter(folder.values()))]))
    assert back[0] == folder and back[1].name == '\udcff'
    assert back[0].copy_to(tmp_path / 'copy')


def test_large_files_stream(tmp_path: Path, objects: DiskObjects) -> None:
    path = tmp_path / 'large'
    with open(path, 'wb') as stream:
        stream.truncate(50_000_000)
    codec = Codec(objects=objects)
    objects.put(b'')  # what is imported by it is not to be counted
    tracemalloc.start()
    try:
        back = codec.decode(codec.encode(File(path)))
        back.copy_to(tmp_path / 'copy')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / 'copy').stat().st_size == 50_000_000
    assert peak < 10_000_000


def test_decoding_touches_no_object_until_it_is_read() -> None:
    class Closed:
        def put(self, source: bytes | BinaryIO) -> str:
            raise AssertionError('decoding stores nothing')

        def open(self, sha256: str) -> BinaryIO:
            raise CorruptValue(f'the object {sha256} is not there')

        def has(self, sha256: str) -> bool:
            raise AssertionError('decoding asks for nothing')

    codec = Codec(objects=Closed())
    file = codec.decode('{"$":"file","name":"a","size":3,"object":"%s"}' % ('0' * 64))
    assert (file.name, file.size, file.sha256) == ('a', 3, '0' * 64)
    with pytest.raises(CorruptValue, match='0' * 64):
        file.open()


def test_damage_is_found() -> None:
    class Damaged:
        def put(self, source: bytes | BinaryIO) -> str:
            return '0' * 64

        def open(self, sha256: str) -> BinaryIO:
            return io.BytesIO(b'other')

        def has(self, sha256: str) -> bool:
            return True

    codec = Codec(objects=Damaged())
    back = codec.decode(codec.encode(File(b'abc', name='a')))
    for read in (back.read_bytes, back.read_text, lambda: back.copy_to('/tmp/treadle-never-made')):
        with pytest.raises(CorruptValue, match='is damaged'):
            read()
    with pytest.raises(CorruptValue, match='is damaged'):
        codec.decode(codec.encode(b'x' * 100_000))
