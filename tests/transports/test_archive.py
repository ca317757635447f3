"""Archives of somebody who means ill. All that they aim at lies in the test's own folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from treadle.engine.errors import UnsafeArchive
from treadle.engine.transports.archive import unpack
from treadle.engine.transports.safe_folder import SafeFolder


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = '', mode: int = 0o644) -> tarfile.TarInfo:
    """One entry, with three bytes if it is a file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    info.size = 3 if kind == tarfile.REGTYPE else 0
    return info


def fetch(tmp_path: Path, *entries: tarfile.TarInfo) -> Path:
    """Unpack them into a folder beside the one that is not to be touched."""
    (tmp_path / 'outside').mkdir(exist_ok=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', format=tarfile.GNU_FORMAT) as tar:
        for each in entries:
            tar.addfile(each, io.BytesIO(b'bad') if each.isreg() else None)
    stream.seek(0)
    folder = SafeFolder(tmp_path / 'back', source='cluster:work')
    try:
        unpack(stream, folder, lambda: None)
        folder.finish()
    finally:
        assert os.listdir(tmp_path / 'outside') == []
        assert sorted(os.listdir(tmp_path)) == ['back', 'outside']
    return tmp_path / 'back'


@pytest.mark.parametrize('name', ['{tmp}/outside/x', '../outside/x', 'a/../../outside/x', 'a/..', '..'])
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeArchive, match=r'cluster:work: the name .* leads outside'):
        fetch(tmp_path, entry(name.format(tmp=tmp_path)))


@pytest.mark.parametrize('target', ['{tmp}/outside', '../outside', 'a/../../outside', './../outside'])
def test_links_that_lead_outside(tmp_path: Path, target: str) -> None:
    with pytest.raises(UnsafeArchive, match="the link 'way' leads to"):
        fetch(tmp_path, entry('way', tarfile.SYMTYPE, target.format(tmp=tmp_path)), entry('way/x'))


def test_nothing_is_written_through_a_link_inside(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match='is a folder and something else'):
        fetch(tmp_path, entry('way', tarfile.SYMTYPE, 'real'), entry('way/x'))


def test_a_chain_of_links_does_not_climb(tmp_path: Path) -> None:
    # `up` leads from four levels down to the top; one more step up from what it leads to would be outside.
    with pytest.raises(UnsafeArchive, match="the link 'out'"):
        fetch(
            tmp_path,
            entry('a/b/c', tarfile.DIRTYPE, mode=0o755),
            entry('a/b/c/up', tarfile.SYMTYPE, '../../..'),
            entry('out', tarfile.SYMTYPE, 'a/b/c/up/../outside'),
        )


def test_a_link_that_was_there_before_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'back').mkdir()
    (tmp_path / 'back/x').symlink_to('../outside/x')
    assert (fetch(tmp_path, entry('x')) / 'x').read_bytes() == b'bad'
    assert not (tmp_path / 'back/x').is_symlink()


def test_a_link_that_was_there_before_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'back').mkdir()
    (tmp_path / 'back/way').symlink_to('../outside')
    with pytest.raises(UnsafeArchive, match='would be written through'):
        fetch(tmp_path, entry('way/x'))


@pytest.mark.parametrize('target', ['{tmp}/outside/x', '../outside/x', 'not there', 'way'])
def test_hard_links_to_what_did_not_come(tmp_path: Path, target: str) -> None:
    with pytest.raises(UnsafeArchive):
        fetch(
            tmp_path,
            entry('way', tarfile.SYMTYPE, 'x'),
            entry('hard', tarfile.LNKTYPE, target.format(tmp=tmp_path)),
        )


@pytest.mark.parametrize('kind', [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(UnsafeArchive, match="'thing' is a device or a pipe"):
        fetch(tmp_path, entry('thing', kind))


def test_no_program_gets_the_rights_of_its_owner(tmp_path: Path) -> None:
    back = fetch(tmp_path, entry('program', mode=0o6755), entry('folder', tarfile.DIRTYPE, mode=0o7000))
    assert stat.S_IMODE((back / 'program').stat().st_mode) == 0o755
    assert stat.S_IMODE((back / 'folder').stat().st_mode) == 0o700


def test_the_same_name_twice(tmp_path: Path) -> None:
    assert (fetch(tmp_path, entry('x'), entry('./x')) / 'x').read_bytes() == b'bad'


def test_what_is_no_archive(tmp_path: Path) -> None:
    folder = SafeFolder(tmp_path / 'back', source='cluster:work')
    with pytest.raises(tarfile.TarError):
        unpack(io.BytesIO(b'hello' * 1000), folder, lambda: None)
