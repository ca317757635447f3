"""Opening an ssh connection: the way there, the host's key, and ours. Nobody is ever asked for a password."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
from paramiko.pkey import UnknownKeyType

from ..deadlines import remaining
from ..errors import (
    AuthenticationFailed,
    ComputerUnreachable,
    ConfigurationError,
    HostKeyError,
    TransportError,
)
from .connection_spec import ConnectionSpec
from .ssh_host import SshHost, hop_of, look_up

__all__ = ['SshConnection', 'open_ssh']

LOGGER = logging.getLogger(__name__)

# What was registered last is called first: paramiko would end all connections before an engine that stops at the
# interpreter's exit has cancelled jobs over them. Its threads are daemons, and whoever opened connections closes them.
atexit.unregister(paramiko.transport._join_lingering_threads)  # type: ignore[attr-defined]

#: Bytes that a computer may send on one channel before we have taken them: a file on its way should never have to wait.
WINDOW = 16 * 1024 * 1024
#: Hosts to go through at most; more is a circle.
MAX_HOPS = 8
#: Seconds without anything to send after which something is, so that nobody on the way forgets the connection.
KEEPALIVE = 15


class SshConnection:
    """An open connection, with the connections and programs that lead to it.

    :ivar host: what it was opened to.
    :ivar client: paramiko's side of it.
    """

    def __init__(self, host: SshHost, way: Way) -> None:
        self.host = host
        self.client = way.clients[-1]
        self._way = way

    def close(self) -> None:
        """Close it, and then the way there."""
        self._way.stack.close()

    def forget(self) -> None:
        """In a forked child: let go of it without a word to the other side."""
        # Else its channels would say goodbye when they are collected, over a connection that is the parent's.
        for client in self._way.clients:
            client.active = False  # type: ignore[attr-defined]
        for sock in self._way.sockets:
            sock.close()


class Way:
    """What was opened so far: sockets, programs, and the connections over them, the last of which is the wanted one."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.sockets: list[socket.socket] = []
        self.clients: list[paramiko.Transport] = []


def open_ssh(spec: ConnectionSpec, host: SshHost) -> SshConnection:
    """Open a connection; takes ``host.connect_timeout`` seconds at most, and resolving the name.

    :raises ComputerUnreachable: there is no way to it, or nobody answers in time.
    :raises HostKeyError: it is not the one that it should be, or not known.
    :raises AuthenticationFailed: it does not let us in.
    :raises ConfigurationError: the ssh configuration makes no sense.
    """
    deadline = time.monotonic() + host.connect_timeout
    way = Way(contextlib.ExitStack())
    try:
        _log_in(host, _way_to(spec, host, way, deadline, hops=0), way, deadline)
    except BaseException:
        way.stack.close()
        raise
    return SshConnection(host, way)


# -- the way there -------------------------------------------------------------------------------------------


def _way_to(
    spec: ConnectionSpec, host: SshHost, way: Way, deadline: float, hops: int
) -> socket.socket | paramiko.Channel:
    if hops > MAX_HOPS:
        raise ConfigurationError(
            f'computer {spec.name!r}: ProxyJump leads through more than {MAX_HOPS} hosts, perhaps in a circle; '
            f'see `ssh -G {host.alias}`'
        )
    if host.jumps:
        return _by_jumps(spec, host, way, deadline, hops)
    if host.command is not None:
        return _by_command(host, host.command, way)
    with _unreachable(host):
        sock = socket.create_connection((host.host, host.port), timeout=remaining(deadline))
        way.stack.callback(sock.close)
        way.sockets.append(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def _by_jumps(spec: ConnectionSpec, host: SshHost, way: Way, deadline: float, hops: int) -> paramiko.Channel:
    """Open a connection to each host on the way, each through the one before."""
    client: paramiko.Transport | None = None
    for hop in host.jumps:
        there = look_up(hop_of(spec, hop))
        if client is None:
            sock = _way_to(hop_of(spec, hop), there, way, deadline, hops + 1)
        else:
            sock = _through(client, there, deadline)
        client = _log_in(there, sock, way, deadline)
    assert client is not None
    return _through(client, host, deadline)


def _through(client: paramiko.Transport, host: SshHost, deadline: float) -> paramiko.Channel:
    with _unreachable(host):
        return client.open_channel(
            'direct-tcpip',
            (host.host, host.port),
            ('127.0.0.1', 0),
            window_size=WINDOW,
            timeout=remaining(deadline),
        )


def _by_command(host: SshHost, command: str, way: Way) -> socket.socket:
    """Start the program that is the way, at the other end of a pair of sockets: its end is seen as theirs."""
    ours, theirs = socket.socketpair()
    way.stack.callback(ours.close)
    way.sockets.append(ours)
    with theirs:
        process = subprocess.Popen(
            ['/bin/sh', '-c', f'exec {command}'],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,
        )
    way.stack.callback(_end, process)
    return ours


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _unreachable(host: SshHost) -> Iterator[None]:
    """Say of what goes wrong on the way that the computer cannot be reached, and what to look at."""
    try:
        yield
    except TransportError:
        raise
    except socket.gaierror as error:
        raise ComputerUnreachable(
            f'{host.where} cannot be reached: no address for {host.host!r} ({error.strerror}); is the name right, '
            f'and is there a network?'
        ) from error
    except TimeoutError as error:
        raise ComputerUnreachable(
            f'{host.where} cannot be reached: no answer within {host.connect_timeout:g} s'
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise ComputerUnreachable(f'{host.where} cannot be reached: {_said(error)}') from error


def _said(error: BaseException) -> str:
    return str(error) or 'the connection was closed'


# -- who is there, and who we are -----------------------------------------------------------------------------


def _log_in(
    host: SshHost, sock: socket.socket | paramiko.Channel, way: Way, deadline: float
) -> paramiko.Transport:
    keys = _host_keys(host)
    client = paramiko.Transport(sock, default_window_size=WINDOW)
    way.stack.callback(client.close)
    client.banner_timeout = client.handshake_timeout = client.auth_timeout = max(remaining(deadline), 0.1)
    known = keys.lookup(host.known_as)
    if known is not None:
        _prefer(client, list(known.keys()))
    with _unreachable(host):
        client.start_client(timeout=max(remaining(deadline), 0.1))
        key = client.get_remote_server_key()
    _refuse_revoked(host, key)
    _check_host_key(host, known, key)
    _authenticate(host, client)
    client.set_keepalive(KEEPALIVE)
    client.name = f'treadle-ssh {host.where}'
    way.clients.append(client)
    return client


def _host_keys(host: SshHost) -> paramiko.HostKeys:
    """The keys that are known; lines that are no plain key of a host, or cannot be read, are passed over."""
    keys = paramiko.HostKeys()
    for path in host.known_hosts:
        for line in _lines(path):
            if not line or line.startswith(('#', '@')):
                continue
            try:
                entry = HostKeyEntry.from_line(line)
            except (paramiko.SSHException, InvalidHostKey):
                LOGGER.warning('%s: a line is no host key and is passed over: %.60s', path, line)
                continue
            if entry is not None and entry.hostnames is not None and entry.key is not None:
                for name in entry.hostnames:
                    keys.add(name, entry.key.get_name(), entry.key)
    return keys


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(errors='replace')
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f'the host keys in {str(path)!r} cannot be read: {error}') from error
    return [line.strip() for line in text.splitlines()]


def _refuse_revoked(host: SshHost, key: paramiko.PKey) -> None:
    """A line ``@revoked`` says that a key is known to be in the wrong hands; paramiko passes over such lines."""
    for path in host.known_hosts:
        if any(line.startswith('@revoked') and key.get_base64() in line.split() for line in _lines(path)):
            raise HostKeyError(
                f'{host.where} has shown the host key {key.fingerprint}, which {path} says is revoked; '
                f'nothing was sent to it. Ask its administrators'
            )


def _prefer(client: paramiko.Transport, kinds: list[str]) -> None:
    """Ask for a key of a kind that is known; a computer has several."""
    options = client.get_security_options()
    wanted = {*kinds, *({'rsa-sha2-512', 'rsa-sha2-256'} if 'ssh-rsa' in kinds else ())}
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in wanted)


def _check_host_key(host: SshHost, known: object, key: paramiko.PKey) -> None:
    kind, print_, line = (
        key.get_name(),
        key.fingerprint,
        f'{host.known_as} {key.get_name()} {key.get_base64()}',
    )
    path = host.known_hosts[0] if host.known_hosts else Path('~/.ssh/known_hosts').expanduser()
    add = f"echo '{line}' >> {path}"
    if not known:
        raise HostKeyError(
            f'the host key of {host.where} is not known: it has shown {kind} {print_}. Compare that with what its '
            f'administrators publish, or with `ssh-keygen -lf` on its own console; if it is the same, add it: {add}'
        )
    expected = known.get(kind)  # type: ignore[attr-defined]
    if expected is None or expected.asbytes() != key.asbytes():
        was = ', '.join(f'{name} {each.fingerprint}' for name, each in known.items())  # type: ignore[attr-defined]
        raise HostKeyError(
            f'THE HOST KEY OF {host.where} HAS CHANGED: it has shown {kind} {print_}, and known is {was}. Somebody may '
            f'stand between you and it. Nothing was sent to it. Ask its administrators; if the new key is right, '
            f"replace the old one: ssh-keygen -f {path} -R '{host.known_as}'; {add}"
        )


def _authenticate(host: SshHost, client: paramiko.Transport) -> None:
    tried: list[str] = []
    for what, key in _keys(host, tried):
        try:
            more = client.auth_publickey(host.user, key)
        except paramiko.BadAuthenticationType as error:
            raise AuthenticationFailed(
                f'{host.where} takes no keys, only {", ".join(error.allowed_types)}; have a key accepted there, '
                f'or name another account'
            ) from error
        except paramiko.AuthenticationException:
            tried.append(f'{what} (refused)')
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not tried:
                raise ComputerUnreachable(
                    f'{host.where} broke off while we logged in: {_said(error)}'
                ) from error
            tried.append(f'{what} ({_said(error)})')
            break
        else:
            if not more:
                return
            raise AuthenticationFailed(
                f'{host.where} has taken {what} and wants {", ".join(more)} as well, which nobody is there to give; '
                f'use a key that is enough, or open a ControlMaster and name it by a ProxyCommand'
            )
    raise AuthenticationFailed(
        f'{host.where} does not let us in. Tried: {"; ".join(tried) or "nothing, there is no key"}. '
        f'Is the account {host.user!r} right, and the public key in its ~/.ssh/authorized_keys? '
        f'`ssh {host.alias}` should work without a question'
    )


def _keys(host: SshHost, tried: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """The keys to offer, one after the other: those of files, then those of the agent; says why one cannot be used."""
    locked: list[str] = []
    for path in host.keys:
        if not path.is_file():
            continue
        try:
            yield f'the key {path}', paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError):  # the latter is what cryptography says
            locked.append(
                f'the key {path} (it has a passphrase, and the agent does not hold it: ssh-add {path})'
            )
        except (paramiko.SSHException, UnknownKeyType, ValueError, OSError) as error:
            tried.append(f'the key {path} (cannot be read: {_said(error)})')
    yield from _agent_keys(host)
    tried.extend(locked)


def _agent_keys(host: SshHost) -> Iterator[tuple[str, paramiko.PKey]]:
    if not host.use_agent or not os.environ.get('SSH_AUTH_SOCK'):
        return
    allowed: set[str] | None = None
    if host.agent_only_keys:
        allowed = {text for path in host.keys for text in _public_part(path)}
    try:
        agent = paramiko.Agent()
    except paramiko.SSHException as error:
        LOGGER.warning('the ssh agent cannot be asked: %s', error)
        return
    with contextlib.closing(agent):
        for key in agent.get_keys():
            if allowed is None or key.get_base64() in allowed:
                yield f'the key {key.comment or key.fingerprint} of the agent', key


def _public_part(path: Path) -> list[str]:
    public = path if path.suffix == '.pub' else path.with_name(f'{path.name}.pub')
    try:
        return public.read_text().split()[1:2]
    except OSError:
        return []
