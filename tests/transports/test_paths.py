"""What is done with paths, tried on the text alone.

Nothing here touches a file system: a path that must never be removed is never given to something that could.
"""

from __future__ import annotations

import pytest

from treadle.engine.transports.paths import checked_names, refuse_top


@pytest.mark.parametrize(
    'path',
    [
        '',
        '/',
        '//',
        '.',
        './',
        '/.',
        '..',
        '../x',
        'a/..',
        'a/../..',
        '/a/../b',
        '/tmp/../etc',
        '/etc',
        '/etc/',
    ],
)
def test_never_removed(path: str) -> None:
    with pytest.raises(ValueError, match='is not removed'):
        refuse_top(path)


@pytest.mark.parametrize('path', ['a', './a', 'a/b', '/scratch/me', '/scratch/me/', '/a/./b'])
def test_may_be_removed(path: str) -> None:
    assert refuse_top(path) == path.rstrip('/')


@pytest.mark.parametrize('name', ['', '..', '/a', 'sub/../../x', 'a\0b'])
def test_names_that_are_not_below(name: str) -> None:
    with pytest.raises(ValueError, match='is no path below'):
        checked_names([name])


def test_names_below() -> None:
    assert checked_names(None) == ['.']
    assert checked_names(['a', './b', 'c/../d', '-rf']) == ['a', 'b', 'd', '-rf']
