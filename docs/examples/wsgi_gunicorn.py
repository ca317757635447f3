"""gunicorn's configuration for wsgi_app.py: each worker gets its engine when it starts, not with its first request.

So whatever was left by workers that are gone is taken up at once, also when nobody asks for it.
"""

from treadle.engine import default_engine


def post_worker_init(worker):
    """Called by gunicorn in each worker, after the fork and when the application is loaded."""
    default_engine()
