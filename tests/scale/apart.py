"""A program that submits 50 MB, and the process that a worker which shares no disk with it makes of them."""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any

from treadle.engine import Engine, File, Process

SIZE = 50_000_000


class Digest(Process):
    """The digests of a file and of bytes, and the file's end."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('file', valid_type=File)
        spec.input('content', valid_type=bytes)
        spec.output('file', valid_type=str)
        spec.output('content', valid_type=str)
        spec.output('end', valid_type=File)

    def run(self) -> None:
        with self.inputs.file.open() as stream:
            data = stream.read()
        self.out('file', hashlib.sha256(data).hexdigest())
        self.out('content', hashlib.sha256(self.inputs.content).hexdigest())
        self.out('end', File(data[-10_000_000:], name='end'))


def main() -> None:
    """Write a file, submit it and other bytes, and print the pid and both digests."""
    url, path = sys.argv[1:]
    file, content = (random.Random(seed).randbytes(SIZE // 2) for seed in (1, 2))
    with open(path, 'wb') as stream:
        stream.write(file)
    with Engine(url) as engine:
        engine.core.begin_no_step()
        pid = engine.submit(Digest, file=File(path), content=content).pid
    print(pid, hashlib.sha256(file).hexdigest(), hashlib.sha256(content).hexdigest())


if __name__ == '__main__':
    sys.modules['apart'] = sys.modules['__main__']
    Digest.__module__ = 'apart'  # the worker imports it
    main()
