"""What holds for all tests."""

from __future__ import annotations

import signal

pytest_plugins = ['support.services', 'support.stores']

# A shell that runs the tests in the background has their SIGINT ignored, and with it that of all they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
