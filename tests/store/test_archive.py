"""The file that a store is written to: what is in it, and what of it is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
import zipfile
from pathlib import Path

import pytest

from treadle.engine import StoreError
from treadle.engine.errors import BadArchive
from treadle.engine.store.archive import Archive, ArchiveWriter

ROWS = [{'pid': 1, 'label': 'größe\n', 'wake_at': math.inf, 'key': None}, {'pid': 2, 'label': '', 'wake_at': 0.1}]
CONTENTS = sorted((b'', b'abc', b'x' * 3_000_000), key=lambda each: hashlib.sha256(each).hexdigest())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path) -> Path:
    with ArchiveWriter(path, revision='0007') as writer:
        writer.retired = True
        assert writer.write_table('process', ROWS, last_number=9) == 2
        writer.write_table('log', [])
        for content in CONTENTS:
            assert writer.write_object(sha256(content), io.BytesIO(content)) == len(content)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / 'store.zip')


def read(path: Path) -> tuple[list[object], dict[str, bytes]]:
    with Archive(path) as archive:
        rows = [row for name in archive.manifest.tables for row in archive.rows(name)]
        contents = {}
        for name, size in archive.objects():
            with archive.open_object(name) as stream:
                contents[name] = stream.read()
            assert len(contents[name]) == size
    return rows, contents


def rewritten(path: Path, **changes: bytes | None) -> Path:
    """The archive with members that are others, or missing; double underscores stand for slashes, one for a dot."""
    made = path.with_name('changed.zip')
    named = {name.replace('__', '/').replace('_', '.'): content for name, content in changes.items()}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, 'w') as new:
        for name in old.namelist():
            content = named[name] if name in named else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return made


def test_what_was_written_is_read(path: Path) -> None:
    rows, contents = read(path)
    assert rows == ROWS
    assert contents == {sha256(content): content for content in CONTENTS}
    with Archive(path) as archive:
        manifest = archive.manifest
    assert (manifest.format, manifest.version, manifest.revision, manifest.retired) == (
        'treadle-store',
        1,
        '0007',
        True,
    )
    assert (manifest.tables['process'].rows, manifest.tables['process'].last_number) == (2, 9)
    assert (manifest.objects.count, manifest.objects.bytes) == (3, 3_000_003)


def test_other_tools_read_it(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        first = archive.read('tables/process.jsonl').decode().splitlines()[0]
        assert json.loads(first)['label'] == 'größe\n'
        assert json.loads(archive.read('manifest.json'))['tables']['log'] == {
            'rows': 0,
            'sha256': sha256(b''),
            'last_number': 0,
        }


def test_the_same_contents_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    assert write(tmp_path / 'again.zip').read_bytes() == path.read_bytes()


def test_only_its_owner_may_read_it_and_nothing_else_is_left(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ['store.zip']


def test_nothing_is_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(BadArchive, match=r'is there already; name another file'):
        write(path)
    assert path.read_bytes() == before


def test_a_file_that_somebody_else_makes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / 'store.zip'
    with pytest.raises(BadArchive, match='by somebody else meanwhile'), ArchiveWriter(path, revision='0007'):
        path.write_text('mine')
    assert [item.name for item in tmp_path.iterdir()] == ['store.zip'] and path.read_text() == 'mine'


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', no_link)
    path = write(tmp_path / 'store.zip')
    assert read(path)[0] == ROWS
    assert os.listdir(tmp_path) == ['store.zip'] and stat.S_IMODE(path.stat().st_mode) == 0o600
    taken = tmp_path / 'taken.zip'
    with pytest.raises(BadArchive, match='somebody else'), ArchiveWriter(taken, revision='0007'):
        taken.write_text('theirs')
    assert taken.read_text() == 'theirs' and sorted(os.listdir(tmp_path)) == ['store.zip', 'taken.zip']

    def no_rename(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, 'rename', no_rename)
    with pytest.raises(BadArchive, match='Input/output error'):
        write(tmp_path / 'other.zip')
    assert sorted(os.listdir(tmp_path)) == ['store.zip', 'taken.zip']


def test_a_writing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ArchiveWriter(tmp_path / 'store.zip', revision='0007') as writer:
        writer.write_table('process', ({'pid': 1 // (2 - number)} for number in range(3)))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_full_disk_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadArchive, match=r'no/store.zip cannot be written \(No such file or directory\)'):
        write(tmp_path / 'no' / 'store.zip')

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(BadArchive, match=r'cannot be written \(No space left on device\)'):
        write(tmp_path / 'store.zip')
    assert list(tmp_path.iterdir()) == []


def test_a_content_with_another_hash_is_not_passed_on(tmp_path: Path) -> None:
    with (
        pytest.raises(BadArchive, match='restore it from a backup'),
        ArchiveWriter(tmp_path / 'store.zip', revision='0007') as writer,
    ):
        writer.write_object(sha256(b'abc'), io.BytesIO(b'abd'))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / 'text').write_text('hello' * 1000)
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as other:
        other.writestr('a.txt', 'hello')
    with zipfile.ZipFile(tmp_path / 'foreign.zip', 'w') as foreign:
        foreign.writestr('manifest.json', '{"format": "app", "version": 3}')
    for name, said in (
        ('no.zip', 'cannot be read (No such file or directory)'),
        ('.', 'cannot be read (Is a directory)'),
        ('text', 'no zip archive, or cut off'),
        ('other.zip', 'is no export of a store: it has no manifest.json'),
        ('foreign.zip', "does not say 'treadle-store'"),
    ):
        with pytest.raises(BadArchive) as caught:
            Archive(tmp_path / name)
        assert said in str(caught.value) and str(tmp_path) in str(caught.value)
        assert isinstance(caught.value, StoreError)


def test_a_later_version_of_the_format_is_not_guessed_at(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read('manifest.json'))
    changed = rewritten(path, manifest_json=json.dumps({**manifest, 'version': 2}).encode())
    with pytest.raises(BadArchive, match=r'has version 2 of the format, .* upgrade Treadle'):
        Archive(changed)
    changed = rewritten(path, manifest_json=json.dumps({**manifest, 'tables': 3}).encode())
    with pytest.raises(BadArchive, match=r'is damaged: its manifest.json makes no sense'):
        Archive(changed)


def test_an_archive_that_was_cut_off(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadArchive, match='copy it again'):
            read(path)


def test_a_flipped_bit_anywhere_in_what_is_kept_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        places = [member.header_offset + 50 + len(member.filename) for member in archive.infolist() if member.file_size]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            rows, contents = read(path)
        except BadArchive:
            continue
        # Of the contents, whoever stores them finds it: their names are their hashes.
        assert rows == ROWS
        assert any(sha256(content) != name for name, content in contents.items()), place


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'tables__process_jsonl': None}, 'tables/process.jsonl is missing'),
        ({'tables__log_jsonl': b'{"id":1}\n'}, 'another checksum'),
        ({'tables__process_jsonl': b'{"pid"'}, 'line 1 of tables/process.jsonl is no JSON'),
        ({'tables__process_jsonl': b'[' * 100_000}, 'is no JSON'),
        ({'tables__process_jsonl': b'[1]\n'}, 'line 1 of tables/process.jsonl is no row'),
        ({f'objects__{sha256(b"abc")}': None}, 'a large content is missing'),
        ({'manifest_json': None}, 'no manifest.json'),
        ({'manifest_json': b'{'}, 'no manifest.json'),
    ],
)
def test_members_that_are_missing_or_others(path: Path, changes: dict[str, bytes | None], said: str) -> None:
    with pytest.raises(BadArchive) as caught:
        read(rewritten(path, **changes))
    assert said in str(caught.value)


def test_much_is_written_without_being_held(tmp_path: Path) -> None:
    """60 MB of rows and a content of 50 MB, in far less memory."""
    import tracemalloc

    class Zeros(io.RawIOBase):
        left = 50_000_000

        def read(self, size: int = -1) -> bytes:
            given = min(size, self.left)
            self.left -= given
            return bytes(given)

    digest = hashlib.sha256()
    for _ in range(50):
        digest.update(bytes(1_000_000))
    row = {'pid': 1, 'inputs': 'x' * 100_000}
    tracemalloc.start()
    try:
        with ArchiveWriter(tmp_path / 'store.zip', revision='0007') as writer:
            writer.write_table('process', (row for _ in range(600)))
            writer.write_object(digest.hexdigest(), Zeros())  # type: ignore[arg-type]
        with Archive(tmp_path / 'store.zip') as archive:
            assert sum(1 for _ in archive.rows('process')) == 600
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


