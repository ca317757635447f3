"""The application of wsgi_app.py, with nothing but the standard library: a thread for each request."""

import signal
import socketserver
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from wsgi_app import application


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    """Its end waits for the requests in progress."""

    request_queue_size = 64


class QuietHandler(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, *args):
        pass


def terminate(*_):
    sys.exit(0)  # without a handler SIGTERM ends Python at once, with no exit that Treadle could be called at


signal.signal(signal.SIGTERM, terminate)
try:
    with make_server('127.0.0.1', 0, application, ThreadingServer, QuietHandler) as server:
        print('port', server.server_port, flush=True)
        try:
            server.serve_forever()
        finally:
            print('stops', flush=True)
except KeyboardInterrupt:
    sys.exit(130)
