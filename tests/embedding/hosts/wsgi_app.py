"""A WSGI application without a framework, on the default engine of whichever OS process serves the request."""

import json
import os
from pathlib import Path
from urllib.parse import parse_qs

import leftovers  # noqa: F401 - before Treadle
from work import Double, Waits, increment

import treadle.engine.default
from treadle.engine import Engine, default_engine, run, submit
from treadle.threads import Forked

if 'EXIT_PATIENCE' in os.environ:
    treadle.engine.default.EXIT_PATIENCE = float(os.environ['EXIT_PATIENCE'])

# What an application may do when it is imported, and should not when servers fork afterwards.
STARTS = os.environ.get('STARTS_WHEN_IMPORTED')
ENGINE = Engine(name='explicit').start() if STARTS == 'explicit' else None
if STARTS == 'default':
    default_engine()


def double(query):
    """Block until the process has ended, as legacy code does."""
    return run(Double, n=int(query['n']))['n']


def double_on_explicit_engine(query):
    """The same on an engine that was started when this module was imported."""
    return ENGINE.run(Double, n=int(query['n']))['n']


def call(query):
    return increment(int(query['n']))


def submitted(query):
    return submit(Double, n=int(query['n'])).pid


def waited(query):
    return default_engine().wait(int(query['pid'])).outputs.n


def wait_at_gate(query):
    return run(Waits, gate=Path(query['gate']), metadata={'key': query['gate']})['n']


ROUTES = {
    '/double': double,
    '/double-on-explicit-engine': double_on_explicit_engine,
    '/call': call,
    '/submitted': submitted,
    '/waited': waited,
    '/gate': wait_at_gate,
}


def application(environ, start_response):
    query = {name: values[0] for name, values in parse_qs(environ['QUERY_STRING']).items()}
    try:
        status, answer = '200 OK', ROUTES[environ['PATH_INFO']](query)
    except Forked as error:
        status, answer = '500 Forked', str(error)
    start_response(status, [('Content-Type', 'application/json')])
    return [json.dumps({'answer': answer, 'served_by': os.getpid()}).encode()]
