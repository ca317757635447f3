"""A web application of the old kind that starts long work, and does not lose it.

It counts primes, in blocking code. ``POST /counts`` starts a work chain and answers at once; the client's
``Idempotency-Key`` is the process's key, so a client that did not hear the answer asks again and gets the same
process. ``GET /counts/PID`` says how far it is. The application needs no thread, queue or daemon of its own, and no
framework: any WSGI server runs it, here one with two processes on the same store.

    pip install . gunicorn    # in the checkout
    cd docs/examples
    gunicorn --workers 2 --config wsgi_gunicorn.py wsgi_app

    curl -i -d '{"limit": 3000000}' -H 'Idempotency-Key: first' http://127.0.0.1:8000/counts
    curl http://127.0.0.1:8000/counts/1

Kill a worker with ``kill -9`` while it counts: another one goes on from the last checkpoint.
"""

import json

from treadle.engine import (
    KeyConflict,
    ProcessNotFound,
    WorkChain,
    calcfunction,
    default_engine,
    while_,
)

CHUNK = 100_000


@calcfunction
def count_primes(begin: int, end: int) -> int:
    """The legacy code: it blocks, and knows nothing of Treadle or of the web."""
    sieve = bytearray([1]) * (end - begin)
    for factor in range(2, int(end**0.5) + 1):
        first = max(factor * factor, (begin + factor - 1) // factor * factor)
        sieve[first - begin :: factor] = bytes(len(range(first - begin, len(sieve), factor)))
    return sum(sieve) - max(0, min(end, 2) - begin)  # neither 0 nor 1 is one


class CountPrimes(WorkChain):
    """Count the primes below a limit, chunk by chunk; each chunk is a checkpoint."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('limit', valid_type=int, validator=cls.check)
        spec.output('primes', valid_type=int)
        spec.outline(cls.begin, while_(cls.has_more)(cls.count), cls.end)

    @staticmethod
    def check(limit, port):
        if not 2 <= limit <= 10**9:
            return 'must be from 2 to 1,000,000,000'

    def begin(self):
        self.ctx.done = self.ctx.primes = 0

    def has_more(self):
        return self.ctx.done < self.inputs.limit

    def count(self):
        end = min(self.ctx.done + CHUNK, self.inputs.limit)
        self.ctx.primes += count_primes(self.ctx.done, end)
        self.ctx.done = end

    def end(self):
        self.out('primes', self.ctx.primes)


class Refused(Exception):
    """What the client did wrong: status, and words."""


def start(environ):
    """``POST /counts``: durable when this returns."""
    key = environ.get('HTTP_IDEMPOTENCY_KEY')
    if not key:
        raise Refused('400 Bad Request', 'send an Idempotency-Key, so that asking again starts nothing twice')
    try:
        body = json.loads(environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0)))
        node = default_engine().submit(CountPrimes, body, metadata={'key': key})
    except KeyConflict as error:
        raise Refused('409 Conflict', str(error)) from error
    except (ValueError, TypeError) as error:  # no JSON, no object, or inputs that do not fit
        raise Refused('400 Bad Request', str(error)) from error
    return '202 Accepted', describe(node)


def show(pid):
    """``GET /counts/PID``: from the store, whichever worker runs it."""
    try:
        return '200 OK', describe(default_engine().load(int(pid)))
    except (ProcessNotFound, ValueError) as error:
        raise Refused('404 Not Found', f'there is no count {pid}') from error


def describe(node):
    ended = node.is_terminated  # asked first: when it has ended, nothing changes any more
    answer = {'pid': node.pid, 'state': str(node.state), 'limit': node.inputs.limit}
    if node.is_finished_ok:
        answer['primes'] = node.outputs.primes
    elif ended:
        answer['error'] = str(node.exception or node.exit_message)
    else:
        answer['done'] = CHUNK * sum(chunk.is_finished_ok for chunk in node.called)
    return answer


def application(environ, start_response):
    """The WSGI application."""
    method, path = environ['REQUEST_METHOD'], environ['PATH_INFO'].strip('/').split('/')
    try:
        if method == 'POST' and path == ['counts']:
            status, answer = start(environ)
        elif method == 'GET' and len(path) == 2 and path[0] == 'counts':
            status, answer = show(path[1])
        else:
            raise Refused('404 Not Found', 'there is POST /counts and GET /counts/PID')
    except Refused as refusal:
        status, answer = refusal.args[0], {'error': refusal.args[1]}
    headers = [('Content-Type', 'application/json')]
    if status.startswith('202'):
        headers.append(('Location', f'/counts/{answer["pid"]}'))
    start_response(status, headers)
    return [json.dumps(answer).encode() + b'\n']


if __name__ == '__main__':
    from wsgiref.simple_server import make_server

    with make_server('127.0.0.1', 8000, application) as server:
        server.serve_forever()
