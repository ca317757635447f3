"""The other script: it knows the same classes, and the store tells the two apart."""

from __future__ import annotations

from duel import main
from forkserver import serve

if __name__ == '__main__':
    serve(main)
