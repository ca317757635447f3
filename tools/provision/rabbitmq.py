"""RabbitMQ."""

from __future__ import annotations

import secrets
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

from .service import Service, ServiceError

_BIN = '/usr/lib/rabbitmq/bin'
_NODE = 'treadle@localhost'

#: Small, and quiet while idle: no scheduler thread spins, waiting for work.
_ERLANG = '+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}'

_SETTINGS = {
    'vm_memory_high_watermark.absolute': '512MiB',
    # a publisher is blocked below this; the default suits a server with a disk of its own
    'disk_free_limit.absolute': '10MB',
}

_AMQP_0_9_1 = b'AMQP\x00\x00\x09\x01'
_METHOD_FRAME = b'\x01'


class RabbitMQ(Service):
    """A RabbitMQ broker, with the user ``guest``, and an Erlang port mapper of its own.

    :param settings: of the broker, by their names in rabbitmq.conf, such as ``consumer_timeout`` (milliseconds);
        they hold from the next start.
    """

    name = 'rabbitmq'
    packages = ('rabbitmq-server',)
    programs = (f'{_BIN}/rabbitmq-server', 'epmd', 'erl_call')
    port_names = ('amqp', 'distribution', 'epmd')
    daemon_names = ('epmd', 'rabbitmq')

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.settings = dict(settings or {})

    @property
    def port(self) -> int:
        """Where it takes AMQP connections."""
        return self.ports['amqp']

    def url(self, vhost: str | None = None) -> str:
        """The URL of a virtual host; without a name, of the one that a broker has from its beginning."""
        server = f'amqp://guest:guest@127.0.0.1:{self.port}'
        return server if vhost is None else f'{server}/{vhost}'

    def create_vhost(self, name: str) -> str:
        """Make a virtual host that ``guest`` may use; returns its URL."""
        self.evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)'
        )
        return self.url(name)

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with all that is in it, and end the connections to it."""
        self.evaluate(f'ok = rabbit_vhost:delete(<<"{name}">>, <<"tests">>)')

    def close_connections(self, vhost: str) -> None:
        """End the connections to a virtual host, as an administrator may."""
        of_vhost = f'(catch rabbit_networking:connection_info(Each, [vhost])) =:= [{{vhost, <<"{vhost}">>}}]'
        each = f'Each <- rabbit_networking:connections(), {of_vhost}'
        self.evaluate(f'[rabbit_networking:close_connection(Each, "closed") || {each}]')

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression in the broker, in a hundredth of the time that ``rabbitmqctl`` takes.

        :returns: the value, as Erlang writes it.
        :raises ServiceError: the expression is wrong, or has raised.
        """
        # Under a name of its own: two callers of one name keep each other out.
        caller = f'caller-{uuid.uuid4().hex[:12]}'
        command: list[str | Path] = [self._program('erl_call'), '-h', caller, '-sname', _NODE, '-e']
        answer = self._call(command, environment=self._erlang(), given=f'{expression}.\n').strip()
        if not answer.startswith('{ok, '):
            raise ServiceError(f'{expression}: {answer}')
        return answer.removeprefix('{ok, ').removesuffix('}')

    def answers(self) -> bool:
        try:
            with socket.create_connection(('127.0.0.1', self.port), 2.0) as client:
                client.sendall(_AMQP_0_9_1)
                return client.recv(1) == _METHOD_FRAME
        except OSError:
            return False

    def environment(self) -> dict[str, str]:
        return {'TREADLE_TEST_RABBITMQ': self.url()}

    def _erlang(self, **more: str) -> dict[str, str]:
        return self._environment(ERL_EPMD_PORT=str(self.ports['epmd']), ERL_EPMD_ADDRESS='127.0.0.1', **more)

    def _prepare(self) -> None:
        cookie = self.folder / '.erlang.cookie'
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        (self.folder / 'enabled_plugins').write_text('[].\n')
        settings = {'listeners.tcp.1': f'127.0.0.1:{self.port}', **_SETTINGS, **self.settings}
        lines = [f'{name} = {value}\n' for name, value in settings.items()]
        (self.folder / 'rabbitmq.conf').write_text(''.join(lines))

    def _launch(self) -> None:
        mapper, broker = self.daemons
        if not mapper.is_running:
            mapper.start([self._program('epmd')], environment=self._erlang())
        if not broker.is_running:
            broker.start([self._program('rabbitmq-server')], environment=self._broker_environment())

    def _broker_environment(self) -> dict[str, str]:
        return self._erlang(
            RABBITMQ_CONF_ENV_FILE='/dev/null',
            RABBITMQ_NODENAME=_NODE,
            RABBITMQ_DIST_PORT=str(self.ports['distribution']),
            RABBITMQ_CONFIG_FILE=str(self.folder / 'rabbitmq.conf'),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(self.folder / 'advanced.config'),
            RABBITMQ_MNESIA_BASE=str(self.folder / 'mnesia'),
            RABBITMQ_LOG_BASE=str(self.folder / 'log'),
            RABBITMQ_LOGS='-',
            RABBITMQ_ENABLED_PLUGINS_FILE=str(self.folder / 'enabled_plugins'),
            RABBITMQ_PID_FILE=str(self.folder / 'broker.pid'),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=_ERLANG,
            # the script then becomes the broker, instead of waiting for it: the recorded pid is the broker's
            RUNNING_UNDER_SYSTEMD='true',
        )
