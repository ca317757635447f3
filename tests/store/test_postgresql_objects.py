"""Large contents in tables: whole or not at all, once, and read without a connection of their own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.proxy import Proxy
from treadle.engine.errors import CorruptValue, StoreUnavailable
from treadle.engine.store.location import locate
from treadle.engine.store.postgresql.objects import CHUNK

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17]


@pytest.fixture
def objects(postgres_store: str) -> Iterator[Any]:
    with contextlib.closing(locate(postgres_store).objects(patience=30.0)) as objects:
        yield objects


def counts(url: str) -> tuple[int, int]:
    """How many objects and chunks there are."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            'SELECT (SELECT count(*) FROM treadle.object), (SELECT count(*) FROM treadle.chunk)'
        ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('form', ['bytes', 'file', 'pipe'])
def test_what_is_put_is_read(objects: Any, tmp_path: Path, size: int, form: str) -> None:
    data = os.urandom(size)
    (tmp_path / 'data').write_bytes(data)
    if form == 'bytes':
        sha256 = objects.put(data)
    elif form == 'file':
        with (tmp_path / 'data').open('rb') as stream:
            sha256 = objects.put(stream)
    else:
        with os.popen(f'cat {tmp_path}/data') as pipe:
            sha256 = objects.put(pipe.buffer)
    assert sha256 == hashlib.sha256(data).hexdigest() and objects.has(sha256)
    with objects.open(sha256) as stream:
        assert stream.read() == data
        assert stream.seek(size // 2) == size // 2
        assert stream.read(10) == data[size // 2 :][:10]
        assert stream.seek(0, io.SEEK_END) == size and stream.read() == b''


def test_a_stream_is_stored_from_where_it_stands(objects: Any) -> None:
    stream = io.BytesIO(b'headbody')
    stream.seek(4)
    with objects.open(objects.put(stream)) as found:
        assert found.read() == b'body'


def test_the_same_contents_are_kept_once(objects: Any, postgres_store: str) -> None:
    data = os.urandom(2 * CHUNK)
    assert objects.put(data) == objects.put(io.BytesIO(data)) == objects.put(data)
    assert counts(postgres_store) == (1, 2)


def test_threads_that_put_the_same_at_once_leave_one(objects: Any, postgres_store: str) -> None:
    data, together = os.urandom(2 * CHUNK), threading.Barrier(4)
    found: list[str] = []

    def put() -> None:
        together.wait(20)
        found.append(objects.put(io.BytesIO(data)))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert counts(postgres_store) == (1, 2)


def test_what_breaks_off_leaves_nothing(objects: Any, postgres_store: str) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= CHUNK:
                raise ZeroDivisionError
            return super().read(size)

    with pytest.raises(ZeroDivisionError):
        objects.put(Breaks(bytes(3 * CHUNK)))
    assert counts(postgres_store) == (0, 0)
    assert objects.has(objects.put(b'the connection is good'))


def test_what_is_missing_is_named(objects: Any, postgres_store: str) -> None:
    absent = hashlib.sha256(b'never stored').hexdigest()
    assert not objects.has(absent)
    with pytest.raises(CorruptValue, match=absent):
        objects.open(absent)
    with pytest.raises(CorruptValue, match='no sha256'):
        objects.has('../../somewhere')
    sha256 = objects.put(bytes(2 * CHUNK))
    with psycopg.connect(postgres_store) as connection:
        connection.execute('DELETE FROM treadle.chunk WHERE number = 1')
    with objects.open(sha256) as stream, pytest.raises(CorruptValue, match=r'chunk 1 of object .* is missing'):
        stream.read()


@pytest.mark.parametrize('word', [b'COMMIT', b'INSERT INTO chunk'])
def test_an_answer_that_is_lost_is_no_loss(postgres_store: str, word: bytes) -> None:
    data = os.urandom(3 * CHUNK)
    with (
        Proxy.of(postgres_store) as proxy,
        contextlib.closing(locate(proxy.through(postgres_store)).objects(patience=30.0)) as objects,
    ):
        assert not objects.has(hashlib.sha256(data).hexdigest())  # which opens the connection
        lost = proxy.lose_reply(word)
        sha256 = objects.put(io.BytesIO(data))
        assert lost.is_set()
        with objects.open(sha256) as stream:
            assert stream.read() == data
    assert counts(postgres_store) == (1, 3)


def test_a_stream_that_cannot_be_read_twice_says_so(postgres_store: str, tmp_path: Path) -> None:
    (tmp_path / 'data').write_bytes(bytes(2 * CHUNK))
    with (
        Proxy.of(postgres_store) as proxy,
        contextlib.closing(locate(proxy.through(postgres_store)).objects(patience=30.0)) as objects,
        os.popen(f'cat {tmp_path}/data') as pipe,
    ):
        proxy.lose_reply(b'INSERT INTO chunk')
        with pytest.raises(StoreUnavailable, match='cannot be read twice'):
            objects.put(pipe.buffer)
    assert counts(postgres_store) == (0, 0)
