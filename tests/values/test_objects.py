"""The object store on disk: durable, shared by threads and by OS processes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from treadle.engine.errors import CorruptValue, StoreError, StoreFull, StoreReadOnly, UnstorableValue
from treadle.engine.values import Codec, DiskObjects, File


@pytest.fixture
def objects(tmp_path: Path) -> DiskObjects:
    return DiskObjects(tmp_path / 'objects')


def test_put_open_has(objects: DiskObjects) -> None:
    for data in (b'', b'abc', b'x' * 3_000_000):
        sha256 = hashlib.sha256(data).hexdigest()
        assert not objects.has(sha256)
        assert objects.put(io.BytesIO(data)) == objects.put(data) == sha256
        assert objects.has(sha256)
        with objects.open(sha256) as stream:
            assert stream.read() == data


def test_reading_makes_no_directory(objects: DiskObjects) -> None:
    assert not objects.has('0' * 64)
    with pytest.raises(CorruptValue, match='0' * 64):
        objects.open('0' * 64)
    assert not objects.path.exists()
    objects.put(b'')
    assert not objects.has('0' * 64)
    with pytest.raises(CorruptValue, match='0' * 64):
        objects.open('0' * 64)


@pytest.mark.parametrize('sha256', ['', '../x', 'A' * 64, '0' * 65, '0' * 64 + '\n', None])
def test_only_hashes(objects: DiskObjects, sha256: str) -> None:
    objects.put(b'')
    for call in (objects.open, objects.has):
        with pytest.raises(CorruptValue, match='no sha256'):
            call(sha256)


def test_an_object_and_its_name_are_on_disk_when_put_returns(
    objects: DiskObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.put(b'first')
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        # After the rename the file is found under its new name; directories keep theirs.
        synced.append(os.readlink(f'/proc/self/fd/{handle}'))
        real(handle)

    monkeypatch.setattr(os, 'fsync', fsync)
    sha256 = objects.put(b'second')
    prefix = objects.path / 'loose' / sha256[:2]
    assert any('/sandbox/' in path for path in synced)
    assert str(prefix) in synced and str(prefix.parent) in synced
    assert synced.index(str(prefix)) > next(i for i, path in enumerate(synced) if '/sandbox/' in path)

    # Another instance does not know whether who wrote it had come to the end.
    for known in (lambda other: other.put(b'second'), lambda other: other.has(sha256)):
        synced.clear()
        known(DiskObjects(objects.path))  # type: ignore[no-untyped-call]
        assert str(prefix) in synced
    synced.clear()
    objects.put(b'second')
    assert synced == []

    # An object that was removed and comes back has a new name to be synced.
    (prefix / sha256[2:]).unlink()
    objects.put(b'second')
    assert str(prefix) in synced


def test_a_truncated_object_is_replaced(objects: DiskObjects) -> None:
    sha256 = objects.put(b'whole')
    path = objects.path / 'loose' / sha256[:2] / sha256[2:]
    path.chmod(0o600)
    path.write_bytes(b'wh')
    objects.put(b'whole')
    assert path.read_bytes() == b'whole'


def test_packed_objects_are_read(objects: DiskObjects) -> None:
    from disk_objectstore import Container

    data = os.urandom(200_000)
    sha256 = objects.put(data)
    with Container(objects.path) as container:
        container.pack_all_loose()
        container.clean_storage()
    assert not (objects.path / 'loose' / sha256[:2] / sha256[2:]).exists()
    assert objects.has(sha256)
    with objects.open(sha256) as stream:
        assert stream.read(10) == data[:10] and stream.read() == data[10:]
    stream.close()


def test_many_threads_put_and_get(objects: DiskObjects) -> None:
    barrier = threading.Barrier(12)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        barrier.wait()  # the first put of all makes the container
        try:
            for index in range(15):
                data = b'%d' % (index if seed % 2 else index * 100 + seed)  # half of them shared
                sha256 = objects.put(data)
                with objects.open(sha256) as stream:
                    assert stream.read() == data
                assert objects.has(sha256) and not objects.has(hashlib.sha256(b'no' + data).hexdigest())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


RACE = """
import sys
from treadle.engine.values import DiskObjects
import treadle.engine.values.container
print('ready', flush=True)
sys.stdin.readline()
objects = DiskObjects(sys.argv[1])
print(objects.put(b'shared'), objects.put(sys.argv[2].encode()))
"""


def test_processes_race_for_the_container(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'objects'
    racers = [
        subprocess.Popen(
            [sys.executable, '-c', RACE, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == 'ready\n'
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write('\n')
        racer.stdin.flush()
    for racer in racers:
        _, errors = racer.communicate(timeout=30)
        assert racer.returncode == 0, errors
    objects = DiskObjects(path)
    for data in (b'shared', *(b'%d' % number for number in range(6))):
        assert objects.has(hashlib.sha256(data).hexdigest())
    assert os.listdir(path.parent) == ['objects']


def test_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'objects').mkdir()
    (tmp_path / 'objects' / 'thesis.txt').touch()
    with pytest.raises(StoreError, match='is no object store'):
        DiskObjects(tmp_path / 'objects').put(b'')
    assert os.listdir(tmp_path) == ['objects']


def test_an_empty_directory_becomes_the_store(tmp_path: Path) -> None:
    (tmp_path / 'objects').mkdir()
    DiskObjects(tmp_path / 'objects').put(b'')
    assert (tmp_path / 'objects' / 'config.json').exists()


@pytest.mark.parametrize(('number', 'error'), [(28, StoreFull), (30, StoreReadOnly), (5, StoreError)])
def test_what_the_disk_says(
    objects: DiskObjects, monkeypatch: pytest.MonkeyPatch, number: int, error: type[StoreError]
) -> None:
    objects.put(b'first')

    def fsync(handle: int) -> None:
        raise OSError(number, 'as the test wants')

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(error, match='objects'):
        objects.put(b'second')
    with pytest.raises(error):
        Codec(objects=objects).encode({'f': File(b'third', name='f')})


def test_errors_of_the_source_are_the_sources(objects: DiskObjects) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(28, 'of the source')

    with pytest.raises(OSError, match='of the source'):
        objects.put(Broken())


def test_codec_keeps_large_contents_there(objects: DiskObjects) -> None:
    import numpy as np

    codec = Codec(objects=objects)
    value = {
        'b': b'\0' * 65_537,
        's': 'é' * 40_000,
        'a': np.arange(10_000.0),
        'odd': '\ud800' * 30_000,
        'B': bytearray(70_000),
    }
    text = codec.encode(value)
    assert len(text) < 1000 and text.count('"object"') == 5
    back = codec.decode(text)
    assert (back.pop('a') == value.pop('a')).all() and back == value
    assert 'object' not in codec.encode([b'\0' * 65_536, 's' * 65_536])
    assert 'object' not in Codec().encode(value)
    with pytest.raises(CorruptValue, match='object store'):
        Codec().decode(text)
    for path in (objects.path / 'loose').rglob('*'):
        if path.is_file():
            path.unlink()
    with pytest.raises(CorruptValue, match=r'the object [0-9a-f]{64} is not in'):
        codec.decode(text)


def test_fingerprints_store_nothing(objects: DiskObjects, tmp_path: Path) -> None:
    value = {'b': b'\0' * 100_000, 'f': File(b'abc', name='f')}
    assert Codec(objects=objects).fingerprint(value) == Codec().fingerprint(value)
    assert not objects.path.exists()


def test_a_failed_encode_names_the_path(objects: DiskObjects) -> None:
    with pytest.raises(UnstorableValue, match=r'value\.b'):
        Codec(objects=objects).encode({'a': File(b'', name='a'), 'b': object()})
