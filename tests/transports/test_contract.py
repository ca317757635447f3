"""What holds of every transport: the local one, ssh, and the fake of the tests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transports.rig import Place

from treadle.engine.errors import CommandTimeout, FileTooLarge, UnsafeArchive
from treadle.engine.transports import CommandResult

#: Names that a careless program trips over.
NAMES = [
    'plain',
    'with space',
    "it's",
    '"quoted"',
    'new\nline',
    '-rf',
    '--help',
    '$HOME',
    '`id`',
    '*',
    '~',
    'back\\slash',
    '!history',
    'ü',
    os.fsdecode(b'latin-\xfc'),
    '; echo',
    '.hidden',
    'x' * 255,
]


class TestRun:
    def test_what_it_says(self, place: Place) -> None:
        result = place.transport.run(['sh', '-c', 'echo out; echo err >&2; exit 3'])
        assert result == CommandResult(exit_code=3, stdout=b'out\n', stderr=b'err\n')
        assert result.message == 'err'

    @pytest.mark.parametrize('name', NAMES)
    def test_arguments_arrive_as_they_are(self, place: Place, name: str) -> None:
        result = place.transport.run(['printf', '%s|', name, os.fsencode(name), ''])
        assert result.stdout == os.fsencode(name) + b'|' + os.fsencode(name) + b'||'

    def test_input(self, place: Place) -> None:
        data = bytes(range(256)) * 20_000
        assert place.transport.run(['cat'], stdin=data).stdout == data

    def test_input_that_nobody_reads(self, place: Place) -> None:
        assert place.transport.run(['true'], stdin=b'x' * 10_000_000).exit_code == 0

    def test_there_is_no_input_to_wait_for(self, place: Place) -> None:
        assert place.transport.run(['cat']) == CommandResult(exit_code=0, stdout=b'', stderr=b'')

    def test_where(self, place: Place) -> None:
        (place.folder / "it's here").mkdir()
        assert (
            place.transport.run(['pwd'], cwd=place.path("it's here")).stdout
            == f"{place.folder}/it's here\n".encode()
        )
        assert place.transport.run(['pwd']).stdout.decode().strip() == place.transport.account().home

    def test_no_such_place(self, place: Place) -> None:
        with pytest.raises(FileNotFoundError, match='nowhere'):
            place.transport.run(['touch', place.path('made')], cwd=place.path('nowhere'))
        assert not (place.folder / 'made').exists()

    def test_no_such_program(self, place: Place) -> None:
        result = place.transport.run(['no-such-program', '--flag'])
        assert result.exit_code == 127
        assert 'no-such-program' in result.message

    def test_program_that_is_none(self, place: Place) -> None:
        (place.folder / 'text').write_text('hello')
        assert place.transport.run([place.path('text')]).exit_code == 126

    def test_signal(self, place: Place) -> None:
        assert place.transport.run(['sh', '-c', 'kill -KILL $$']).exit_code == 128 + 9

    @pytest.mark.parametrize('argv', [[], ['printf', 'a\0b']])
    def test_what_cannot_be_run(self, place: Place, argv: list[str]) -> None:
        with pytest.raises(ValueError, match=r'needs|NUL'):
            place.transport.run(argv)

    def test_no_more_is_kept_than_wanted(self, place: Place) -> None:
        result = place.transport.run(['sh', '-c', 'yes | head -c 50000000; echo done >&2'], max_output=1000)
        assert (len(result.stdout), result.stderr, result.truncated) == (1000, b'done\n', True)

    def test_much_on_both_outputs(self, place: Place) -> None:
        script = 'yes out | head -c 6000000 & yes err | head -c 6000000 >&2; wait'
        result = place.transport.run(['sh', '-c', script])
        assert (len(result.stdout), len(result.stderr)) == (6_000_000, 6_000_000)

    def test_time_out(self, place: Place) -> None:
        script = (
            'trap "echo told > told; exit" TERM; echo begun > begun; for i in $(seq 2000); do sleep 0.05; done'
        )
        with pytest.raises(CommandTimeout, match=r"'sh' did not end within 5 s"):
            place.transport.run(['sh', '-c', script], cwd=str(place.folder), timeout=5)
        assert (place.folder / 'begun').exists()
        for _ in range(200):
            if (place.folder / 'told').exists():
                break
            threading.Event().wait(0.05)
        assert (place.folder / 'told').read_text() == 'told\n'

    def test_what_goes_on_behind_it_is_not_waited_for(self, place: Place) -> None:
        begun = time.monotonic()
        result = place.transport.run(['sh', '-c', 'sleep 12 & echo begun'], timeout=60.0)
        assert (result.exit_code, result.stdout) == (0, b'begun\n')
        assert time.monotonic() - begun < 11

    def test_many_at_once(self, place: Place) -> None:
        results: list[bytes] = []
        threads = [
            threading.Thread(target=lambda n=n: results.append(place.transport.run(['echo', str(n)]).stdout))
            for n in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == sorted(b'%d\n' % n for n in range(30))


class TestSmallFiles:
    @pytest.mark.parametrize('name', NAMES)
    def test_there_and_back(self, place: Place, name: str) -> None:
        path = place.path(name)
        place.transport.write_bytes(path, b'hello', mode=0o640)
        assert (place.folder / name).read_bytes() == b'hello'
        assert place.transport.read_bytes(path) == b'hello'
        assert place.transport.listdir(str(place.folder)) == [name]
        status = place.transport.stat(path)
        assert status is not None
        assert (status.kind, status.size, status.mode) == ('file', 5, 0o640)
        place.transport.rename(path, place.path('other'))
        assert os.listdir(place.folder) == ['other']
        place.transport.rename(place.path('other'), path)
        place.transport.remove_tree(path)
        assert os.listdir(place.folder) == []

    def test_replaced(self, place: Place) -> None:
        place.transport.write_bytes(place.path('a'), b'one')
        place.transport.write_bytes(place.path('a'), b'two')
        assert (place.folder / 'a').read_bytes() == b'two'
        assert os.listdir(place.folder) == ['a']

    def test_exclusive(self, place: Place) -> None:
        place.transport.write_bytes(place.path('a'), b'one', exclusive=True)
        with pytest.raises(FileExistsError, match='/a'):
            place.transport.write_bytes(place.path('a'), b'two', exclusive=True)
        assert (place.folder / 'a').read_bytes() == b'one'
        assert os.listdir(place.folder) == ['a']

    def test_of_many_who_write_exclusively_one_wins(self, place: Place) -> None:
        won: list[int] = []

        def write(number: int) -> None:
            try:
                place.transport.write_bytes(place.path('a'), str(number).encode(), exclusive=True)
            except FileExistsError:
                return
            won.append(number)

        _all_at_once(write, 12)
        assert [(place.folder / 'a').read_text()] == [str(number) for number in won]

    def test_of_many_who_rename_one_wins(self, place: Place) -> None:
        won: list[int] = []
        (place.folder / 'open').write_text('ticket')

        def rename(number: int) -> None:
            try:
                place.transport.rename(place.path('open'), place.path(f'taken-{number}'))
            except FileNotFoundError:
                return
            won.append(number)

        _all_at_once(rename, 12)
        assert os.listdir(place.folder) == [f'taken-{number}' for number in won]
        assert len(won) == 1

    def test_too_large(self, place: Place) -> None:
        (place.folder / 'a').write_bytes(b'x' * 1001)
        with pytest.raises(FileTooLarge, match=r'/a has 1001 bytes, and not more than 1000'):
            place.transport.read_bytes(place.path('a'), max_bytes=1000)
        assert len(place.transport.read_bytes(place.path('a'), max_bytes=1001)) == 1001

    def test_megabytes(self, place: Place) -> None:
        data = os.urandom(5_000_000)
        place.transport.write_bytes(place.path('a'), data)
        assert place.transport.read_bytes(place.path('a')) == data

    def test_what_is_not_there(self, place: Place, tmp_path: Path) -> None:
        nothing = place.path('nothing')
        assert place.transport.stat(nothing) is None
        place.transport.remove_tree(nothing)
        for call in (
            lambda: place.transport.read_bytes(nothing),
            lambda: place.transport.listdir(nothing),
            lambda: place.transport.rename(nothing, place.path('nothing-b')),
            lambda: place.transport.get_file(nothing, tmp_path / 'here'),
            lambda: place.transport.get_tree(nothing, tmp_path / 'here'),
            lambda: place.transport.write_bytes(place.path('nothing/b'), b''),
            lambda: place.transport.mkdir(place.path('nothing/b')),
        ):
            with pytest.raises(FileNotFoundError, match='nothing'):
                call()

    def test_relative_to_home(self, place: Place) -> None:
        # Looked at only: the home directory is not the test's own.
        home = place.transport.account().home
        assert place.transport.listdir('.') == place.transport.listdir(home)
        assert place.transport.run(['pwd']).stdout == os.fsencode(home) + b'\n'


class TestFolders:
    def test_made(self, place: Place) -> None:
        place.transport.mkdir(place.path('a'))
        with pytest.raises(FileExistsError, match='/a'):
            place.transport.mkdir(place.path('a'))
        place.transport.mkdir(place.path('a'), exist_ok=True)
        with pytest.raises(FileNotFoundError):
            place.transport.mkdir(place.path('b/c/d'))
        place.transport.mkdir(place.path('b/c/d'), parents=True)
        assert (place.folder / 'b/c/d').is_dir()

    def test_a_file_in_the_way(self, place: Place) -> None:
        (place.folder / 'a').write_text('')
        with pytest.raises(FileExistsError, match='/a'):
            place.transport.mkdir(place.path('a'), exist_ok=True)

    def test_removed_and_links_not_followed(self, place: Place) -> None:
        (place.folder / 'kept').mkdir()
        (place.folder / 'kept/file').write_text('kept')
        (place.folder / 'a/b').mkdir(parents=True)
        (place.folder / 'a/link').symlink_to(place.folder / 'kept')
        place.transport.remove_tree(place.path('a'))
        (place.folder / 'link').symlink_to('kept')
        place.transport.remove_tree(place.path('link/'))
        assert sorted(os.listdir(place.folder)) == ['kept']
        assert (place.folder / 'kept/file').read_text() == 'kept'

    def test_kinds(self, place: Place) -> None:
        (place.folder / 'folder').mkdir()
        (place.folder / 'link').symlink_to('nowhere')
        os.mkfifo(place.folder / 'pipe')
        kinds = {name: place.transport.stat(place.path(name)) for name in ('folder', 'link', 'pipe')}
        assert {name: status.kind for name, status in kinds.items() if status is not None} == {
            'folder': 'folder',
            'link': 'link',
            'pipe': 'other',
        }

    def test_glob(self, place: Place) -> None:
        for name in ('out-1.txt', 'out-2.txt', '.out-3.txt', 'sub/out-4.txt', 'sub/[5]'):
            (place.folder / name).parent.mkdir(exist_ok=True)
            (place.folder / name).write_text('')

        def found(pattern: str) -> list[str]:
            return [
                str(Path(path).relative_to(place.folder))
                for path in place.transport.glob(place.path(pattern))
            ]

        assert found('out-*.txt') == ['out-1.txt', 'out-2.txt']
        assert found('*/*') == ['sub/[5]', 'sub/out-4.txt']
        assert found('.out*') == ['.out-3.txt']
        assert found('sub/out-4.txt') == ['sub/out-4.txt']
        assert found('sub/[[]5[]]') == ['sub/[5]']
        assert found('nothing') == found('no*/x') == found('out-1.txt/*') == []


class TestLargeFiles:
    def test_there_and_back(self, place: Place, tmp_path: Path) -> None:
        data = os.urandom(3_000_000)
        source = tmp_path / 'source'
        source.write_bytes(data)
        source.chmod(0o750)
        told: list[tuple[int, int]] = []
        place.transport.put_file(source, place.path('-large file'), progress=lambda *seen: told.append(seen))
        assert (place.folder / '-large file').read_bytes() == data
        assert (place.folder / '-large file').stat().st_mode & 0o777 == 0o750
        assert (told[0], told[-1]) == ((0, len(data)), (len(data), len(data)))
        told.clear()
        place.transport.get_file(
            place.path('-large file'), tmp_path / 'back', progress=lambda *seen: told.append(seen)
        )
        assert (tmp_path / 'back').read_bytes() == data
        assert (tmp_path / 'back').stat().st_mode & 0o777 == 0o750
        assert told[-1] == (len(data), len(data))
        assert os.listdir(place.folder) == ['-large file']
        assert not [name for name in os.listdir(tmp_path) if name.startswith('.')]

    @pytest.mark.parametrize('size', [0, 1, 600_000])
    def test_sizes(self, place: Place, tmp_path: Path, size: int) -> None:
        (tmp_path / 'source').write_bytes(b'x' * size)
        place.transport.put_file(tmp_path / 'source', place.path('a'))
        place.transport.get_file(place.path('a'), tmp_path / 'back')
        assert (tmp_path / 'back').stat().st_size == size

    def test_too_large(self, place: Place, tmp_path: Path) -> None:
        (place.folder / 'a').write_bytes(b'x' * 1001)
        with pytest.raises(FileTooLarge, match='1001 bytes'):
            place.transport.get_file(place.path('a'), tmp_path / 'back', max_bytes=1000)
        assert not (tmp_path / 'back').exists()

    def test_folders_are_no_files(self, place: Place, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            place.transport.put_file(place.folder, place.path('a'))
        with pytest.raises(IsADirectoryError):
            place.transport.get_file(str(place.folder), tmp_path / 'back')

    def test_no_such_local_file(self, place: Place, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='nothing here'):
            place.transport.put_file(tmp_path / 'nothing here', place.path('a'))
        assert os.listdir(place.folder) == []


class TestTrees:
    def test_there_and_back(self, place: Place, tmp_path: Path) -> None:
        source = tmp_path / 'source'
        _fill(source)
        place.transport.put_tree(source, place.path('new/tree'))
        assert _seen(place.folder / 'new/tree') == _seen(source)
        place.transport.get_tree(place.path('new/tree'), tmp_path / 'back')
        assert _seen(tmp_path / 'back') == _seen(source)

    def test_twice(self, place: Place, tmp_path: Path) -> None:
        source = tmp_path / 'source'
        _fill(source)
        place.transport.put_tree(source, place.path('tree'))
        (source / 'plain').write_text('other')
        place.transport.put_tree(source, place.path('tree'))
        assert _seen(place.folder / 'tree') == _seen(source)
        for _ in range(2):
            place.transport.get_tree(place.path('tree'), tmp_path / 'back')
            assert _seen(tmp_path / 'back') == _seen(source)

    def test_empty(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / 'source').mkdir()
        place.transport.put_tree(tmp_path / 'source', place.path('tree'))
        place.transport.get_tree(place.path('tree'), tmp_path / 'back')
        assert os.listdir(tmp_path / 'back') == []

    def test_some_names(self, place: Place, tmp_path: Path) -> None:
        _fill(place.folder / 'tree')
        place.transport.get_tree(
            place.path('tree'), tmp_path / 'back', names=['-rf', 'sub/deep', 'new\nline']
        )
        assert sorted(os.listdir(tmp_path / 'back')) == ['-rf', 'new\nline', 'sub']
        assert os.listdir(tmp_path / 'back/sub') == ['deep']
        assert (tmp_path / 'back/sub/deep/file').read_text() == 'deep'

    def test_thousands_of_names(self, place: Place, tmp_path: Path) -> None:
        names = [f'{"name" * 20}-{number}' for number in range(1500)]
        (place.folder / 'tree').mkdir()
        for name in names:
            (place.folder / 'tree' / name).write_text(name)
        place.transport.get_tree(place.path('tree'), tmp_path / 'back', names=names)
        assert len(os.listdir(tmp_path / 'back')) == 1500

    def test_a_name_that_is_not_there(self, place: Place, tmp_path: Path) -> None:
        _fill(place.folder / 'tree')
        with pytest.raises(FileNotFoundError, match='nothing'):
            place.transport.get_tree(place.path('tree'), tmp_path / 'back', names=['plain', 'nothing'])

    def test_what_patterns_stand_for(self, place: Place, tmp_path: Path) -> None:
        names = ['plain', 'with space', "quo'te", '-dash', 'new\nline', '$(rm)', 'sub/deep file', 'ünï', '.hidden']
        for name in names:
            path = place.folder / 'tree' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (place.folder / 'tree/sub/link').symlink_to('../plain')
        (place.folder / 'tree/dangling').symlink_to('nowhere')
        patterns = ['*', 'missing*', './sub/*', '-dash', '.hid*', 'with space', 'sub/none', 'pl[a]?n', 'dangling']
        missing = place.transport.get_matching(place.path('tree'), tmp_path / 'back', patterns=patterns)
        assert missing == ['missing*', 'sub/none', 'dangling']
        back = {str(path.relative_to(tmp_path / 'back')): path for path in (tmp_path / 'back').rglob('*')}
        assert back.keys() == {*names, 'sub', 'sub/link'}
        assert all(back[name].read_text() == name for name in names)
        assert back['sub/link'].read_text() == 'plain' and not back['sub/link'].is_symlink()

    @pytest.mark.parametrize('count', [0, 1, 200, 201, 1500])
    def test_as_many_as_there_are(self, place: Place, tmp_path: Path, count: int) -> None:
        (place.folder / 'tree').mkdir()
        for number in range(count):
            (place.folder / 'tree' / f'{"name" * 20}-{number}').write_text(f'{number}')
        missing = place.transport.get_matching(place.path('tree'), tmp_path / 'back', patterns=['name*'])
        assert missing == ([] if count else ['name*'])
        back = [path.read_text() for path in (tmp_path / 'back').iterdir()] if count else []
        assert sorted(map(int, back)) == list(range(count))

    def test_patterns_that_make_no_sense(self, place: Place, tmp_path: Path) -> None:
        (place.folder / 'tree').mkdir()
        for pattern in ('../*', '/etc/*', '', 'a/../../b', 'a\0b'):
            with pytest.raises(ValueError, match='no path below the folder'):
                place.transport.get_matching(place.path('tree'), tmp_path / 'back', patterns=[pattern])
        with pytest.raises(FileNotFoundError, match='nowhere'):
            place.transport.get_matching(place.path('nowhere'), tmp_path / 'back', patterns=['*'])
        (place.folder / 'tree/large').write_bytes(b'x' * 5000)
        with pytest.raises(FileTooLarge):
            place.transport.get_matching(place.path('tree'), tmp_path / 'back', patterns=['*'], max_bytes=4000)

    def test_links(self, place: Place, tmp_path: Path) -> None:
        tree = place.folder / 'tree'
        (tree / 'sub/deep').mkdir(parents=True)
        (tree / 'file').write_text('hello')
        (tree / 'sub/deep/up').symlink_to('../../file')
        (tree / 'down').symlink_to('sub/deep')
        os.link(tree / 'file', tree / 'second')
        place.transport.get_tree(place.path('tree'), tmp_path / 'back')
        assert os.readlink(tmp_path / 'back/sub/deep/up') == '../../file'
        assert (tmp_path / 'back/down/up').read_text() == 'hello'
        assert (tmp_path / 'back/second').read_text() == 'hello'

    @pytest.mark.parametrize('target', ['{tmp}/outside', '..', '../x', 'sub/../../x', 'sub/..'])
    def test_links_that_lead_outside(self, place: Place, tmp_path: Path, target: str) -> None:
        tree = place.folder / 'tree'
        (tree / 'sub').mkdir(parents=True)
        (tree / 'link').symlink_to(target.format(tmp=tmp_path))
        with pytest.raises(UnsafeArchive, match=r"the link '.*link' leads to"):
            place.transport.get_tree(place.path('tree'), tmp_path / 'back')
        assert not (tmp_path / 'back/link').is_symlink()

    def test_links_followed(self, place: Place, tmp_path: Path) -> None:
        (place.folder / 'outside').mkdir()
        (place.folder / 'outside/file').write_text('hello')
        (place.folder / 'tree').mkdir()
        (place.folder / 'tree/link').symlink_to('../outside')
        place.transport.get_tree(place.path('tree'), tmp_path / 'back', follow_links=True)
        assert not (tmp_path / 'back/link').is_symlink()
        assert (tmp_path / 'back/link/file').read_text() == 'hello'

    def test_links_of_the_users_own_stay(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / 'source').mkdir()
        (tmp_path / 'source/link').symlink_to('/shared/pseudo')
        for _ in range(2):
            place.transport.put_tree(tmp_path / 'source', place.path('tree'))
            assert os.readlink(place.folder / 'tree/link') == '/shared/pseudo'

    def test_pipes(self, place: Place, tmp_path: Path) -> None:
        (place.folder / 'tree').mkdir()
        os.mkfifo(place.folder / 'tree/pipe')
        with pytest.raises(UnsafeArchive, match=r"'.*pipe' is a device"):
            place.transport.get_tree(place.path('tree'), tmp_path / 'back')
        with pytest.raises((ValueError, UnsafeArchive), match='pipe'):
            place.transport.put_tree(place.folder / 'tree', place.path('other'))

    def test_too_much(self, place: Place, tmp_path: Path) -> None:
        (place.folder / 'tree').mkdir()
        for number in range(5):
            (place.folder / f'tree/{number}').write_bytes(b'x' * 1000)
        with pytest.raises(FileTooLarge, match='more than the 4500 bytes'):
            place.transport.get_tree(place.path('tree'), tmp_path / 'back', max_bytes=4500)

    def test_no_such_local_folder(self, place: Place, tmp_path: Path) -> None:
        with pytest.raises(NotADirectoryError, match='nothing'):
            place.transport.put_tree(tmp_path / 'nothing', place.path('tree'))


def _all_at_once(function: Callable[[int], object], count: int) -> None:
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        function(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _fill(folder: Path) -> None:
    (folder / 'sub/deep').mkdir(parents=True)
    (folder / 'empty').mkdir()
    (folder / 'sub/deep/file').write_text('deep')
    for name in NAMES:
        (folder / name).write_text(name, errors='surrogateescape')
    (folder / 'program').write_text('#!/bin/sh')
    (folder / 'program').chmod(0o755)
    (folder / 'secret').write_text('')
    (folder / 'secret').chmod(0o600)


def _seen(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode & 0o777,
            int(path.stat().st_mtime) if path.is_file() else 0,
            path.read_bytes() if path.is_file() else b'',
        )
        for path in folder.rglob('*')
    }
