"""What is ssh's alone: the way there, keys on both sides, login shells, sessions, and copies that were cut off."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transports.rig import spec_of

from treadle.engine.errors import (
    AuthenticationFailed,
    ComputerUnreachable,
    ConfigurationError,
    ConnectionLost,
    HostKeyError,
    TransportClosed,
)
from treadle.engine.transports import ConnectionSpec
from treadle.engine.transports.ssh import SshTransport
from treadle.threads import Forked, StepThreads


@pytest.fixture
def connect(threads: StepThreads) -> Iterator[Callable[[ConnectionSpec], SshTransport]]:
    """Opens transports, and closes them after the test."""
    made: list[SshTransport] = []

    def open_(spec: ConnectionSpec) -> SshTransport:
        made.append(SshTransport(spec, threads=threads))
        return made[-1]

    yield open_
    for transport in made:
        transport.close()


Connect = Callable[[ConnectionSpec], SshTransport]


def configured(path: Path, sshd: Any, text: str = '', **options: object) -> str:
    """An ssh configuration with the server as the host ``treadle``, some options of it changed."""
    fields = {
        'HostName': sshd.host,
        'Port': sshd.port,
        'User': sshd.user,
        'IdentityFile': sshd.key_file,
        'IdentitiesOnly': 'yes',
        'UserKnownHostsFile': sshd.known_hosts,
        'GlobalKnownHostsFile': 'none',
        **options,
    }
    lines = ''.join(f'    {name} {value}\n' for name, value in fields.items() if value is not None)
    path.write_text(f'{text}\nHost treadle\n{lines}')
    return str(path)


class TestHostKeys:
    def test_unknown(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        (tmp_path / 'known').write_text('')
        spec = spec_of(sshd, known_hosts=str(tmp_path / 'known'))
        with pytest.raises(HostKeyError, match='is not known') as caught:
            connect(spec)
        assert not caught.value.transient
        # What it says to do is what has to be done.
        command = str(caught.value).rpartition('add it: ')[2]
        assert str(tmp_path / 'known') in command
        subprocess.run(['sh', '-c', command], check=True)
        assert connect(spec).run(['echo', 'hello']).stdout == b'hello\n'

    def test_changed(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', tmp_path / 'other'], check=True)
        kind, key, *_ = (tmp_path / 'other.pub').read_text().split()
        (tmp_path / 'known').write_text(f'[{sshd.host}]:{sshd.port} {kind} {key}\n')
        before = sshd.accepted_logins()
        with pytest.raises(HostKeyError, match=r'HAS CHANGED.*ssh-keygen'):
            connect(spec_of(sshd, known_hosts=str(tmp_path / 'known')))
        assert sshd.accepted_logins() == before

    def test_revoked(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        known = sshd.known_hosts.read_text()
        (tmp_path / 'known').write_text(f'{known}@revoked {known}')
        with pytest.raises(HostKeyError, match='revoked'):
            connect(spec_of(sshd, known_hosts=str(tmp_path / 'known')))


class TestKeys:
    def test_a_wrong_one(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', tmp_path / 'other'], check=True)
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, IdentityFile=tmp_path / 'other'))
        with pytest.raises(AuthenticationFailed, match=r'Tried: the key .*other \(refused\)') as caught:
            connect(spec)
        assert not caught.value.transient

    def test_none_and_no_question(
        self, sshd: Any, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv('SSH_AUTH_SOCK', raising=False)
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, IdentityFile=tmp_path / 'none'))
        with pytest.raises(AuthenticationFailed, match='there is no key'):
            connect(spec)

    def test_what_is_no_key(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        (tmp_path / 'text').write_text('hello')
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, IdentityFile=tmp_path / 'text'))
        with pytest.raises(AuthenticationFailed, match=r'text \(cannot be read'):
            connect(spec)

    def test_a_passphrase_and_the_agent(
        self, sshd: Any, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = tmp_path / 'locked'
        key.write_bytes(sshd.key_file.read_bytes())
        key.chmod(0o600)
        key.with_suffix('.pub').write_bytes(sshd.key_file.with_suffix('.pub').read_bytes())
        subprocess.run(['ssh-keygen', '-q', '-p', '-N', 'secret', '-f', key], check=True, capture_output=True)
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, IdentityFile=key))
        monkeypatch.delenv('SSH_AUTH_SOCK', raising=False)
        with pytest.raises(AuthenticationFailed, match=r'passphrase.*ssh-add') as caught:
            connect(spec)
        assert 'secret' not in str(caught.value)
        path = tmp_path / 'agent'
        with subprocess.Popen(['ssh-agent', '-D', '-a', path], stdout=subprocess.DEVNULL) as agent:
            try:
                _wait_for(path.exists)
                monkeypatch.setenv('SSH_AUTH_SOCK', str(path))
                subprocess.run(['ssh-add', '-q', sshd.key_file], check=True, capture_output=True)
                assert connect(spec).run(['echo', 'hello']).stdout == b'hello\n'
            finally:
                agent.terminate()


class TestTheWay:
    def test_nobody_there(self, connect: Connect, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            port = taken.getsockname()[1]
            with pytest.raises(
                ComputerUnreachable, match=rf'127\.0\.0\.1:{port} cannot be reached: .*refused'
            ):
                connect(ConnectionSpec(name='x', transport='ssh', hostname='127.0.0.1', port=port))

    def test_no_such_name(self, connect: Connect) -> None:
        with pytest.raises(ComputerUnreachable, match=r"no address for 'nowhere\.invalid'"):
            connect(ConnectionSpec(name='x', transport='ssh', hostname='nowhere.invalid'))

    def test_somebody_who_says_nothing(self, connect: Connect) -> None:
        with socket.create_server(('127.0.0.1', 0)) as server:
            port = server.getsockname()[1]
            begun = time.monotonic()
            with pytest.raises(ComputerUnreachable):
                connect(
                    ConnectionSpec(
                        name='x', transport='ssh', hostname='127.0.0.1', port=port, connect_timeout=1.0
                    )
                )
            assert time.monotonic() - begun < 10

    @pytest.mark.parametrize('hops', ['first', 'first,second'])
    def test_jumps(self, sshd: Any, connect: Connect, tmp_path: Path, hops: str) -> None:
        own = configured(tmp_path / 'plain', sshd)
        jumps = ''.join(Path(own).read_text().replace('treadle', hop) for hop in ('first', 'second'))
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, jumps, ProxyJump=hops))
        before = sshd.accepted_logins()
        transport = connect(spec)
        assert transport.run(['echo', 'hello']).stdout == b'hello\n'
        assert sshd.accepted_logins() - before == len(hops.split(',')) + 1

    def test_a_circle(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, ProxyJump='treadle'))
        with pytest.raises(ConfigurationError, match='circle'):
            connect(spec)

    def test_a_command(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        script = tmp_path / 'way.py'
        script.write_text(
            'import os, socket, sys, threading\n'
            's = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n'
            'def out():\n'
            '    while data := s.recv(65536): os.write(1, data)\n'
            '    os._exit(0)\n'
            'threading.Thread(target=out).start()\n'
            'while data := os.read(0, 65536): s.sendall(data)\n'
            'os._exit(0)\n'
        )
        command = f'{shlex.quote(os.sys.executable)} {shlex.quote(str(script))} %h %p'  # type: ignore[attr-defined]
        transport = connect(spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, ProxyCommand=command)))
        assert transport.run(['echo', 'hello']).stdout == b'hello\n'

    def test_a_command_that_ends(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        spec = spec_of(sshd, ssh_config=configured(tmp_path / 'c', sshd, ProxyCommand='exit 3'))
        begun = time.monotonic()
        with pytest.raises(ComputerUnreachable):
            connect(spec)
        assert time.monotonic() - begun < 10

    def test_a_configuration_that_is_not_there(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match='no ssh configuration'):
            connect(spec_of(sshd, ssh_config=str(tmp_path / 'none')))

    def test_what_configurations_say(self, sshd: Any, connect: Connect, tmp_path: Path) -> None:
        (tmp_path / 'c').write_text('Host treadle\n    Port many\n')
        with pytest.raises(ConfigurationError, match='Host treadle'):
            connect(spec_of(sshd, ssh_config=str(tmp_path / 'c')))


class TestLoginShells:
    @pytest.fixture
    def noisy(self, make_sshd: Callable[..., Any], tmp_path: Path) -> Any:
        """A server on which every shell prints a greeting before it does what it is asked for."""
        script = tmp_path / 'noisy'
        script.write_text(
            '#!/bin/sh\necho "Welcome to the cluster"; printf "no end of line"; echo "be warned" >&2\n'
            'eval "$SSH_ORIGINAL_COMMAND"\n'
        )
        script.chmod(0o755)
        return make_sshd(
            settings={'ForceCommand': str(script), 'Subsystem': 'sftp /usr/lib/openssh/sftp-server'}
        )

    def test_a_greeting_is_no_result(self, noisy: Any, connect: Connect, tmp_path: Path) -> None:
        transport = connect(spec_of(noisy))
        result = transport.run(['sh', '-c', 'echo out; echo err >&2'])
        assert (result.stdout, result.stderr) == (b'out\n', b'err\n')
        folder = tmp_path / 'there'
        folder.mkdir()
        transport.write_bytes(f'{folder}/a', b'hello')
        assert transport.read_bytes(f'{folder}/a') == b'hello'
        transport.get_tree(str(folder), tmp_path / 'back')
        assert (tmp_path / 'back/a').read_bytes() == b'hello'
        data = os.urandom(2_000_000)
        (folder / 'large').write_bytes(data)
        transport.get_file(f'{folder}/large', tmp_path / 'large')
        assert (tmp_path / 'large').read_bytes() == data

    def test_a_shell_that_runs_nothing(
        self, make_sshd: Callable[..., Any], connect: Connect, tmp_path: Path
    ) -> None:
        from treadle.engine.errors import TransportUnusable

        script = tmp_path / 'nologin'
        script.write_text(
            '#!/bin/sh\n[ "$SSH_ORIGINAL_COMMAND" = true ] && exit\necho not available; exit 1\n'
        )
        script.chmod(0o755)
        transport = connect(spec_of(make_sshd(settings={'ForceCommand': str(script)})))
        with pytest.raises(TransportUnusable, match=r'runs no commands.*not available'):
            transport.run(['echo', 'hello'])


class Cutter:
    """A way to a server that is cut after so many bytes from here, or from there."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server = socket.create_server(('127.0.0.1', 0))
        self.port = self._server.getsockname()[1]
        self.limit: int | None = None
        self._moved = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            there = socket.create_connection(self._target)
            self._sockets += [here, there]
            for source, target in ((here, there), (there, here)):
                thread = threading.Thread(target=self._move, args=(source, target))
                self._threads.append(thread)
                thread.start()

    def _move(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
                self._moved += len(data)
                if self.limit is not None and self._moved > self.limit:
                    self.limit = None
                    break
        except OSError:
            pass
        _shut(source, target)

    def cut(self) -> None:
        """Cut all connections."""
        _shut(*self._sockets)

    def cut_after(self, size: int) -> None:
        """Cut the connection that carries so many bytes more."""
        self._moved, self.limit = 0, size

    def close(self) -> None:
        """Let nobody through any more."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster


class TestCutOff:
    @pytest.fixture
    def cutter(self, sshd: Any) -> Iterator[Cutter]:
        """A way to the server that can be cut."""
        cutter = Cutter(sshd.host, sshd.port)
        yield cutter
        cutter.close()

    @pytest.fixture
    def spec(self, sshd: Any, cutter: Cutter, tmp_path: Path) -> ConnectionSpec:
        """How to take that way."""
        alias = f'[{sshd.host}]:{sshd.port}'
        (tmp_path / 'known').write_text(
            sshd.known_hosts.read_text().replace(alias, f'[127.0.0.1]:{cutter.port}')
        )
        config = configured(tmp_path / 'c', sshd, Port=cutter.port, UserKnownHostsFile=tmp_path / 'known')
        return spec_of(sshd, ssh_config=config)

    def test_sending_is_resumed(
        self, spec: ConnectionSpec, cutter: Cutter, connect: Connect, tmp_path: Path
    ) -> None:
        source, target = tmp_path / 'source', tmp_path / 'target'
        source.write_bytes(os.urandom(20_000_000))
        transport = connect(spec)
        cutter.cut_after(12_000_000)
        with pytest.raises(ConnectionLost):
            transport.put_file(source, str(target))
        assert not target.exists()
        begun: list[int] = []
        connect(spec).put_file(source, str(target), progress=lambda done, total: begun.append(done))
        assert begun[0] > 4_000_000
        assert _digest(target) == _digest(source)
        assert not [name for name in os.listdir(tmp_path) if name.startswith('.')]

    def test_fetching_is_resumed(
        self, spec: ConnectionSpec, cutter: Cutter, connect: Connect, tmp_path: Path
    ) -> None:
        source, target = tmp_path / 'source', tmp_path / 'target'
        source.write_bytes(os.urandom(20_000_000))
        transport = connect(spec)
        cutter.cut_after(12_000_000)
        with pytest.raises(ConnectionLost):
            transport.get_file(str(source), target)
        assert not target.exists()
        begun: list[int] = []
        connect(spec).get_file(str(source), target, progress=lambda done, total: begun.append(done))
        assert begun[0] > 4_000_000
        assert _digest(target) == _digest(source)
        assert not [name for name in os.listdir(tmp_path) if name.startswith('.')]

    @pytest.mark.parametrize('way', ['put', 'get'])
    def test_what_is_left_of_another_file_is_not_used(
        self, sshd: Any, connect: Connect, tmp_path: Path, way: str
    ) -> None:
        source, target = tmp_path / 'source', tmp_path / 'target'
        source.write_bytes(os.urandom(2_000_000))
        transport = connect(spec_of(sshd))
        for left in (
            os.urandom(1_000_000),
            bytearray(source.read_bytes()[:1_500_000]),
            os.urandom(3_000_000),
        ):
            if isinstance(left, bytearray):
                left[5] ^= 1  # its end is right, and its beginning is not
            (tmp_path / '.target.treadle-part').write_bytes(left)
            if way == 'put':
                transport.put_file(source, str(target))
            else:
                transport.get_file(str(source), target)
            assert _digest(target) == _digest(source)
            target.unlink()

    def test_a_command(self, spec: ConnectionSpec, cutter: Cutter, connect: Connect, tmp_path: Path) -> None:
        transport = connect(spec)
        errors: list[BaseException] = []

        def run() -> None:
            try:
                transport.run(['sh', '-c', f'touch {tmp_path}/begun; sleep 5'])
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        _wait_for((tmp_path / 'begun').exists)
        cutter.cut()
        thread.join(20)
        assert [type(error) for error in errors] == [ConnectionLost]
        assert not transport.is_alive()

    def test_trees(self, spec: ConnectionSpec, cutter: Cutter, connect: Connect, tmp_path: Path) -> None:
        (tmp_path / 'tree').mkdir()
        for number in range(30):
            (tmp_path / f'tree/{number}').write_bytes(os.urandom(300_000))
        for way in ('put', 'get'):
            transport = connect(spec)
            cutter.cut_after(3_000_000)
            with pytest.raises(ConnectionLost):
                if way == 'put':
                    transport.put_tree(tmp_path / 'tree', str(tmp_path / 'there'))
                else:
                    transport.get_tree(str(tmp_path / 'tree'), tmp_path / 'here')
        connect(spec).get_tree(str(tmp_path / 'tree'), tmp_path / 'here')
        assert len(os.listdir(tmp_path / 'here')) == 30


def test_closing_with_a_transfer_in_flight(sshd: Any, connect: Connect, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'endless')
    transport = connect(spec_of(sshd))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            transport.run(['cat', str(tmp_path / 'endless')])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    _wait_for(lambda: transport.sessions.running == 1)
    begun = time.monotonic()
    transport.close()
    thread.join(10)
    assert time.monotonic() - begun < 8
    assert [type(error) for error in errors] == [TransportClosed]


def test_a_forked_child_leaves_the_connection_alone(sshd: Any, connect: Connect) -> None:
    transport = connect(spec_of(sshd))
    assert transport.account().home
    pid = os.fork()
    if not pid:
        try:
            transport.run(['echo', 'hello'])
        except Forked:
            del transport
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert transport.run(['echo', 'hello']).stdout == b'hello\n'


def test_no_temporary_file_is_left_when_a_name_is_taken(sshd: Any, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    with pytest.raises(IsADirectoryError, match='folder'):
        connect(spec_of(sshd)).write_bytes(str(tmp_path / 'folder'), b'x')
    assert os.listdir(tmp_path) == ['folder']


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
