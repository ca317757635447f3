"""Jobs on computers: trivial ones by the second, and copies, here and over ssh; ``./tools/bench jobs``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
from report import Row, show

from treadle.engine import Computer, Engine, File, ShellJob
from treadle.engine.transports import ConnectionAuthority, Transport

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from provision import Sshd  # noqa: E402  (beside this folder)

#: Trivial jobs a second over ssh on one connection.
GOAL = 45.0
#: Seconds between two looks of the bare loop at whether its jobs have ended, and between two polls of Treadle's.
LOOK = 0.5
SMALL_FILE = 1024


def main() -> None:
    """Start an ssh server, measure, check what was done, and print."""
    parser = argparse.ArgumentParser(description='Jobs and copies, on this machine and over ssh')
    parser.add_argument('--json', action='store_true', help='for machines')
    parser.add_argument('--jobs', type=int, default=300, help='trivial jobs at once (default 300)')
    parser.add_argument('--rounds', type=int, default=3, help='the best of so many rounds (default 3)')
    parser.add_argument('--files', type=int, default=2000, help='small files to copy (default 2000)')
    parser.add_argument('--megabytes', type=int, default=500, help='of the large file (default 500)')
    parser.add_argument('--only', choices=('jobs', 'copies'), help='the one or the other')
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix='treadle-bench-') as name:
        folder = Path(name)
        with Sshd(folder / 'sshd') as sshd:
            if options.only != 'copies':
                for transport in ('local', 'ssh'):
                    rows += Rates(transport, sshd, folder / transport, options.jobs, options.rounds).measure()
            if options.only != 'jobs':
                rows += Copies(sshd, folder / 'copies', options.files, options.megabytes).measure()
    show(rows, as_json=options.json)


# -- trivial jobs --------------------------------------------------------------------------------------------


class Rates:
    """Trivial jobs a second: an input file is brought there, ``cat`` runs as a process, its output is fetched.

    :param transport: ``local`` or ``ssh``; the scheduler is ``direct``.
    """

    def __init__(self, transport: str, sshd: Sshd, folder: Path, jobs: int, rounds: int) -> None:
        folder.mkdir()
        self._transport = transport
        self._sshd = sshd
        self._folder = folder
        self._jobs = jobs
        # One by one takes longer, and as long for each, however many there are.
        self._bare_jobs = max(1, jobs // 10)
        self._rounds = rounds

    def measure(self) -> list[Row]:
        """Treadle beside a loop that does the least, in turn."""
        treadle, bare = [], []
        with self._engine() as (engine, computer), self._commands() as commands:
            asyncio.run(_run_many(engine, computer, range(20)))
            logins = self._sshd.accepted_logins()
            for turn in range(self._rounds):
                began = time.perf_counter()
                asyncio.run(_run_many(engine, computer, range(self._jobs)))
                treadle.append(self._jobs / (time.perf_counter() - began))
                began = time.perf_counter()
                _run_bare(commands, self._folder / f'bare-{turn}', self._bare_jobs)
                bare.append(self._bare_jobs / (time.perf_counter() - began))
            if self._sshd.accepted_logins() != logins:
                raise SystemExit('an engine has logged in more than once')
        where = 'over ssh' if self._transport == 'ssh' else 'on this machine'
        rows = [Row(f'trivial jobs {where}', '/s', max(treadle), max(bare), 'a bare loop, one by one', None)]
        if self._transport == 'ssh':
            rows.append(Row('  on one connection', '/s', max(treadle), GOAL, 'the fixed goal', 1.0))
        return rows

    @contextlib.contextmanager
    def _engine(self) -> Iterator[tuple[Engine, Computer]]:
        computer = Computer(
            self._transport,
            transport=self._transport,
            hostname='treadle' if self._transport == 'ssh' else None,
            ssh_config=str(self._sshd.config_file) if self._transport == 'ssh' else None,
            work_directory=str(self._folder / 'work'),
            poll_interval=LOOK,
        )
        with Engine(f'sqlite:///{self._folder}/store.db') as engine:
            yield engine, computer

    @contextlib.contextmanager
    def _commands(self) -> Iterator[Commands]:
        if self._transport == 'local':
            yield Commands(_run_here, _write_here, lambda path: Path(path).read_bytes())
            return
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(self._sshd.known_hosts))
            client.connect(
                self._sshd.host, self._sshd.port, self._sshd.user, key_filename=str(self._sshd.key_file),
                allow_agent=False, look_for_keys=False,
            )  # fmt: skip
            with client.open_sftp() as sftp:
                yield _commands_of(client, sftp)


@dataclasses.dataclass(frozen=True)
class Commands:
    """The least that running jobs takes."""

    run: Callable[[str], bytes]
    write: Callable[[str, bytes], None]
    read: Callable[[str], bytes]


def _run_here(command: str) -> bytes:
    return subprocess.run(['/bin/sh', '-c', command], check=True, stdout=subprocess.PIPE).stdout


def _write_here(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def _commands_of(client: paramiko.SSHClient, sftp: paramiko.SFTPClient) -> Commands:
    def run(command: str) -> bytes:
        _, stdout, _ = client.exec_command(command)
        data = stdout.read()
        if stdout.channel.recv_exit_status() != 0:
            raise SystemExit(f'{command!r} failed')
        return data

    def write(path: str, data: bytes) -> None:
        with sftp.open(path, 'wb') as file:
            file.set_pipelined(True)
            file.write(data)

    def read(path: str) -> bytes:
        with sftp.open(path, 'rb') as file:
            return file.read()

    return Commands(run, write, read)


def _run_bare(commands: Commands, base: Path, jobs: int) -> None:
    """What Treadle does for each job as one would do it by hand: nothing is kept, nothing is promised, nothing heeded.

    A folder, the files, a start, a look at the processes, a look for the results, and a copy of each.
    """
    for number in range(jobs):
        folder = f'{base}/{number}'
        script = f'#!/bin/sh\ncd {folder}\n. ./commands.sh\necho $? >ended\n'
        commands.run(f'mkdir -p {folder}')
        commands.write(f'{folder}/job.sh', script.encode())
        commands.write(f'{folder}/commands.sh', b'cat number >stdout 2>stderr\n')
        commands.write(f'{folder}/number', str(number).encode())
        commands.run(f'setsid /bin/bash {folder}/job.sh >/dev/null 2>&1 </dev/null & echo $!')
    for number in range(jobs):
        folder = f'{base}/{number}'
        while not commands.run(f'cat {folder}/ended 2>/dev/null || true'):
            time.sleep(LOOK)
        names = commands.run(f'ls {folder}').decode().split()
        outputs = {name: commands.read(f'{folder}/{name}') for name in names if name.startswith('std')}
        if outputs != {'stdout': str(number).encode(), 'stderr': b''}:
            raise SystemExit(f'a bare job has left {outputs}')


async def _run_many(engine: Engine, computer: Computer, numbers: range) -> None:
    outputs = await asyncio.gather(
        *(
            engine.run_async(
                ShellJob,
                command='cat',
                arguments=['number'],
                files={'number': File(str(number).encode(), name='number')},
                metadata={'options': {'computer': computer}},
            )
            for number in numbers
        )
    )
    for number, found in zip(numbers, outputs, strict=True):
        if found['stdout'].read_text() != str(number):
            raise SystemExit(f'job {number} has left {found}')


# -- copies --------------------------------------------------------------------------------------------------


class Copies:
    """Copies each way over ssh, beside OpenSSH's own programs."""

    def __init__(self, sshd: Sshd, folder: Path, files: int, megabytes: int) -> None:
        self._sshd = sshd
        self._folder = folder
        self._files = files
        self._megabytes = megabytes
        self._number = 0

    def measure(self) -> list[Row]:
        """Many small files, and a large one."""
        small, large = self._folder / 'small', self._folder / 'large' / 'file'
        small.mkdir(parents=True)
        for number in range(self._files):
            (small / f'{number:05d}').write_bytes(os.urandom(SMALL_FILE))
        large.parent.mkdir()
        with open(large, 'wb') as file:
            for _ in range(self._megabytes):
                file.write(os.urandom(1024 * 1024))
        spec = Computer('there', transport='ssh', hostname='treadle', ssh_config=str(self._sshd.config_file))
        with ConnectionAuthority() as connections:
            lease = connections.lease(spec.connection).result(60)
            rows = [*self._many(lease.blocking, small), *self._one(lease.blocking, large)]
            lease.release()
        return rows

    def _many(self, transport: Transport, small: Path) -> list[Row]:
        name, count = f'{self._files} small files', self._files
        there = {
            'Treadle': lambda target: transport.put_tree(small, str(target)),
            'scp -r': lambda target: self._scp('-r', str(small), f'treadle:{target}'),
            'sftp': lambda target: self._sftp(f'mkdir {target}\nput -r {small}/. {target}\n'),
        }
        back = {
            'Treadle': lambda target: transport.get_tree(str(small), target),
            'scp -r': lambda target: self._scp('-r', f'treadle:{small}', str(target)),
            'sftp': lambda target: self._sftp(f'get -r {small} {target}\n'),
        }
        return [
            *self._rows(f'{name} there', 'files/s', count, there, small),
            *self._rows(f'{name} back', 'files/s', count, back, small),
        ]

    def _one(self, transport: Transport, large: Path) -> list[Row]:
        name, count = f'one file of {self._megabytes} MB', self._megabytes
        there = {
            'Treadle': lambda target: transport.put_file(large, str(target)),
            'scp': lambda target: self._scp(str(large), f'treadle:{target}'),
            'sftp': lambda target: self._sftp(f'put {large} {target}\n'),
        }
        back = {
            'Treadle': lambda target: transport.get_file(str(large), target),
            'scp': lambda target: self._scp(f'treadle:{large}', str(target)),
            'sftp': lambda target: self._sftp(f'get {large} {target}\n'),
        }
        return [
            *self._rows(f'{name} there', 'MB/s', count, there, large),
            *self._rows(f'{name} back', 'MB/s', count, back, large),
        ]

    def _rows(
        self, name: str, unit: str, count: int, ways: dict[str, Callable[[Path], object]], source: Path
    ) -> list[Row]:
        rates = {}
        for way, copy in ways.items():
            self._number += 1
            target = self._folder / f'copy-{self._number}'
            began = time.perf_counter()
            copy(target)
            rates[way] = count / (time.perf_counter() - began)
            subprocess.run(['diff', '-rq', str(source), str(target)], check=True)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        treadle = rates.pop('Treadle')
        return [Row(f'{name}, beside {way}', unit, treadle, rate, way, 0.5) for way, rate in rates.items()]

    def _scp(self, *arguments: str) -> None:
        subprocess.run(['scp', '-q', '-F', str(self._sshd.config_file), *arguments], check=True)

    def _sftp(self, batch: str) -> None:
        command = ['sftp', '-q', '-b', '-', '-F', str(self._sshd.config_file), 'treadle']
        subprocess.run(command, check=True, input=batch, text=True, stdout=subprocess.DEVNULL)


if __name__ == '__main__':
    main()
